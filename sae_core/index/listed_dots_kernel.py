"""`listed_dots` in Triton; imported only where there is a GPU and Triton."""

# pyright: reportMissingImports=false, reportIndexIssue=false
import triton
import triton.language as tl


@triton.jit
def dots(
    x, rows, bias, feature, token, out, n, d_model, ENTRIES: tl.constexpr, NUMBERS: tl.constexpr
):
    """out[i] = x[token[i]] . rows[feature[i]] + bias[feature[i]], for ENTRIES entries."""
    entry = tl.program_id(0) * ENTRIES + tl.arange(0, ENTRIES)
    listed = entry < n
    f = tl.load(feature + entry, mask=listed, other=0).to(tl.int64)
    t = tl.load(token + entry, mask=listed, other=0).to(tl.int64)
    total = tl.zeros([ENTRIES, NUMBERS], tl.float32)
    for first in range(0, d_model, NUMBERS):
        column = first + tl.arange(0, NUMBERS)
        inside = listed[:, None] & (column < d_model)[None, :]
        mine = tl.load(x + t[:, None] * d_model + column[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
        row = tl.load(rows + f[:, None] * d_model + column[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
        total += mine * row
    value = tl.sum(total, axis=1) + tl.load(bias + f, mask=listed, other=0.0)
    tl.store(out + entry, value, mask=listed)
