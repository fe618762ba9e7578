"""The tokens whose pre-activations stand for those of all."""

import pytest
import torch

from sae_core.index import token_sample
from sae_core.index.feature_histograms import deviations
from sae_core.index.selection import priorities
from sae_core.index.token_sample import TokenSample, stride


def sample_of(parts: list[range]) -> TokenSample:
    """Of tokens that are read part after part, each of one number as its input."""
    sample, read = TokenSample(torch.device("cpu")), 0
    for part in parts:
        place = torch.tensor(list(part))
        read += len(part)
        sample.add(place.float()[:, None], priorities(place, 3), place, read)
    return sample


def test_how_many_tokens_one_stands_for() -> None:
    most = token_sample.MOST
    counts = (0, 1, most, most + 1, 2 * most, 2 * most + 1, 4 * most, 4 * most + 1)
    assert [stride(n) for n in counts] == [1, 1, 1, 2, 2, 4, 4, 8]


@pytest.mark.parametrize("tokens", [200, 256, 257, 5000])
def test_the_sample_depends_neither_on_the_order_nor_on_the_parts(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_sample, "MOST", 256)
    whole = sample_of([range(tokens)]).inputs(tokens)[:, 0].tolist()
    chosen = priorities(torch.arange(tokens), 3) % stride(tokens) == 0
    assert whole == torch.arange(tokens)[chosen].tolist()
    assert 80 < len(whole) <= 320
    assert len(whole) == tokens or tokens > 256
    batches = [range(i, min(i + 7, tokens)) for i in range(0, tokens, 7)]
    assert sample_of(batches).inputs(tokens)[:, 0].tolist() == whole
    shares = [sample_of(batches[k::3]) for k in range(3)]
    for share in shares[1:]:
        shares[0].absorb(share.state())
    assert shares[0].inputs(tokens)[:, 0].tolist() == whole
    # What was absorbed is forgotten, and an empty one changes nothing.
    shares[1].clear()
    shares[0].absorb(shares[1].state())
    again = TokenSample(torch.device("cpu"))
    again.load(shares[0].state())
    assert again.inputs(tokens)[:, 0].tolist() == whole


def test_later_rows_come_later() -> None:
    sample = sample_of([range(5)])
    sample.absorb(sample_of([range(3)]).state(), rows=2)
    assert sample.inputs(8)[:, 0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]


@pytest.mark.parametrize("mean", [0.0, 1.0, 100.0, 1e4])
def test_deviations_are_right_of_numbers_far_larger_than_they(mean: float) -> None:
    pre_acts = torch.randn(4, 10_000, generator=torch.Generator().manual_seed(0)) + mean
    expected = pre_acts.double().std(1, correction=0).float()
    torch.testing.assert_close(deviations(pre_acts), expected, rtol=1e-2, atol=0)
