"""GPU tests need a CUDA device; elsewhere they skip and say so."""

import pytest
import torch


@pytest.fixture(autouse=True)
def cuda() -> torch.device:
    """The CUDA device, with exact float32 products."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: run `pytest tests/gpu` on a machine that has one")
    torch.set_float32_matmul_precision("highest")
    return torch.device("cuda")
