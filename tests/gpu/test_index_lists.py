"""Lists of entries above a cut on a CUDA device: the screened product and the kernel.

Against float64 products; what is within rounding of a cut may be on either side of it. Tolerance:
1e-5 of the sizes of the two vectors, as float32 sums of a few thousand numbers have.
"""

import pytest
import torch

from sae_core.config import SAEConfig
from sae_core.index.batch_lists import BatchLists, BatchTokens
from sae_core.index.listed_dots import _gathered, listed_dots
from sae_core.index.listed_entries import PlainLists
from sae_core.index.screening import ScreenedLists
from sae_core.sae import SAE

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
