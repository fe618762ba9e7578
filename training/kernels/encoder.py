"""The encoder's rows: gradients from the entries of each feature, and the update, in Triton.

    dW_enc[f] = sum_t d_t c_t            over active entries, c the centred input

with d_t from `decoder`. Nothing here needs a whole row, so a program takes a slice of the rows of
several features, and adds up on the way its part of W_enc times the gradient of b_enc, which the
gradient of b_dec takes.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false

import triton
import triton.language as tl

from training.kernels.decoder import adam, shrinkage, way_of, write_row


@triton.jit
def update_encoder(
    order,
    start,
    token,
    d_z,
    centred,
    W_enc,
    v_enc,
    m_enc,
    products,
    touched,
    control,
    gathered,
    through_encoder,
    d_model,
    d_sae,
    room,
    BLOCK: tl.constexpr,
    UNROLL: tl.constexpr,
    COPY: tl.constexpr,
    BETA1: tl.constexpr,
    LOG2_BETA1: tl.constexpr,
    BETA2: tl.constexpr,
    LOG2_BETA2: tl.constexpr,
    EPS: tl.constexpr,
):
    """A slice of the rows of every so manieth feature in `order`, which ends with features without
    entries: without a first moment, those are left out. Nothing changes if the entries do not fit
    into their lists.
    """
    if tl.load(start + d_sae) > room:
        return
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = d < d_model
    lr = tl.load(control)
    correction = tl.load(control + 2)
    step = tl.load(control + 3)
    through = tl.zeros([BLOCK], tl.float32)
    rank = tl.program_id(1)
    f = tl.load(order + rank)
    first = tl.load(start + f)
    end = tl.load(start + f + 1)
    while (first < end) | ((BETA1 > 0) & (rank < d_sae)):
        active = tl.load(gathered + 2 * d_sae + f)
        if (active > 0) | (BETA1 > 0):
            at = f * d_model + d
            w = tl.load(W_enc + at, mask=inside, other=0.0, eviction_policy="evict_first")
            v = tl.load(v_enc + at, mask=inside, other=0.0, eviction_policy="evict_first")
            d_b_enc = tl.load(gathered + f)
            since = step - tl.load(touched + f).to(tl.float32)
            dw = tl.zeros([BLOCK], tl.float32)
            for i in range(first, end, UNROLL):
                for j in tl.static_range(UNROLL):
                    slope = tl.load(d_z + i + j, mask=i + j < end, other=0.0)
                    t = tl.load(token + i + j, mask=i + j < end, other=0).to(tl.int64)
                    # 0 for entries that are only near: nothing to read. (As an integer, because
                    # Triton's interpreter cannot spread the result of comparing two floats.)
                    wanted = inside & (slope.to(tl.int32, bitcast=True) != 0)
                    c = tl.load(centred + t * d_model + d, mask=wanted, other=0.0)
                    slope = slope.to(centred.dtype.element_ty).to(tl.float32)
                    dw += slope * c.to(tl.float32)
            through += d_b_enc * w
            shrunk = shrinkage(since, BETA2, LOG2_BETA2)
            way = way_of(dw, m_enc + at, inside, step, BETA1, LOG2_BETA1)
            w, v = adam(w, v, dw, way, shrunk, lr, correction, BETA2, EPS)
            tl.store(v_enc + at, v, mask=inside)
            write_row(W_enc, products, at, inside, w, COPY)
        rank += tl.num_programs(1)
        f = tl.load(order + rank, mask=rank < d_sae, other=0)
        first = tl.load(start + f)
        end = tl.load(start + f + 1, mask=rank < d_sae, other=0)
    mine = through_encoder + tl.program_id(1).to(tl.int64) * d_model
    tl.store(mine + d, through, mask=inside)
