"""Loading a language model: nothing is filled in, swapped or left out in silence."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AttentionInterface, AttentionMaskInterface, LlamaConfig, LlamaForCausalLM

from sae_core import attention, language_model
from sae_core.attention import CHUNKED, chunked_attention, mask_rule
from sae_core.language_model import load_language_model
from tests import tiny

ROOT = Path(__file__).parents[2]
IDS = torch.tensor([[2, *range(40, 80)]])


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any) -> Path:
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def refused(name: str | Path, match: str, **options: Any) -> str:
    with pytest.raises(ValueError, match=match) as caught:
        load_language_model(str(name), torch.float32, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 300
    return sentence


def test_it_is_the_model_that_was_saved(folder: Path, tiny_model: Any, tiny_tokenizer: Any) -> None:
    model, tokenizer = load_language_model(str(folder), torch.float32)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert tokenizer.get_vocab() == tiny_tokenizer.get_vocab()
    assert model.config._attn_implementation == CHUNKED
    assert torch.equal(logits(model), logits(tiny_model))
    narrow, _ = load_language_model(str(folder), torch.bfloat16)
    assert {parameter.dtype for parameter in narrow.parameters()} == {torch.bfloat16}


def test_a_device_map_places_modules(folder: Path, tiny_model: Any) -> None:
    for device_map in ("auto", {"model": "cpu", "lm_head": "cpu"}):
        model, _ = load_language_model(str(folder), torch.float32, device_map=device_map)
        assert torch.equal(logits(model), logits(tiny_model))


@pytest.mark.parametrize("chosen", ["eager", "chunked"])
def test_attention_by_name(folder: Path, tiny_model: Any, chosen: Any) -> None:
    model, _ = load_language_model(str(folder), torch.float32, attention=chosen)
    expected = CHUNKED if chosen == "chunked" else chosen
    assert model.config._attn_implementation == expected
    assert torch.equal(logits(model), logits(tiny_model))


def test_sdpa_is_refused_where_logits_are_capped_only(folder: Path, tmp_path: Path) -> None:
    sentence = refused(folder, "cap on attention logits", attention="sdpa")
    assert sentence.endswith("choose auto.")
    config = LlamaConfig(
        vocab_size=tiny.VOCAB_SIZE,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    tiny.make_tokenizer().save_pretrained(tmp_path / "llama")
    result = {}
    for chosen in ("auto", "sdpa", "eager", "chunked"):
        model, _ = load_language_model(str(tmp_path / "llama"), torch.float32, attention=chosen)
        result[chosen] = model.config._attn_implementation, logits(model)
    assert [name for name, _ in result.values()] == ["sdpa", "sdpa", "eager", CHUNKED]
    assert torch.equal(result["chunked"][1], result["eager"][1])
    torch.testing.assert_close(result["auto"][1], result["eager"][1], atol=1e-5, rtol=0)


def _no_cap(*args: Any, softcap: float, **options: Any) -> Any:
    assert softcap
    return chunked_attention(*args, **options)


def _no_window(*args: Any, mask_function: Any, **options: Any) -> Any:
    return mask_rule(*args, mask_function=lambda _row, _head, q, k: k <= q, **options)


@pytest.mark.parametrize(
    ("function", "mask", "agrees"),
    [
        (chunked_attention, mask_rule, True),
        (_no_cap, mask_rule, False),
        (chunked_attention, _no_window, False),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_implementations_are_compared_first(
    folder: Path,
    function: Callable[..., Any],
    mask: Callable[..., Any],
    agrees: bool,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stand-ins for an installed implementation; the cap of 50 is far above the scores here."""
    monkeypatch.setitem(AttentionInterface._global_mapping, "flex_attention", function)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, "flex_attention", mask)
    if agrees:
        model, _ = load_language_model(str(folder), dtype, attention="flex_attention")
        assert model.config._attn_implementation == "flex_attention"
        assert model.model.layers[0].self_attn.attn_logit_softcapping == 50.0
    else:
        with pytest.raises(ValueError, match=r"differs from the model's own by .* choose auto"):
            load_language_model(str(folder), dtype, attention="flex_attention")


def test_an_implementation_that_is_not_installed(folder: Path) -> None:
    refused(folder, "FlashAttention2|flash_attn|flash", attention="flash_attention_2")


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "there is no such folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "has no config.json")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(folder, "incomplete metadata, file not fully covered")
    tensors = load_file_of(whole, tmp_path)
    lost = "model.layers.1.mlp.up_proj.weight"
    save_file({k: v for k, v in tensors.items() if k != lost}, weights, {"format": "pt"})
    refused(folder, f"1 weights are missing, {lost} the first")
    save_file(tensors | {lost: torch.zeros(3, 3)}, weights, {"format": "pt"})
    refused(folder, "cannot be loaded")
    weights.unlink()
    refused(folder, "no file named model.safetensors")


def load_file_of(content: bytes, tmp_path: Path) -> dict[str, torch.Tensor]:
    (tmp_path / "whole.safetensors").write_bytes(content)
    return load_file(tmp_path / "whole.safetensors")


def test_a_missing_tokenizer_is_not_made_up(folder: Path) -> None:
    """transformers makes an empty one from the model's type alone."""
    for file in folder.glob("*token*"):
        file.unlink()
    refused(folder, "it has no tokenizer")


def test_a_config_that_is_none_or_of_something_else(folder: Path) -> None:
    config = folder / "config.json"
    for written, match in (
        ("{", "not a valid JSON"),
        (json.dumps({"model_type": "vit"}), "Unrecognized configuration class"),
        (json.dumps({"model_type": "no-such-model"}), "model type `no-such-model`"),
        (json.dumps({"auto_map": {"AutoConfig": "code.Config"}}), "contains custom code"),
    ):
        config.write_text(written)
        refused(folder, match)


def test_hub_names(tmp_path: Path, folder: Path) -> None:
    """Offline, as every test: what is asked for is not there, whatever its form."""
    for name in ("owner/model", "owner/model@abc123"):
        refused(name, f"{name} is not among the files downloaded before")
    refused("a/b/c", "no such folder, and that is no hub id")
    refused("owner/model@one", "names a revision, and revision is two", revision="two")
    assert language_model._split("owner/model@main", None) == ("owner/model", "main")
    with_at = tmp_path / "model@home"
    folder.rename(with_at)
    assert load_language_model(str(with_at), torch.float32)[0].config.model_type == "gemma2"


ANALYSE = """
import re
from pathlib import Path
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM
from sae_core import attention, head, splice
from sae_core.config import SAEConfig, Site
from sae_core.sae import SAE
from sae_core.splice import SplicedLM
from tests import tiny

torch.set_num_threads(1)
attention.MOST_SCORES = head._CHUNK = splice._ENCODED = 2**20  # 4 MB in float32
attention.register()
model = Gemma2ForCausalLM(Gemma2Config(
    vocab_size=32_000, hidden_size=32, num_hidden_layers=2, num_attention_heads=8,
    num_key_value_heads=2, head_dim=8, intermediate_size=32, max_position_embeddings=8192,
    attn_implementation=attention.CHUNKED, pad_token_id=0, eos_token_id=1, bos_token_id=2))
site = Site("resid_post", 0)
sae = SAE.build(SAEConfig(architecture="jumprelu", d_model=32, d_sae=64, site=site))
sae.W_enc.data.normal_()
sae.W_dec.data.normal_()
lm = SplicedLM(model, tiny.make_tokenizer(), {"sae": sae})

def peak():
    # Its own: getrusage's would be that of the process which has started it, if that is larger.
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

lm.analyse([2, *range(3, 50)], "sae")
before = peak()
found = lm.analyse([2, *(i % 30_000 + 3 for i in range(2047))], "sae")
assert found.totals["tokens"] == 2047 and found.totals["l0"] > 0
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is in /proc")
def test_a_long_prompt_needs_no_square_and_no_vocabulary_sized_array() -> None:
    """2,048 tokens, twice through half of the model: far below one of the arrays avoided.

    These are float32 [2, 2048, 32000] logits, 524 MB, and [2, 8, 2048, 2048] scores, 268 MB, each
    needed more than once at a time by a softmax.
    """
    done = subprocess.run(
        [sys.executable, "-c", ANALYSE],
        cwd=ROOT,
        # Arrays of 4 MB, smaller than the real ones, must go back to the system like these.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 80e6, f"{int(done.stdout) / 1e6:.0f} MB"


def test_one_block_is_enough_for_the_prompts_of_the_app() -> None:
    """512 tokens in two rows through Gemma 2 9B's 16 heads are eager's own arithmetic."""
    assert attention.MOST_SCORES >= 2 * 16 * 512**2
