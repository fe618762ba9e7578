"""`window_counts` in Triton; imported only where there is a GPU and Triton."""

# pyright: reportMissingImports=false, reportIndexIssue=false
import triton
import triton.language as tl


@triton.jit
def counts(
    pre_acts,
    centre,
    scale,
    out,
    tokens,
    HALF: tl.constexpr,
    COLUMNS: tl.constexpr,
    PLACES: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    """Histogram of one feature's row of `pre_acts`, AT_ONCE of it at a time.

    `scale` is 1 / width, exact for powers of two; PLACES is a power of two above COLUMNS, and the
    last place is for what is beyond the row.
    """
    feature = tl.program_id(0).to(tl.int64)
    middle = tl.load(centre + feature)
    by = tl.load(scale + feature)
    total = tl.zeros([PLACES], tl.int32)
    for first in range(0, tokens, AT_ONCE):
        token = first + tl.arange(0, AT_ONCE)
        inside = token < tokens
        value = tl.load(pre_acts + feature * tokens + token, mask=inside, other=0.0)
        place = tl.floor((value - middle) * by)
        # Before they are whole numbers: what is far away fits into none.
        place = tl.minimum(tl.maximum(place, -HALF - 1.0), HALF * 1.0)
        place = tl.where(value > middle, place, tl.minimum(place, -1.0))
        column = tl.where(inside, place.to(tl.int32) + HALF + 1, PLACES - 1)
        total += tl.histogram(column, PLACES)
    column = tl.arange(0, PLACES)
    tl.store(out + feature * COLUMNS + column, total, mask=column < COLUMNS)
