"""What the CPU computes, a CUDA device computes too.

Tolerances: float32 sums in another order differ by some 1e-6 relative; after three layers and the
unembedding of the tiny model that is below 1e-4. bfloat16 has 8 bits, so single products differ by
up to 1/256 of their size.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_core.corpus import documents, token_rows
from sae_core.edits import Edit
from sae_core.evaluation import evaluate, take_tokens
from sae_core.generation import generate
from sae_core.jumprelu import KERNELS, Kernel, jumprelu, step
from sae_core.sae import SAE
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text
from training.loop import train
from training.train_config import RunOptions, short_run

# The compiler warns about what it does itself.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


def on(device: Any, model: Any, tokenizer: Any, sae: SAE) -> SplicedLM:
    return SplicedLM(copy.deepcopy(model).to(device), tokenizer, {"tiny": copy.deepcopy(sae)})


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(257, 33), (1, 1), (4096, 127)])
def test_jumprelu_and_step(
    cuda: torch.device, kernel: Kernel, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(shape, generator=generator).to(dtype)
    threshold = torch.rand(shape[1], generator=generator).to(dtype)
    weight = torch.randn(shape, generator=generator).to(dtype)
    for fn in (jumprelu, step):
        actual = []
        for device in ("cpu", cuda):
            zd = z.to(device).requires_grad_()
            td = threshold.to(device).requires_grad_()
            out = fn(zd, td, 0.3, kernel)
            dz, dt = torch.autograd.grad((out * weight.to(device)).sum(), [zd, td])
            actual.append([t.cpu().float() for t in (out.detach(), dz, dt)])
        for a, b in zip(*actual, strict=True):
            exact = dtype == torch.float32
            torch.testing.assert_close(
                a, b, rtol=1e-4 if exact else 2e-2, atol=1e-4 if exact else 0.5
            )


def test_analysis_and_generation(
    cuda: torch.device, tiny_model: Any, tiny_tokenizer: Any, tiny_sae: SAE
) -> None:
    here = on("cpu", tiny_model, tiny_tokenizer, tiny_sae)
    there = on(cuda, tiny_model, tiny_tokenizer, tiny_sae)
    ids = encode_text(tiny_tokenizer, "The river remembers two letters in the winter of 1912.")
    a, b = here.analyse(ids, "tiny"), there.analyse(ids, "tiny")
    for name in ("base_loss", "spliced_loss", "kl", "sq_error", "activation"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-3, atol=1e-4)
    assert a.totals == pytest.approx(b.totals, rel=1e-4, abs=1e-4)
    edit = Edit(feature=3, mode="set", value=4.0)
    options: dict[str, Any] = {"max_new_tokens": 20, "watch": [("tiny", 3)]}
    for x, y in zip(
        generate(here, ids, [[], [edit]], **options),
        generate(there, ids, [[], [edit]], **options),
        strict=True,
    ):
        for s, t in zip(x.tokens, y.tokens, strict=True):
            assert s is not None
            assert t is not None
            assert s.id == t.id
            assert s.after == pytest.approx(t.after, abs=1e-3)


def test_evaluation(
    cuda: torch.device, tiny_model: Any, tiny_tokenizer: Any, tiny_sae: SAE, tiny_corpus: Path
) -> None:
    rows = take_tokens(token_rows(documents([str(tiny_corpus)]), tiny_tokenizer, 24), 600)
    a, b = (
        evaluate(on(device, tiny_model, tiny_tokenizer, tiny_sae), "tiny", rows).as_dict()
        for device in ("cpu", cuda)
    )
    assert a == pytest.approx(b, rel=1e-3, abs=1e-4)


def test_a_compiled_run_learns_what_a_plain_one_does(
    cuda: torch.device, tiny_bundle: Any, tiny_corpus: Path, tmp_path: Path
) -> None:
    """Same data, same start: compiled or not, CUDA or CPU, the SAEs end up alike."""
    results = {}
    for device, compile_ in (("cpu", "off"), ("cuda", "off"), ("cuda", "default")):
        cfg = short_run(
            model=str(tiny_bundle.path / "model"),
            corpus=(str(tiny_corpus),),
            eval_corpus=(str(tiny_corpus),),
            sites=("resid_post/1",),
            d_sae=64,
            l0_targets=(6.0,),
            out=str(tmp_path / f"{device}-{compile_}"),
            tokens=256 * 300,
            batch=256,
            context_size=32,
            buffer_tokens=2048,
            precision="float32",
            run=RunOptions(device=device, compile=compile_),  # pyright: ignore[reportArgumentType]
        )
        (result,) = train(cfg)
        results[device, compile_] = result
    measured = [r.measured for r in results.values()]
    for other in measured[1:]:
        assert other["fvu"] == pytest.approx(measured[0]["fvu"], abs=0.02)
        assert other["l0"] == pytest.approx(measured[0]["l0"], abs=0.5)
