"""`listed_sums` in Triton; imported only where there is a GPU and Triton."""

# pyright: reportMissingImports=false, reportIndexIssue=false
import triton
import triton.language as tl


@triton.jit
def sums(rows, feature, value, bounds, out, d_out, ENTRIES: tl.constexpr, NUMBERS: tl.constexpr):
    """out[t] = sum of value[i] * rows[feature[i]] over bounds[t] <= i < bounds[t + 1]; a program
    takes NUMBERS columns of one token, ENTRIES of its entries at a time.
    """
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * NUMBERS + tl.arange(0, NUMBERS)
    inside = column < d_out
    first = tl.load(bounds + token)
    last = tl.load(bounds + token + 1)
    total = tl.zeros([ENTRIES, NUMBERS], tl.float32)
    for start in range(first, last, ENTRIES):
        entry = start + tl.arange(0, ENTRIES)
        listed = entry < last
        f = tl.load(feature + entry, mask=listed, other=0).to(tl.int64)
        v = tl.load(value + entry, mask=listed, other=0.0)
        row = tl.load(
            rows + f[:, None] * d_out + column[None, :],
            mask=listed[:, None] & inside[None, :],
            other=0.0,
        )
        total += v[:, None] * row.to(tl.float32)
    tl.store(out + token * d_out + column, tl.sum(total, axis=0), mask=inside)
