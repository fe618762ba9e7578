"""The largest products by a screened search are those of plain float32 products."""

import pytest
import torch
from torch import Tensor

from sae_core.index.largest_products import ProductRows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("spread", ["wide", "alike", "doubled"])
@pytest.mark.parametrize("group", [32, 3])
def test_screened_products_are_the_plain_ones(
    group: int, spread: str, normed: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where rows are so alike that float16 cannot tell them, and the bound says so; where so
    few are looked at whole, and by groups.
    """
    monkeypatch.setattr("sae_core.index.largest_products._AT_ONCE", 100)
    monkeypatch.setattr("sae_core.index.largest_products._GROUP", group)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(530, 24, generator=generator)
    if spread == "alike":
        rows = 1 + 1e-4 * rows
    elif spread == "doubled":
        rows[200:400] = rows[0] + 1e-3 * rows[200:400]
    rows[7] = 0
    rows = rows.to(dtype)
    vectors = torch.randn(40, 24, generator=generator)
    vectors[3] = 0
    besides, left_out = torch.arange(40), torch.tensor([5, 500])
    plain = ProductRows(rows, left_out, normed=normed, screened=False)
    screened = ProductRows(rows, left_out, normed=normed, screened=True)
    searched = []
    all_of = screened._plain

    def counted(some: Tensor) -> Tensor:
        searched.append(len(some))
        return all_of(some)

    monkeypatch.setattr(screened, "_plain", counted)
    expected = plain.largest(vectors, 6, besides)
    index, value = screened.largest(vectors, 6, besides)
    torch.testing.assert_close(value, expected[1], atol=1e-5, rtol=1e-5)
    assert not bool(torch.isin(index, left_out).any())
    assert not bool((index == besides[:, None]).any())
    exact = vectors @ rows.float().T
    if normed:
        exact = exact / rows.float().norm(dim=1).clamp(min=1e-12)
    torch.testing.assert_close(exact.gather(1, index), value, atol=1e-5, rtol=1e-5)
    # The vector of zeros is alike to all; with ordinary rows hardly any other is in doubt.
    assert sum(searched) >= (38 if spread == "alike" else 1)
    if spread == "wide":
        assert sum(searched) <= 3


@pytest.mark.parametrize("screened", [False, True])
@pytest.mark.parametrize("group", [32, 3])
def test_extremes_are_the_largest_of_either_sign(
    group: int, screened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_core.index.largest_products._GROUP", group)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(530, 24, generator=generator)
    vectors = torch.randn(40, 24, generator=generator)
    left_out = torch.tensor([5, 500])
    found = ProductRows(rows, left_out, screened=screened).extremes(vectors, 6)
    exact = vectors @ rows.T
    for sign, (index, value) in zip((1, -1), found, strict=True):
        expected = (sign * exact).index_fill(1, left_out, -torch.inf).topk(6, dim=1)
        assert torch.equal(index, expected.indices)
        torch.testing.assert_close(value, expected.values, atol=1e-5, rtol=1e-5)
