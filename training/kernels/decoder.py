"""The decoder's rows: gradients from the entries of each feature, and the update, in Triton.

A program takes a whole row. With g_t the residual's gradient at token t, a_t the activation and
k_t = K((z_t - threshold) / e),

    d_t           = <g_t, W_dec[f]>                                for active and near entries
    dW_dec[f]     = sum_t a_t g_t - (sum_t a_t d_t) W_dec[f]       the parallel part removed
    db_enc[f]     = sum_t d_t                                      over active entries
    dthreshold[f] = -(1 / e) sum_t k_t (threshold d_t + the penalty's slope)

stay in registers (a warp's, up to a width of 2,304: its sums wait for no other warp), and Adam, the
norm and the copy for the matrix products follow at once: the gradient of the matrix is never in
memory. g is read again for every entry, but its 19 MB (4,096 tokens of width 2,304 in bfloat16)
stay in the cache.

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
def adam(p, v, g, way, shrunk, lr, correction, BETA2: tl.constexpr, EPS: tl.constexpr):
    """The new weights, moved against `way` (see `way_of`), and second moments."""
    new_v = shrunk * v + (1 - BETA2) * g * g
    return p - lr * way / (tl.sqrt(new_v / correction) + EPS), new_v


@triton.jit
def way_of(g, first, inside, step, BETA1: tl.constexpr, LOG2_BETA1: tl.constexpr):
    """What weights move against in step `step`: the gradient, or with BETA1 its moving average,
    which starts at 0 and is made up for that; its memory at `first` is brought up to date.
    """
    way = g
    if BETA1 > 0:
        m = tl.load(first, mask=inside, other=0.0, eviction_policy="evict_first")
        m = BETA1 * m + (1 - BETA1) * g
        tl.store(first, m, mask=inside)
        way = m / (1 - tl.exp2(step * LOG2_BETA1))
    return way


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
    start,
    token,
    value,
    d_z,
    active_total,
    gradient,
    threshold,
    W_dec,
    v_dec,
    m_dec,
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
    room,
    bandwidth,
    HEAD: tl.constexpr,
    TAIL: tl.constexpr,
    KERNEL: tl.constexpr,
    TARGETED: tl.constexpr,
    COPY: tl.constexpr,
    BETA1: tl.constexpr,
    LOG2_BETA1: tl.constexpr,
    BETA2: tl.constexpr,
    LOG2_BETA2: tl.constexpr,
    EPS: tl.constexpr,
):
    """One feature's row of W_dec, the sums in `gathered` (b_enc's and threshold's gradients,
    active, in window), and d_t of its active entries for the encoder. Nothing changes if the
    entries do not fit into their lists.
    """
    if tl.load(start + d_sae) > room:
        return
    f = tl.load(order + tl.program_id(0))
    first = tl.load(start + f)
    end = tl.load(start + f + 1)
    theta = tl.load(threshold + f)
    row = f * d_model
    h = tl.arange(0, HEAD)
    t = HEAD + tl.arange(0, TAIL)
    in_h = h < d_model
    in_t = t < d_model
    some = first < end
    moves = some | (BETA1 > 0)
    w_h = tl.load(W_dec + row + h, mask=in_h & moves, other=0.0, eviction_policy="evict_first")
    w_t = tl.load(W_dec + row + t, mask=in_t & moves, other=0.0, eviction_policy="evict_first")
    slope = tl.load(coefficient) * tl.load(control + 1)
    if TARGETED:
        goal = tl.load(target)
        l0 = tl.load(active_total).to(tl.float32) / batch
        slope = slope * (2 * (l0 / goal - 1) + tl.load(multiplier)) / goal
    slope = slope / batch

    dw_h = tl.zeros([HEAD], tl.float32)
    dw_t = tl.zeros([TAIL], tl.float32)
    parallel = 0.0
    d_b_enc = 0.0
    d_threshold = 0.0
    active = 0.0
    near = 0.0
    at = tl.load(token + first, mask=some, other=0).to(tl.int64) * d_model
    next_h = tl.load(gradient + at + h, mask=in_h & some, other=0.0)
    next_t = tl.load(gradient + at + t, mask=in_t & some, other=0.0)
    at = tl.load(token + first + 1, mask=first + 1 < end, other=0).to(tl.int64) * d_model
    for i in range(first, end):
        # The next entry's numbers are on their way while this one's are added up.
        g_h = next_h.to(tl.float32)
        g_t = next_t.to(tl.float32)
        more = i + 1 < end
        next_h = tl.load(gradient + at + h, mask=in_h & more, other=0.0)
        next_t = tl.load(gradient + at + t, mask=in_t & more, other=0.0)
        at = tl.load(token + i + 2, mask=i + 2 < end, other=0).to(tl.int64) * d_model
        z = tl.load(value + i)
        on = z > theta
        a = tl.where(on, z, 0.0).to(gradient.dtype.element_ty).to(tl.float32)
        dw_h += a * g_h
        dw_t += a * g_t
        d = tl.sum(g_h * w_h, axis=0) + tl.sum(g_t * w_t, axis=0)
        tl.store(d_z + i, tl.where(on, d, 0.0))
        parallel += a * d
        d_b_enc += tl.where(on, d, 0.0)
        k = density(tl.div_rn(z - theta, bandwidth), KERNEL)
        d_threshold -= k * (theta * d + slope)
        active += tl.where(on, 1.0, 0.0)
        near += tl.where(tl.abs(z - theta) < bandwidth / 2, 1.0, 0.0)
    tl.store(gathered + f, d_b_enc)
    tl.store(gathered + d_sae + f, d_threshold / bandwidth)
    tl.store(gathered + 2 * d_sae + f, active)
    tl.store(gathered + 3 * d_sae + f, near)
    if (active == 0) & (BETA1 == 0):
        return

    lr = tl.load(control)
    correction = tl.load(control + 2)
    step = tl.load(control + 3)
    since = step - tl.load(touched + f).to(tl.float32)
    shrunk = shrinkage(since, BETA2, LOG2_BETA2)
    v_h = tl.load(v_dec + row + h, mask=in_h, other=0.0, eviction_policy="evict_first")
    v_t = tl.load(v_dec + row + t, mask=in_t, other=0.0, eviction_policy="evict_first")
    dw_h -= parallel * w_h
    dw_t -= parallel * w_t
    way_h = way_of(dw_h, m_dec + row + h, in_h, step, BETA1, LOG2_BETA1)
    way_t = way_of(dw_t, m_dec + row + t, in_t, step, BETA1, LOG2_BETA1)
    w_h, v_h = adam(w_h, v_h, dw_h, way_h, shrunk, lr, correction, BETA2, EPS)
    w_t, v_t = adam(w_t, v_t, dw_t, way_t, shrunk, lr, correction, BETA2, EPS)
    tl.store(v_dec + row + h, v_h, mask=in_h)
    tl.store(v_dec + row + t, v_t, mask=in_t)
    norm = tl.sqrt(tl.sum(w_h * w_h, axis=0) + tl.sum(w_t * w_t, axis=0))
    write_row(W_dec, products, row + h, in_h, w_h / norm, COPY)
    write_row(W_dec, products, row + t, in_t, w_t / norm, COPY)


def row_blocks(d_model: int) -> tuple[int, int]:
    """HEAD and TAIL: powers of two that together cover a row with little to spare."""
    head = 1 << max(4, d_model.bit_length() - 1)
    return head, triton.next_power_of_2(max(16, d_model - head))
