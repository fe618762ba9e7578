"""Attention and loading on CUDA: eager's numbers without its arrays, weights on the device."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from sae_core import attention
from sae_core.language_model import load_language_model
from sae_core.splice import SplicedLM

pytestmark = pytest.mark.gpu

HEADS, LENGTH, WINDOW = 8, 512, 128


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    """Eager and chunked, the same weights, caps small enough to matter."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    attention.register()
    config = Gemma2Config(
        vocab_size=1024,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=HEADS,
        num_key_value_heads=4,
        head_dim=64,
        intermediate_size=512,
        sliding_window=WINDOW,
        query_pre_attn_scalar=64,
        attn_logit_softcapping=2.0,
        initializer_range=0.1,
        attn_implementation="eager",  # pyright: ignore[reportCallIssue]
    )
    torch.manual_seed(0)
    made: Any = Gemma2ForCausalLM(config)
    eager = made.eval().requires_grad_(False).to("cuda")
    chunked = copy.deepcopy(eager)
    chunked.set_attn_implementation(attention.CHUNKED)
    return eager, chunked


@torch.no_grad()
def outputs(model: Any, length: int = LENGTH) -> torch.Tensor:
    ids = torch.arange(length, device="cuda")[None] * 7 % 1021 + 3
    return model.model(input_ids=ids.expand(2, -1), use_cache=False).last_hidden_state


def test_chunked_is_eager(
    cuda: torch.device, models: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = outputs(models[0])
    assert torch.equal(outputs(models[1]), exact)
    narrow = [copy.deepcopy(m).bfloat16() for m in models]
    theirs = outputs(narrow[0])
    assert torch.equal(outputs(narrow[1]), theirs)
    monkeypatch.setattr(attention, "MOST_SCORES", 2 * HEADS * LENGTH * 100)
    torch.testing.assert_close(outputs(models[1]), exact, atol=1e-4, rtol=0)
    # In bfloat16 no further from float32 than eager is, give or take a quarter.
    assert (outputs(narrow[1]) - exact).norm() < 1.25 * (theirs - exact).norm()


def test_a_long_prompt_needs_little_memory(cuda: torch.device, models: tuple[Any, Any]) -> None:
    """4,096 tokens in two rows: eager's scores are 1 GB an array in float32, a block's 64 MB."""
    peaks = []
    for model in models:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        outputs(model, 4096)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[0] > 2 * 2**30
    assert peaks[1] < 400 * 2**20


def test_loading_puts_the_weights_on_the_device(
    cuda: torch.device,
    tmp_path: Path,
    models: tuple[Any, Any],
    tiny_model: Any,
    tiny_tokenizer: Any,
    tiny_sae: Any,
) -> None:
    tiny_model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    for device_map in (None, "auto"):
        model, tokenizer = load_language_model(
            str(tmp_path), torch.bfloat16, "cuda", device_map=device_map
        )
        assert {p.device.type for p in model.parameters()} == {"cuda"}
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        lm = SplicedLM(model, tokenizer, {"tiny": copy.deepcopy(tiny_sae)})
        assert lm.analyse([2, *range(40, 90)], "tiny").totals["l0"] > 0


@pytest.mark.filterwarnings("default")  # the compiler's own
def test_flex_attention_is_compared_and_agrees(
    cuda: torch.device, tmp_path: Path, models: tuple[Any, Any], tiny_tokenizer: Any
) -> None:
    models[0].save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    try:
        model, _ = load_language_model(
            str(tmp_path), torch.bfloat16, "cuda", attention="flex_attention"
        )
    except ValueError as error:
        if "does not run here" not in str(error):
            raise
        pytest.skip(str(error))
    assert model.config._attn_implementation == "flex_attention"
