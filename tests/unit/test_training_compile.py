"""torch.compile traces the whole step as one graph and changes nothing; no compiler is needed here.

`aot_eager` runs what was traced with PyTorch's own operations: graphs, gradients and in-place
updates are those of a GPU run, its generated kernels are not (tests/gpu has those).
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

from sae_core.config import Architecture
from training.assembly import make_trainers
from training.losses import Parameters, unchanged
from training.optim import controls
from training.sae_trainer import compiler
from training.step import DenseStep, update_and_count
from training.train_config import LossOptions, TrainConfig

D_MODEL, BATCH = 12, 32
EXTRAS = {
    "frequency": LossOptions(frequency_scale=0.1),
    "anthropic": LossOptions(decoder="free", tanh_scale=4.0, pre_act=3e-6),
}


def _traced(function: Callable[..., Any]) -> Any:
    return torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=False)


def _config(architecture: Architecture, loss: LossOptions) -> TrainConfig:
    return TrainConfig(
        model="m",
        corpus=("c.txt",),
        sites=("resid_post/0",),
        architectures=(architecture,),
        d_sae=40,
        out="o",
        l0_targets=(4,),
        bandwidth=0.2,
        threshold_init=0.1,
        lrs=(0.01,),
        sparsity_warmup=0,
        batch=BATCH,
        tokens=3 * BATCH,
        loss=loss,
    )


def _trained(cfg: TrainConfig, compile_: Callable[..., Any]) -> Parameters:
    """The state after the steps of `cfg`."""
    generator = torch.Generator().manual_seed(0)
    moments = {plan.site: (2.0, torch.zeros(D_MODEL)) for plan in cfg.plans}
    (trainer,) = make_trainers(cfg, moments, torch.bfloat16, compile_)
    step = trainer._step
    assert isinstance(step, DenseStep)
    step._update = compile_(update_and_count)  # on the CPU it is left as it is
    for control in controls(cfg, cfg.lrs)[:, 0]:
        trainer.step(torch.randn(BATCH, D_MODEL, generator=generator).bfloat16(), control)
    return {name: tensor.clone() for name, tensor in trainer.state().items()}


# The compiler warns about what it does itself.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    ("architecture", "loss"),
    [
        ("jumprelu", LossOptions()),
        ("jumprelu", EXTRAS["frequency"]),
        ("jumprelu", EXTRAS["anthropic"]),
        ("gated", LossOptions()),
        ("topk", LossOptions(dead_after=BATCH)),
        ("standard", LossOptions()),
    ],
)
def test_traced_step_equals_the_plain_one(architecture: Architecture, loss: LossOptions) -> None:
    cfg = _config(architecture, loss)
    expected, traced = _trained(cfg, unchanged), _trained(cfg, _traced)
    assert float(expected["totals.active"].sum()) > 0
    for name, tensor in expected.items():
        torch.testing.assert_close(traced[name], tensor, atol=1e-6, rtol=1e-5, msg=name)


def test_compiler_follows_the_options() -> None:
    def function() -> None: ...

    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert compiler("off", gpu)(function) is function
    assert compiler("auto", cpu)(function) is function
    for mode, device in (("auto", gpu), ("default", cpu), ("cuda-graph", gpu)):
        assert compiler(mode, device)(function) is not function  # pyright: ignore[reportArgumentType]


def test_a_compiler_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_function: Callable[..., Any], **_options: Any) -> Callable[..., Any]:
        def call() -> None:
            raise BackendCompilerFailed(
                failing, RuntimeError("PassManager::run failed\nmore"), None
            )

        return call

    monkeypatch.setattr(torch, "compile", failing)
    compiled = compiler("default", torch.device("cpu"))(lambda: None)
    with pytest.raises(ValueError, match=r"--compile off\. \(.*PassManager::run failed\)$"):
        compiled()
