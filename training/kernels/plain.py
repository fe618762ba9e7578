"""The parts of a sparse step in plain PyTorch, on any device: what the kernels must equal."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.jumprelu import kernel_density
from training.kernels.entries import (
    SLACK,
    Entries,
    Gathered,
    Objective,
    Residual,
    Weights,
    starts,
)
from training.losses.base import Penalty, l0_penalty, steered, target_l0_penalty
from training.optim import BETA2, EPS, Control, revived, share_of
from training.recipes import Rule
from training.step import MAX_TOKENS_SINCE_FIRED, Setting, State
from training.trained_form import THRESHOLD_FLOOR


def centre(
    raw: Float[Tensor, "batch d_model"],
    scale: Float[Tensor, ""],
    b_dec: Float[Tensor, " d_model"],
    products: torch.dtype,
) -> Float[Tensor, "batch d_model"]:
    """raw / scale - b_dec, in the dtype of the products."""
    return (raw.float() / scale - b_dec).to(products)


def select(
    z: Float[Tensor, "batch d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    threshold: Float[Tensor, " d_sae"],
    objective: Objective,
    room: int,
) -> Entries:
    """The entries of pre-activations `z`, which lack their bias."""
    value = z.float() + b_enc
    row, feature = (value > threshold).nonzero().unbind(dim=1)
    slack = SLACK * (b_enc.abs() + threshold + objective.reach)
    near = value > threshold - objective.reach - slack
    column, token = near.T.nonzero().unbind(dim=1)
    act = value[row, feature].to(z.dtype)
    return Entries(
        row_start=sorted_starts(row, len(z)),
        feature=padded(feature.int(), room),
        act=padded(act, room),
        column_start=sorted_starts(column, len(b_enc)),
        token=padded(token.int(), room),
        z=padded(value[token, column], room),
    )


def sorted_starts(sorted_ids: Tensor, n: int) -> Tensor:
    """Where the entries of each of `n` ids begin, and their number."""
    counts = torch.zeros(n + 1, dtype=torch.int32, device=sorted_ids.device)
    counts[1:] = torch.bincount(sorted_ids, minlength=n)
    return starts(counts)


def padded(values: Tensor, room: int) -> Tensor:
    """As many of `values` as there is room for, and zeros."""
    out = values.new_zeros(room)
    out[: len(values)] = values[:room]
    return out


def decode(
    entries: Entries,
    W_dec: Float[Tensor, "d_sae d_model"],
    b_dec: Float[Tensor, " d_model"],
    raw: Float[Tensor, "batch d_model"],
    scale: Float[Tensor, ""],
    mean: Float[Tensor, " d_model"],
) -> Residual:
    """The reconstruction's error; `W_dec` in the dtype of the products."""
    row, feature, act = listed(entries.row_start, entries.feature, entries.act)
    x = raw.float() / scale
    recon = torch.zeros_like(x).index_add_(
        0, row, act.float()[:, None] * W_dec[feature.long()].float()
    )
    error = recon + b_dec - x
    sums = torch.stack([error.square().sum(), (x - mean).square().sum()])
    return Residual((2 / len(x) * error).to(W_dec.dtype), sums[None])


def listed(start: Tensor, *lists: Tensor) -> list[Tensor]:
    """The row or column of each entry of `lists`, and `lists` without what is not used."""
    ids = torch.arange(len(start) - 1, device=start.device)
    owner = ids.repeat_interleave(start.diff())
    used = min(len(owner), len(lists[0]))
    return [owner[:used], *(values[:used] for values in lists)]


def update_rows(
    entries: Entries,
    residual: Residual,
    centred: Float[Tensor, "batch d_model"],
    weights: Weights,
    threshold: Float[Tensor, " d_sae"],
    setting: Setting,
    objective: Objective,
    multiplier: Float[Tensor, ""],
    control: Control,
) -> Gathered:
    """Gradients summed over each feature's entries; `weights` moved by one step, in place, but for
    `weights.touched`, and only if the entries fit into their lists.
    """
    batch, products = len(centred), centred.dtype
    column, token, z = listed(entries.column_start, entries.token, entries.z)
    theta = threshold[column]
    rows = residual.gradient[token.long()].float()
    on = z > theta
    d_act = (rows * weights.W_dec[column]).sum(dim=1)
    d_z = torch.where(on, d_act, 0.0)
    act = torch.where(on, z, 0.0).to(products).float()

    def by_feature(values: Tensor) -> Tensor:
        out = torch.zeros(len(threshold), *values.shape[1:], device=z.device)
        return out.index_add_(0, column, values)

    d_enc = by_feature(d_z.to(products).float()[:, None] * centred[token.long()].float())
    d_dec = by_feature(act[:, None] * rows)
    d_dec -= by_feature(act * d_act)[:, None] * weights.W_dec
    k = kernel_density((z - theta) / objective.bandwidth, objective.kernel)
    slope = _slope(entries.row_start[-1] / batch, setting, objective, multiplier, control)
    b_enc = by_feature(d_z)
    gathered = Gathered(
        b_enc=b_enc,
        threshold=by_feature(-(k / objective.bandwidth) * (theta * d_act + slope / batch)),
        active=by_feature(on.float()),
        in_window=by_feature(((z - theta).abs() < objective.bandwidth / 2).float()),
        through_encoder=(b_enc @ weights.W_enc)[None],
    )
    moves = torch.ones_like(gathered.active) if weights.beta1 else gathered.active
    _move_rows(weights, d_enc, d_dec, (moves > 0) & _whole(entries), control)
    return gathered


def _whole(entries: Entries) -> Tensor:
    return entries.column_start[-1] <= len(entries.token)


def _slope(
    l0: Tensor, setting: Setting, objective: Objective, multiplier: Tensor, control: Control
) -> Tensor:
    """The penalty's derivative by L0."""
    slope = setting.coefficient * control[1]
    if objective.targeted:
        slope = slope * (2 * (l0 / setting.target - 1) + multiplier) / setting.target
    return slope


def _adam(
    p: Tensor,
    v: Tensor,
    g: Tensor,
    shrunk: Tensor | float,
    control: Control,
    share: float = 1.0,
    way: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The new weights and second moments; `share`: of the learning rate; `way`: what weights move
    against, `g` if None."""
    new_v = shrunk * v + (1 - BETA2) * g.square()
    way = g if way is None else way
    return p - control[0] * share * way / ((new_v / control[2]).sqrt() + EPS), new_v


def _way(g: Tensor, m: Tensor | None, beta1: float, control: Control) -> Tensor:
    """What weights move against: the gradient, or its moving average `m` (changed in place)."""
    if m is None:
        return g
    m.copy_(beta1 * m + (1 - beta1) * g)
    return m / (1 - beta1 ** control[3])


def _move_rows(
    weights: Weights, d_enc: Tensor, d_dec: Tensor, touched: Tensor, control: Control
) -> None:
    shrunk = BETA2 ** (control[3] - weights.touched[touched])[:, None]
    for p, v, m, copy, g in (
        (weights.W_enc, weights.v_enc, weights.m_enc, weights.enc_products, d_enc),
        (weights.W_dec, weights.v_dec, weights.m_dec, weights.dec_products, d_dec),
    ):
        # With a first moment, all rows move or none.
        way = _way(g, m, weights.beta1, control)[touched] if touched.any() else None
        new, v[touched] = _adam(p[touched], v[touched], g[touched], shrunk, control, way=way)
        if p is weights.W_dec:
            new = new / new.norm(dim=1, keepdim=True)
        p[touched] = new
        copy[touched] = new.to(copy.dtype)


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
    """Move vectors and multiplier by one step, note which rows were touched, and count; nothing of
    it unless the entries fit into their lists.
    """
    if not _whole(entries):
        return
    batch = len(residual.gradient)
    active = gathered.active > 0
    moved = active | (weights.beta1 > 0)
    weights.touched.copy_(torch.where(moved, control[3].to(torch.int32), weights.touched))
    gradients = {
        "b_enc": gathered.b_enc,
        "threshold": gathered.threshold,
        "b_dec": residual.gradient.float().sum(dim=0) - gathered.through_encoder.sum(dim=0),
    }
    for name, g in gradients.items():
        p, v = state.plain[name], state.second[name]
        way = _way(g, state.first.get(name), rule.beta1, control)
        new, new_v = _adam(p, v, g, BETA2, control, share_of(name, p, rule), way)
        p.copy_(new.clamp(min=THRESHOLD_FLOOR) if name == "threshold" else new)
        v.copy_(new_v)

    l0 = entries.row_start[-1] / batch
    penalty = Penalty(setting.coefficient * control[1], setting.target, state.multiplier)
    sparsity = (target_l0_penalty if objective.targeted else l0_penalty)(l0, penalty)
    squared_error, spread = residual.sums.sum(dim=0)
    totals = state.totals
    totals["scalars"] += torch.stack([squared_error / batch + sparsity, squared_error, spread])
    totals["active"] += gathered.active
    totals["in_window"] += gathered.in_window
    since = torch.where(active, 0.0, totals["tokens_since_fired"] + batch)
    totals["tokens_since_fired"].copy_(since.clamp(max=MAX_TOKENS_SINCE_FIRED))
    threshold = state.plain["threshold"]
    threshold.copy_(revived(threshold, totals["tokens_since_fired"], control[0], rule))
    m = steered(state.multiplier, l0, setting.target, setting.gain, control[1], objective.limits)
    state.multiplier.copy_(m)
