"""On CUDA: the compiled training step equals the plain one, a killed run resumes bit for bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast

from sae_core.config import Site
from tests.integration.test_train_resume import STEPS, assert_equal, cfg, finish, kill_after
from training.loop import train
from training.losses import Batch, JumpReLULoss, Penalty
from training.sae_trainer import SAETrainer, compiler
from training.train_config import Compile, Plan, RunOptions, TrainConfig
from training.trained_form import initial_parameters

# The compiler warns about what it does itself.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

__all__ = ["cfg"]  # a fixture

CHOICES: tuple[Compile, ...] = ("off", "default")
SHAPES = [(33, 257, 100), (256, 1024, 512)]  # d_model, d_sae, batch


def _raw(shape: tuple[int, int, int], dtype: torch.dtype) -> torch.Tensor:
    d_model, _, batch = shape
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(2 * d_model, d_model, generator=generator)
    on = torch.rand(batch, 2 * d_model, generator=generator) < 0.1
    return (on.float() @ directions).to("cuda", dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_compiled_gradients_equal_plain_ones(
    cuda: torch.device, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    d_model, d_sae, _ = shape
    raw = _raw(shape, dtype)
    scale = raw.float().square().sum(dim=1).mean().sqrt()
    mean = raw.float().mean(dim=0) / scale
    penalty = Penalty(
        torch.tensor(1.0, device=cuda),
        torch.tensor(16.0, device=cuda),
        torch.tensor(0.1, device=cuda),
    )
    batch = Batch(raw=raw, scale=scale, mean=mean, penalty=penalty)
    parameters = initial_parameters(d_model, d_sae, 0.05, 0, cuda)
    result = {}
    for choice in CHOICES:
        loss = JumpReLULoss(bandwidth=0.1, products=dtype, compiler=compiler(choice, cuda))
        gradients, stats = loss.gradients(parameters, batch)
        result[choice] = {
            **{name: g.clone() for name, g in gradients.items()},
            "scalars": stats.scalars.clone(),
            "active": stats.active.clone(),
        }
    # The same products, summed in another order; in bfloat16 the fused code may keep an
    # intermediate that the plain code rounds to 8 bits.
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    for name, plain in result["off"].items():
        error = (result["default"][name] - plain).norm() / plain.norm()
        assert float(error) < tolerance, name


def test_compiled_training_goes_where_plain_training_goes(cuda: torch.device) -> None:
    shape = SHAPES[1]
    raw = _raw(shape, torch.bfloat16)
    scale = float(raw.float().square().sum(dim=1).mean().sqrt())
    measured = {}
    for choice in CHOICES:
        compile_ = compiler(choice, cuda)
        loss = JumpReLULoss(bandwidth=0.03, products=torch.bfloat16, compiler=compile_)
        # Two SAEs take turns, as in a run: neither may see what belongs to the other.
        trainers = [
            SAETrainer(
                Plan(name=str(target), site=Site("resid_post", 0), l0_target=target, lambda_=None),
                initial_parameters(shape[0], shape[1], 0.01, 0, cuda),
                loss,
                coefficient=1.0,
                scale=scale,
                mean=raw.float().mean(dim=0),
                compiler=compile_,
            )
            for target in (16.0, 48.0)
        ]
        for step in range(200):
            control = torch.tensor([1e-3, min(1.0, step / 100), 1 - 0.999 ** (step + 1), 0.0])
            control = control.to(cuda)
            for trainer in trainers:
                trainer.step(raw, control)
        result = [trainer.measured(200, shape[2], 200 * shape[2]) for trainer in trainers]
        measured[choice] = result
        norms = trainers[0].parameters["W_dec"].detach().norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms), atol=1e-5, rtol=0)
    # Adam's first steps are as good as signs: single weights drift apart, the whole does not.
    for plain, compiled in zip(measured["off"], measured["default"], strict=True):
        for name in ("loss", "fvu", "l0", "threshold_p50"):
            assert compiled[name] == pytest.approx(plain[name], rel=0.02), name


def test_recorded_run_equals_the_compiled_one(
    cfg: TrainConfig,
    tmp_path: Path,
    tiny_model: Gemma2ForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    """The graph replays the same kernels: two SAEs, several rounds of the buffer, bit for bit."""
    runs = []
    for choice in ("default", "cuda-graph"):
        options = RunOptions(device="cuda", compile=choice)
        runs.append(replace(cfg, out=str(tmp_path / choice), run=options))
        train(runs[-1])
    assert_equal(*runs)


@pytest.mark.parametrize("choice", ["default", "cuda-graph"])
def test_killed_run_resumes_to_the_same_weights(
    choice: Compile,
    cfg: TrainConfig,
    tmp_path: Path,
    tiny_model: Gemma2ForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Compiled, in bfloat16, in processes of their own."""
    here = replace(cfg, run=RunOptions(checkpoint_every=20, device="cuda", compile=choice))
    whole = replace(here, out=str(tmp_path / "whole"))
    finish(whole)
    first = kill_after(here, 40)
    assert first < STEPS
    assert f"continuing from step {first}" in finish(here)
    assert_equal(whole, here)
