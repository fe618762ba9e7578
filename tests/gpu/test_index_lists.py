"""Lists of entries above a cut on a CUDA device: the screened product and the kernel.

Against float64 products; what is within rounding of a cut may be on either side of it. Tolerance:
1e-5 of the sizes of the two vectors, as float32 sums of a few thousand numbers have.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
import torch

from sae_core.config import SAEConfig
from sae_core.index import Index, IndexConfig, build_index
from sae_core.index.batch_lists import BatchLists, BatchTokens
from sae_core.index.feature_histograms import window_counts
from sae_core.index.feature_map import principal_places
from sae_core.index.listed_dots import _gathered, listed_dots
from sae_core.index.listed_entries import PlainLists
from sae_core.index.listed_sums import listed_sums
from sae_core.index.screening import ScreenedLists
from sae_core.sae import SAE
from tests import tiny

pytestmark = pytest.mark.gpu


def random_sae(d_model: int, d_sae: int, device: torch.device) -> SAE:
    torch.manual_seed(d_sae)
    sae = SAE.build(SAEConfig(architecture="jumprelu", d_model=d_model, d_sae=d_sae))
    for parameter in sae.parameters():
        parameter.data.normal_()
    sae.W_enc.data *= torch.logspace(-2, 2, d_sae)
    sae.get_parameter("threshold").data = sae.W_enc.norm(dim=0) * 2 + 0.1
    return sae.to(device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("d_model", "d_sae", "tokens"), [(5, 3, 7), (257, 1001, 61), (2304, 5000, 1024)]
)
def test_screened_lists_are_the_plain_ones(
    cuda: torch.device, d_model: int, d_sae: int, tokens: int, dtype: torch.dtype
) -> None:
    sae = random_sae(d_model, d_sae, cuda)
    x = torch.randn(tokens, d_model, device=cuda) + 2 * torch.randn(d_model, device=cuda)
    x[:, 0] *= 100
    x[-1] *= 1e6
    x = x.to(dtype).float()
    screened, plain = ScreenedLists(sae, x), PlainLists(sae)
    exact = sae.W_enc.double().T @ x.double().T + sae.b_enc.double()[:, None]
    error = 1e-5 * sae.W_enc.norm(dim=0)[:, None] * x.norm(dim=1) + 1e-6
    for share in (0.002, 0.2):
        cut = exact.sort(dim=1, descending=True).values[:, int(share * tokens)].float()
        for lists in (plain, screened):
            entries = lists.above(x, cut)
            assert bool(((entries.feature * tokens + entries.token).diff() > 0).all())
            listed = torch.zeros_like(exact, dtype=torch.bool)
            listed[entries.feature, entries.token] = True
            assert bool((listed | (exact < cut[:, None] + error)).all())
            assert bool((~listed | (exact > cut[:, None] - error)).all())
            off = (entries.value - exact[entries.feature, entries.token]).abs()
            assert bool((off <= error[entries.feature, entries.token]).all())


@pytest.mark.parametrize("d_model", [1, 255, 256, 2304])
@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_listed_dots(cuda: torch.device, d_model: int, n: int) -> None:
    rows, x = torch.randn(50, d_model, device=cuda), torch.randn(40, d_model, device=cuda)
    bias = torch.randn(50, device=cuda)
    feature = torch.randint(50, (n,), device=cuda)
    token = torch.randint(40, (n,), device=cuda)
    expected = _gathered(x.double(), rows.double(), feature, token) + bias[feature]
    actual = listed_dots(x, rows, bias, feature, token)
    torch.testing.assert_close(actual.double(), expected, atol=2e-4, rtol=1e-5)


def test_rows_are_summed_by_token(cuda: torch.device) -> None:
    for d_out, n in ((1, 0), (3, 5), (256, 1000), (2304, 5000)):
        rows, value = torch.randn(50, d_out, device=cuda), torch.rand(n, device=cuda)
        feature = torch.randint(50, (n,), device=cuda).sort().values
        token = torch.randint(1, 40, (n,), device=cuda)
        actual = listed_sums(rows, feature, token, value, 41)
        expected = torch.zeros(41, d_out, dtype=torch.float64, device=cuda)
        expected.index_add_(0, token, rows[feature].double() * value[:, None])
        torch.testing.assert_close(actual.double(), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("tokens", [1, 2047, 5000])
def test_histograms_are_those_of_the_cpu(cuda: torch.device, tokens: int) -> None:
    pre = 3 * torch.randn(37, tokens)
    pre[0] = 1e30
    pre[1] = torch.arange(tokens) / 8  # edges of bins
    centre = torch.linspace(0, 2, 37)
    width = 2.0 ** torch.arange(-20, 17)
    expected = window_counts(pre, centre, width)
    actual = window_counts(pre.to(cuda), centre.to(cuda), width.to(cuda))
    assert torch.equal(actual.cpu(), expected)


def test_an_index_of_a_gpu_is_that_of_the_cpu(cuda: torch.device, tmp_path: Path) -> None:
    """Forwards on a stream of their own, facts made beside them, in float32: what is near a
    threshold may be on either side of it, and that is all.
    """
    corpus = tiny.make_corpus(tmp_path / "corpus.parquet", 200)
    made, tokenizer = tiny.make_model(), tiny.make_tokenizer()
    sae, model = tiny.make_sae(made, tokenizer), cast(torch.nn.Module, made)
    cfg = IndexConfig(
        corpus=(str(corpus),),
        tokens=5000,
        context_size=16,
        rows_per_batch=4,
        checkpoint_tokens=1500,
        map="pca",
    )
    found = []
    for device in (torch.device("cpu"), cuda):
        path = tmp_path / f"{device.type}.duckdb"
        build_index(model.to(device), tokenizer, sae.to(device), cfg, path)
        index = Index.open(path)
        try:
            features = [index.feature(feature) for feature in range(sae.cfg.d_sae)]
        finally:
            index.close()
        # Sentences of this text recur: which of equal contexts is shown, rounding decides.
        values = [
            [[round(c["value"], 3) for c in group["contexts"]] for group in each["groups"]]
            for each in features
        ]
        found.append(list(zip([each["active_tokens"] for each in features], values, strict=True)))
    same = sum(one == other for one, other in zip(*found, strict=True))
    assert same >= 0.75 * sae.cfg.d_sae


def test_maps_of_several_saes_are_made_at_once(cuda: torch.device) -> None:
    """On a thread for each, as in a run that indexes several."""
    directions = [torch.randn(200, 16, device=cuda) for _ in range(8)]
    with ThreadPoolExecutor(len(directions)) as threads:
        made = list(threads.map(principal_places, directions))
    for each, (places, _) in zip(directions, made, strict=True):
        assert torch.equal(torch.tensor(places), torch.tensor(principal_places(each)[0]))


def test_a_batch_is_the_same_lists_on_both_devices(cuda: torch.device) -> None:
    sae = random_sae(64, 500, cuda)
    x = torch.randn(300, 64)
    row = torch.arange(300) // 50
    for bar in (torch.full((500,), -torch.inf), torch.full((500,), 0.05)):
        results = []
        for device in (torch.device("cpu"), cuda):
            there = SAE.build(sae.cfg).to(device)
            there.load_state_dict(sae.state_dict())
            columns = [each.to(device) for each in (x, row, torch.arange(300) % 50, row)]
            tokens = BatchTokens(*columns)
            lists = BatchLists(there, there.effective_threshold(), 3)
            results.append(lists.of(tokens, bar.to(device)))
        for here, there in zip(*results, strict=True):
            assert here.feature.tolist() == there.feature.tolist()
            assert here.token.tolist() == there.token.tolist()
            torch.testing.assert_close(there.value.cpu(), here.value, atol=1e-3, rtol=1e-5)
