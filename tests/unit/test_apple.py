"""Apple's GPUs: how they are chosen, how they are checked, and that nothing asks them for float64.

There is none here. What stands for one is the CPU with a model that changes as it moves.
"""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast

from sae_core import language_model, placement
from sae_core.device_check import move_checked
from sae_core.placement import chosen_device, chosen_dtype, in_float64, wide_device
from tests import tiny

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(False, False, "cpu"), (False, True, "mps"), (True, False, "cuda"), (True, True, "cuda")],
)
def test_auto_takes_what_there_is(
    cuda: bool, mps: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert chosen_device("auto").type == chosen
    assert chosen_device("cpu").type == "cpu"
    if mps:
        assert chosen_device("mps").type == "mps"
    else:
        with pytest.raises(ValueError, match="device is mps but PyTorch finds no Apple GPU: use"):
            chosen_device("mps")


def test_sums_in_float64_are_kept_where_there_is_float64() -> None:
    assert chosen_dtype("auto", torch.device("mps")) == torch.float32
    assert wide_device("mps") == wide_device("cpu") == CPU
    assert wide_device("cuda").type == "cuda"
    assert in_float64(torch.ones(2)).dtype == torch.float64


def moves(change: Callable[[torch.Tensor], object]) -> Callable[..., Any]:
    """A device that makes other weights of those of the second layer."""

    def to(self: Gemma2ForCausalLM, *_: Any, **__: Any) -> Gemma2ForCausalLM:
        with torch.no_grad():
            change(self.get_parameter("model.layers.1.mlp.down_proj.weight"))
        return self

    return to


@pytest.mark.parametrize(
    ("change", "right"),
    [
        (lambda w: None, True),
        (lambda w: w.mul_(1 + 1e-6), True),
        (lambda w: w[:4].zero_(), False),
        (lambda w: w.fill_(float("nan")), False),
        (lambda w: w.copy_(w.flip(0)), False),
    ],
    ids=["exact", "rounding", "rows lost", "not a number", "rows in another order"],
)
def test_a_device_that_computes_something_else_is_refused(
    change: Callable[[torch.Tensor], object], right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gemma2ForCausalLM, "to", moves(change))
    model = tiny.make_model()
    if right:
        assert move_checked(model, CPU) is model
    else:
        with pytest.raises(ValueError, match=r"device cpu computes other logits than the CPU"):
            move_checked(model, CPU)


def test_a_model_is_checked_as_it_is_loaded(
    tiny_model: Gemma2ForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny_model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr(language_model, "CHECKED", ("cpu",))
    loaded, _ = language_model.load_language_model(str(tmp_path), torch.float32, "cpu")
    assert not loaded.training
    monkeypatch.setattr(Gemma2ForCausalLM, "to", moves(lambda w: w[:4].zero_()))
    with pytest.raises(ValueError, match=r"they differ by \S+% on 48 tokens.*: give --device cpu"):
        language_model.load_language_model(str(tmp_path), torch.float32, "cpu")


ON_THE_CPU = {
    # Weights as they are read, and as they are saved.
    "sae_core/formats/safetensors_file.py",
    "training/trained_form.py",
    # The index's statistics are where its SAEs are (`index_run`).
    "sae_core/index/statistics.py",
    "sae_core/index/feature_histograms.py",
    "sae_core/index/contexts.py",
    # Used on CUDA and on CPUs alone (`fast_half`).
    "sae_core/index/screening.py",
    # It trains the demo's language model, on CUDA or the CPU.
    "training/lm_model.py",
}


def test_nothing_asks_a_device_for_float64_without_looking() -> None:
    """`in_float64` and `wide_device` know where there is none."""
    asks = []
    files = [*ROOT.glob("sae_core/**/*.py"), *ROOT.glob("training/**/*.py")]
    for file in files + list(ROOT.glob("app/engine/*.py")):
        name = file.relative_to(ROOT).as_posix()
        if name in ON_THE_CPU or file == Path(placement.__file__):
            continue
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and node.attr == "double":
                asks.append(f"{name}:{node.lineno}")
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.float64":
                asks.append(f"{name}:{node.lineno}")
    assert [ask for ask in asks if not _on_the_wide_device(ask)] == []


def _on_the_wide_device(ask: str) -> bool:
    """Whether that line, or one of the two before it, names the device that has float64."""
    name, _, line = ask.partition(":")
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    near = "\n".join(lines[max(0, int(line) - 4) : int(line)])
    return any(word in near for word in ("wide_device", "in_float64", "home"))
