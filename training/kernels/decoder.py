"""The decoder's rows: gradients from the entries of each feature, and the update, in Triton.

A program takes a whole row. With g_t the residual's gradient at token t, a_t the activation and
k_t = K((z_t - threshold) / e),

    d_t           = <g_t, W_dec[f]>                                for active and near entries
    dW_dec[f]     = sum_t a_t g_t - (sum_t a_t d_t) W_dec[f]       the parallel part removed
    db_enc[f]     = sum_t d_t                                      over active entries
    dthreshold[f] = -(1 / e) sum_t k_t (threshold d_t + the penalty's slope)

stay in registers, and Adam, the norm and the copy for the matrix products follow at once: the
gradient of the matrix is never in memory. g is read again for every entry, but its 19 MB (4,096
tokens of width 2,304 in bfloat16) stay in the cache.

A row of d_model numbers is held in two blocks, HEAD and TAIL, both powers of two: 2,304 is
2,048 + 256. Features are taken in the order of their number of entries, the longest first, so that
no long one is left for the end.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false

import triton
import triton.language as tl

_SD = tl.constexpr(12**-0.5)


@triton.jit
def density(u, KERNEL: tl.constexpr):
    """As `sae_core.jumprelu.kernel_density`."""
    size = tl.abs(u)
    if KERNEL == "rectangle":
        k = tl.where(size < 0.5, 1.0, 0.0)
    elif KERNEL == "triangular":
        k = tl.maximum(1 - size / (6**0.5 * _SD), 0.0) / (6**0.5 * _SD)
    elif KERNEL == "epanechnikov":
        u = u / (5**0.5 * _SD)
        k = tl.maximum(1 - u * u, 0.0) * (0.75 / (5**0.5 * _SD))
    else:
        tl.static_assert(KERNEL == "gaussian")
        u = u / _SD
        k = tl.exp(-0.5 * u * u) * (0.3989422804014327 / _SD)
    return k


@triton.jit
def adam(p, v, g, shrunk, lr, correction, BETA2: tl.constexpr, EPS: tl.constexpr):
    """The new weights and second moments."""
    new_v = shrunk * v + (1 - BETA2) * g * g
    return p - lr * g / (tl.sqrt(new_v / correction) + EPS), new_v


@triton.jit
def shrinkage(since, BETA2: tl.constexpr, LOG2_BETA2: tl.constexpr):
    """BETA2 to the power of `since`; exact for 1, which is what it mostly is."""
    return tl.where(since == 1, BETA2, tl.exp2(since * LOG2_BETA2))


@triton.jit
def write_row(p, products, at, inside, value, COPY: tl.constexpr):
    """Weights, and their copy for the products."""
    tl.store(p + at, value, mask=inside)
    if COPY:
        tl.store(products + at, value.to(products.dtype.element_ty), mask=inside)


@triton.jit
def update_decoder(
    order,
    number,
    start,
    token,
    value,
    d_z,
    active_total,
    gradient,
    threshold,
    W_dec,
    v_dec,
    products,
    touched,
    control,
    coefficient,
    target,
    multiplier,
    gathered,
    batch,
    d_model,
    d_sae,
    bandwidth,
    HEAD: tl.constexpr,
    TAIL: tl.constexpr,
    UNROLL: tl.constexpr,
    KERNEL: tl.constexpr,
    TARGETED: tl.constexpr,
    COPY: tl.constexpr,
    BETA2: tl.constexpr,
    LOG2_BETA2: tl.constexpr,
    EPS: tl.constexpr,
):
    """One feature's row of W_dec, the sums in `gathered` (b_enc's and threshold's gradients,
    active, in window), and d_t of its active entries for the encoder.
    """
    n = tl.load(number + tl.program_id(0))
    if n == 0:
        return
    f = tl.load(order + tl.program_id(0))
    first = tl.load(start + f)
    end = first + n
    theta = tl.load(threshold + f)
    row = f * d_model
    h = tl.arange(0, HEAD)
    t = HEAD + tl.arange(0, TAIL)
    in_h = h < d_model
    in_t = t < d_model
    w_h = tl.load(W_dec + row + h, mask=in_h, other=0.0, eviction_policy="evict_first")
    w_t = tl.load(W_dec + row + t, mask=in_t, other=0.0, eviction_policy="evict_first")
    slope = tl.load(coefficient) * tl.load(control + 1)
    if TARGETED:
        goal = tl.load(target)
        l0 = tl.load(active_total).to(tl.float32) / batch
        slope = slope * (2 * (l0 / goal - 1) + tl.load(multiplier)) / goal
    slope = slope / batch

    dw_h = tl.zeros([HEAD], tl.float32)
    dw_t = tl.zeros([TAIL], tl.float32)
    parallel = tl.zeros([UNROLL], tl.float32)
    d_b_enc = tl.zeros([UNROLL], tl.float32)
    d_threshold = tl.zeros([UNROLL], tl.float32)
    active = tl.zeros([UNROLL], tl.float32)
    near = tl.zeros([UNROLL], tl.float32)
    for i in range(first, end, UNROLL):
        entry = i + tl.arange(0, UNROLL)
        listed = entry < end
        at = tl.load(token + entry, mask=listed, other=0).to(tl.int64)[:, None] * d_model
        z = tl.load(value + entry, mask=listed, other=float("-inf"))
        g_h = tl.load(gradient + at + h[None, :], mask=listed[:, None] & in_h[None, :], other=0.0)
        g_t = tl.load(gradient + at + t[None, :], mask=listed[:, None] & in_t[None, :], other=0.0)
        g_h = g_h.to(tl.float32)
        g_t = g_t.to(tl.float32)
        on = z > theta
        a = tl.where(on, z, 0.0).to(gradient.dtype.element_ty).to(tl.float32)
        dw_h += tl.sum(a[:, None] * g_h, axis=0)
        dw_t += tl.sum(a[:, None] * g_t, axis=0)
        d = tl.sum(g_h * w_h[None, :], axis=1) + tl.sum(g_t * w_t[None, :], axis=1)
        tl.store(d_z + entry, tl.where(on, d, 0.0), mask=listed)
        k = tl.where(listed, density(tl.div_rn(z - theta, bandwidth), KERNEL), 0.0)
        parallel += a * d
        d_b_enc += tl.where(on, d, 0.0)
        d_threshold -= k * (theta * d + slope)
        active += tl.where(on, 1.0, 0.0)
        near += tl.where(tl.abs(z - theta) < bandwidth / 2, 1.0, 0.0)
    n_active = tl.sum(active, axis=0)
    tl.store(gathered + f, tl.sum(d_b_enc, axis=0))
    tl.store(gathered + d_sae + f, tl.sum(d_threshold, axis=0) / bandwidth)
    tl.store(gathered + 2 * d_sae + f, n_active)
    tl.store(gathered + 3 * d_sae + f, tl.sum(near, axis=0))
    if n_active == 0:
        return

    lr = tl.load(control)
    correction = tl.load(control + 2)
    since = tl.load(control + 3) - tl.load(touched + f).to(tl.float32)
    shrunk = shrinkage(since, BETA2, LOG2_BETA2)
    v_h = tl.load(v_dec + row + h, mask=in_h, other=0.0, eviction_policy="evict_first")
    v_t = tl.load(v_dec + row + t, mask=in_t, other=0.0, eviction_policy="evict_first")
    along = tl.sum(parallel, axis=0)
    w_h, v_h = adam(w_h, v_h, dw_h - along * w_h, shrunk, lr, correction, BETA2, EPS)
    w_t, v_t = adam(w_t, v_t, dw_t - along * w_t, shrunk, lr, correction, BETA2, EPS)
    tl.store(v_dec + row + h, v_h, mask=in_h)
    tl.store(v_dec + row + t, v_t, mask=in_t)
    norm = tl.sqrt(tl.sum(w_h * w_h, axis=0) + tl.sum(w_t * w_t, axis=0))
    write_row(W_dec, products, row + h, in_h, w_h / norm, COPY)
    write_row(W_dec, products, row + t, in_t, w_t / norm, COPY)


def row_blocks(d_model: int) -> tuple[int, int]:
    """HEAD and TAIL: powers of two that together cover a row with little to spare."""
    head = 1 << max(4, d_model.bit_length() - 1)
    return head, triton.next_power_of_2(max(16, d_model - head))
