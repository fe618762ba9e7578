"""Biases, thresholds and the batch's statistics, in Triton: vectors, in two small kernels."""

# pyright: reportMissingImports=false, reportIndexIssue=false

import triton
import triton.language as tl

from training.kernels.decoder import adam, way_of
from training.kernels.entries import Entries, Gathered, Objective, Residual, Weights
from training.kernels.update import first_moment
from training.optim import BETA2, EPS, Control
from training.recipes import Rule
from training.step import MAX_TOKENS_SINCE_FIRED, Setting, State
from training.trained_form import THRESHOLD_FLOOR

_FEATURES = 256
_WIDTH = 16
_ROWS = 256
_SUMS = 2048


@triton.jit
def _per_feature(
    b_enc,
    threshold,
    v_b_enc,
    v_threshold,
    m_b_enc,
    m_threshold,
    gathered,
    active,
    in_window,
    tokens_since_fired,
    touched,
    control,
    start,
    batch,
    d_sae,
    room,
    vector_rate,
    revive,
    dead_tokens,
    FLOOR: tl.constexpr,
    LONGEST: tl.constexpr,
    BETA1: tl.constexpr,
    LOG2_BETA1: tl.constexpr,
    BETA2: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The update of b_enc and threshold, and the statistics of each feature; nothing if the
    entries do not fit into their lists."""
    if tl.load(start + d_sae) > room:
        return
    f = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = f < d_sae
    lr = tl.load(control) * vector_rate
    correction = tl.load(control + 2)
    step = tl.load(control + 3)

    g = tl.load(gathered + f, mask=inside, other=0.0)
    p = tl.load(b_enc + f, mask=inside, other=0.0)
    v = tl.load(v_b_enc + f, mask=inside, other=0.0)
    way = way_of(g, m_b_enc + f, inside, step, BETA1, LOG2_BETA1)
    p, v = adam(p, v, g, way, BETA2, lr, correction, BETA2, EPS)
    tl.store(b_enc + f, p, mask=inside)
    tl.store(v_b_enc + f, v, mask=inside)

    now = tl.load(gathered + 2 * d_sae + f, mask=inside, other=0.0)
    before = tl.load(active + f, mask=inside, other=0.0)
    tl.store(active + f, before + now, mask=inside)
    since = tl.load(tokens_since_fired + f, mask=inside, other=0.0)
    since = tl.where(now > 0, 0.0, tl.minimum(since + batch, LONGEST))
    tl.store(tokens_since_fired + f, since, mask=inside)
    tl.store(
        touched + f,
        tl.zeros([BLOCK], tl.int32) + step.to(tl.int32),
        mask=inside & ((now > 0) | (BETA1 > 0)),
    )

    g = tl.load(gathered + d_sae + f, mask=inside, other=0.0)
    p = tl.load(threshold + f, mask=inside, other=0.0)
    v = tl.load(v_threshold + f, mask=inside, other=0.0)
    way = way_of(g, m_threshold + f, inside, step, BETA1, LOG2_BETA1)
    p, v = adam(p, v, g, way, BETA2, lr, correction, BETA2, EPS)
    p = tl.maximum(p, FLOOR)
    lower = tl.maximum(p * (1 - revive * lr), FLOOR)
    tl.store(threshold + f, tl.where(since >= dead_tokens, lower, p), mask=inside)
    tl.store(v_threshold + f, v, mask=inside)

    now = tl.load(gathered + 3 * d_sae + f, mask=inside, other=0.0)
    before = tl.load(in_window + f, mask=inside, other=0.0)
    tl.store(in_window + f, before + now, mask=inside)


@triton.jit
def _per_dimension(
    b_dec,
    v_b_dec,
    m_b_dec,
    gradient,
    through_encoder,
    sums,
    scalars,
    active_total,
    column_total,
    control,
    coefficient,
    target,
    multiplier,
    gain,
    batch,
    parts,
    sum_parts,
    d_model,
    room,
    b_dec_rate,
    TARGETED: tl.constexpr,
    MOST: tl.constexpr,
    BOUND: tl.constexpr,
    BETA1: tl.constexpr,
    LOG2_BETA1: tl.constexpr,
    BETA2: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    SUMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The update of b_dec; the last program adds up the batch's scalars and moves the
    multiplier. Nothing changes if the entries do not fit into their lists."""
    if tl.load(column_total) > room:
        return
    row = tl.arange(0, ROWS)
    if tl.program_id(0) == tl.num_programs(0) - 1:
        squares = tl.zeros([SUMS], tl.float32)
        spreads = tl.zeros([SUMS], tl.float32)
        for first in range(0, sum_parts, SUMS):
            part = first + tl.arange(0, SUMS)
            squares += tl.load(sums + 2 * part, mask=part < sum_parts, other=0.0)
            spreads += tl.load(sums + 2 * part + 1, mask=part < sum_parts, other=0.0)
        squared_error = tl.sum(squares, axis=0)
        l0 = tl.load(active_total).to(tl.float32) / batch
        penalty = tl.load(coefficient) * tl.load(control + 1)
        if TARGETED:
            away = l0 / tl.load(target) - 1
            m = tl.load(multiplier)
            penalty = penalty * (away * away + m * away)
            if tl.load(control + 1) >= 1:
                away = tl.minimum(tl.maximum(away, -MOST), MOST)
                m = tl.minimum(tl.maximum(m + tl.load(gain) * away, -BOUND), BOUND)
                tl.store(multiplier, m)
        else:
            penalty = penalty * l0
        tl.store(scalars, tl.load(scalars) + squared_error / batch + penalty)
        tl.store(scalars + 1, tl.load(scalars + 1) + squared_error)
        tl.store(scalars + 2, tl.load(scalars + 2) + tl.sum(spreads, axis=0))
    else:
        d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = d < d_model
        total = tl.zeros([ROWS, BLOCK], tl.float32)
        for first in range(0, batch, ROWS):
            at = (first + row)[:, None]
            here = (at < batch) & inside[None, :]
            at = at.to(tl.int64) * d_model + d[None, :]
            total += tl.load(gradient + at, mask=here, other=0.0).to(tl.float32)
        for first in range(0, parts, ROWS):
            at = (first + row)[:, None]
            here = (at < parts) & inside[None, :]
            at = at.to(tl.int64) * d_model + d[None, :]
            total -= tl.load(through_encoder + at, mask=here, other=0.0)
        p = tl.load(b_dec + d, mask=inside, other=0.0)
        v = tl.load(v_b_dec + d, mask=inside, other=0.0)
        lr, correction = tl.load(control) * b_dec_rate, tl.load(control + 2)
        g = tl.sum(total, axis=0)
        way = way_of(g, m_b_dec + d, inside, tl.load(control + 3), BETA1, LOG2_BETA1)
        p, v = adam(p, v, g, way, BETA2, lr, correction, BETA2, EPS)
        tl.store(b_dec + d, p, mask=inside)
        tl.store(v_b_dec + d, v, mask=inside)


def finish(
    state: State,
    setting: Setting,
    objective: Objective,
    weights: Weights,
    entries: Entries,
    residual: Residual,
    gathered: Gathered,
    control: Control,
    rule: Rule,
) -> None:
    """As `plain.finish`."""
    p, v, totals = state.plain, state.second, state.totals
    m = state.first or v  # not read without a first moment
    beta1 = first_moment(rule.beta1)
    batch, d_model = residual.gradient.shape
    d_sae, room = len(p["b_enc"]), len(entries.token)
    _per_feature[(triton.cdiv(d_sae, _FEATURES),)](
        p["b_enc"],
        p["threshold"],
        v["b_enc"],
        v["threshold"],
        m["b_enc"],
        m["threshold"],
        gathered.b_enc,  # the first of four vectors, one after another
        totals["active"],
        totals["in_window"],
        totals["tokens_since_fired"],
        weights.touched,
        control,
        entries.column_start,
        batch,
        d_sae,
        room,
        float(rule.vector_rate),
        float(rule.revive),
        float(rule.dead_tokens),
        FLOOR=THRESHOLD_FLOOR,
        LONGEST=MAX_TOKENS_SINCE_FIRED,
        **beta1,
        BETA2=BETA2,
        EPS=EPS,
        BLOCK=_FEATURES,
    )
    _per_dimension[(triton.cdiv(d_model, _WIDTH) + 1,)](
        p["b_dec"],
        v["b_dec"],
        m["b_dec"],
        residual.gradient,
        gathered.through_encoder,
        residual.sums,
        totals["scalars"],
        entries.row_start[-1:],
        entries.column_start[-1:],
        control,
        setting.coefficient,
        setting.target,
        state.multiplier,
        setting.gain,
        batch,
        len(gathered.through_encoder),
        len(residual.sums),
        d_model,
        room,
        float(rule.b_dec_rate),
        TARGETED=objective.targeted,
        MOST=objective.limits.most,
        BOUND=objective.limits.bound,
        **beta1,
        BETA2=BETA2,
        EPS=EPS,
        ROWS=_ROWS,
        SUMS=_SUMS,
        BLOCK=_WIDTH,
    )
