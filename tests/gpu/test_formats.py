"""SAEs read straight onto the GPU are those read on the CPU."""

from pathlib import Path

import pytest
import torch

from sae_core.config import Architecture
from sae_core.formats import WRITTEN, read_sae, write_sae
from tests.formats_support import inputs, random_sae

ARCHITECTURES: dict[str, Architecture] = {
    "sparsify": "topk",
    "goodfire": "standard",
    "hook_z": "standard",
}
# Folded or taken to another power, in another order of summation.
ROUNDED = {
    "sparsify": {"b_enc"},
    "hook_z": {"b_enc"},
    "llama_scope": {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"},
}


@pytest.mark.parametrize("to", WRITTEN)
def test_an_sae_is_read_onto_the_device(to: str, cuda: torch.device, tmp_path: Path) -> None:
    sae = random_sae(ARCHITECTURES.get(to, "jumprelu"), transcoder=to == "circuit_tracer")
    write_sae(sae.to(cuda), tmp_path / to, to)
    on_gpu, here = read_sae(tmp_path / to, cuda), read_sae(tmp_path / to)
    for name, parameter in here.named_parameters():
        result = on_gpu.get_parameter(name)
        assert result.device.type == "cuda"
        if name in ROUNDED.get(to, ()):
            torch.testing.assert_close(result.cpu(), parameter)
        else:
            assert torch.equal(result.cpu(), parameter), name
    acts = on_gpu.encode(inputs().to(cuda)).cpu()
    torch.testing.assert_close(acts, here.encode(inputs()), atol=1e-5, rtol=1e-5)
    assert on_gpu.cfg == here.cfg
