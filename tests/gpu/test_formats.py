"""SAEs read straight onto the GPU are those read on the CPU."""

from pathlib import Path

import pytest
import torch

from sae_core.formats import FORMATS, read_sae, write_sae
from tests.formats_support import inputs, random_sae


@pytest.mark.parametrize("to", FORMATS)
def test_an_sae_is_read_onto_the_device(to: str, cuda: torch.device, tmp_path: Path) -> None:
    sae = random_sae("topk" if to == "sparsify" else "jumprelu")
    write_sae(sae.to(cuda), tmp_path / to, to)
    on_gpu, here = read_sae(tmp_path / to, cuda), read_sae(tmp_path / to)
    for name, parameter in here.named_parameters():
        found = on_gpu.get_parameter(name)
        assert found.device.type == "cuda"
        if to == "sparsify" and name == "b_enc":  # folded, in another order of summation
            torch.testing.assert_close(found.cpu(), parameter)
        else:
            assert torch.equal(found.cpu(), parameter), name
    acts = on_gpu.encode(inputs().to(cuda)).cpu()
    torch.testing.assert_close(acts, here.encode(inputs()), atol=1e-5, rtol=1e-5)
    assert on_gpu.cfg == here.cfg
