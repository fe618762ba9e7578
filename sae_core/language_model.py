"""Language models from a folder or the hub: checked, and ready for inference.

Which attention computes a model's activations is chosen here. Gemma 2 caps its attention logits,
and an implementation that leaves the cap out is silently wrong, so none is taken on trust: `auto`
is exact (`sae_core.attention` for capped models, PyTorch's own for the others), and whatever else
is chosen has to agree with eager attention on a probe.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from sae_core import attention as exact
from sae_core.device_check import CHECKED, move_checked
from sae_core.loading import LOADING
from sae_core.placement import Attention

PROBE_LEAST = 48
"""Tokens of the probe; a sliding window that fits in memory makes it longer."""

PROBE_MOST = 8192
"""Longest probe in tokens."""

PROBE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Largest median relative difference of the last layer's output. Implementations add the same terms
in different orders, some with weights of 8 bits; over tens of layers that makes up to 2 % in
bfloat16 and 1e-5 in float32. A cap or a window left out makes more than 10 %."""

_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)


def load_language_model(
    name: str,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    *,
    device_map: str | Mapping[str, Any] | None = None,
    attention: Attention = "auto",
    revision: str | None = None,
) -> tuple[Any, Any]:
    """A causal language model and tokenizer from a folder or the hub, ready for inference.

    `name` is a folder, `owner/name` or `owner/name@revision`. Weights are read straight into the
    memory of `device`; `device_map` (`auto`, `balanced`, `sequential`, or modules and devices as in
    accelerate) spreads them over several instead. `attention` names the implementation: `auto` and
    `chunked` are exact, `sdpa` is refused for models that cap their attention logits, others are
    compared with eager attention.

    Raises ValueError with one sentence when it cannot be loaded, lacks weights or its tokenizer, or
    when the chosen attention is not the model's.
    """
    place, revision = _split(name, revision)
    source = {"revision": revision or "main", "trust_remote_code": False}
    with LOADING, _one_sentence(f"the language model {name} cannot be loaded", name):
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        _check_folder(place)
        config = AutoConfig.from_pretrained(place, **source)
        implementation = _implementation(config, attention)
        tokenizer = AutoTokenizer.from_pretrained(place, **source)
        if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
            raise ValueError("it has no tokenizer (tokenizer.json or tokenizer.model)")
        target = torch.device(device)
        checked = device_map is None and target.type in CHECKED
        # cuda with its number; what is to be checked is read on the CPU first.
        here = torch.empty(0, device="cpu" if checked else device).device
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place,
            dtype=dtype,
            device_map=device_map or {"": here},
            attn_implementation=implementation,
            output_loading_info=True,
            **source,
        )
        model, report = loaded
        # Left to itself, transformers fills what is missing with random numbers.
        if missing := sorted(report["missing_keys"]):
            raise ValueError(f"{len(missing):,} weights are missing, {missing[0]} the first")
        model.eval().requires_grad_(False)
        if checked:
            model = move_checked(model, target)
    if attention in ("flash_attention_2", "flex_attention"):
        _check_attention(model, attention)
    return model, tokenizer


def check_context(model: Any, context_size: int) -> None:
    """ValueError if prompts of `context_size` tokens are longer than the model reads."""
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest and context_size > longest:
        raise ValueError(
            f"context_size is {context_size} but the model reads {longest} tokens at most: give "
            "that or less."
        )


def _split(name: str, revision: str | None) -> tuple[str, str | None]:
    """Folder or repository, and revision; ValueError for two different revisions."""
    if Path(name).is_dir() or "@" not in name:
        return name, revision
    repository, _, written = name.rpartition("@")
    if revision is not None and revision != written:
        raise ValueError(f"{name} names a revision, and revision is {revision}: give one of them.")
    return repository, written


def _check_folder(name: str) -> None:
    """ValueError for a path that is no model's folder, before anybody takes it for a hub id."""
    path = Path(name)
    if path.is_dir() and not (path / "config.json").is_file():
        raise ValueError("the folder has no config.json")
    if path.is_dir():
        # transformers says of a file that it may not read that it is not there.
        effective = os.access in os.supports_effective_ids
        for file in sorted(path.iterdir()):
            if not os.access(file, os.R_OK, effective_ids=effective):
                raise ValueError(f"{file} may not be read by this user")
    if not path.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ValueError("there is no such folder, and that is no hub id (owner/name) either")


@contextmanager
def _one_sentence(what: str, name: str) -> Iterator[None]:
    """What the libraries raise inside, as a ValueError of one sentence.

    It says what to do where the hub is at fault, with `name` for what was sought, and else begins
    with `what`.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise  # the caller knows what could make room
    except _ERRORS as error:
        from sae_core.hub.failures import explained

        # Their first sentence; what follows is advice on other programs than this one.
        reason = str(error).strip().split("\n")[0].split(". ")[0].rstrip(". ")
        said = f"{what}: {reason or type(error).__name__}."
        raise (explained(error, name) or ValueError(said)) from error


def _implementation(config: Any, attention: Attention) -> str | None:
    """transformers' name for an attention; None for its default, sdpa or else eager."""
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    if attention == "sdpa" and capped:
        raise ValueError(
            "attention sdpa would leave out the cap on attention logits that it was trained with: "
            "choose auto"
        )
    if attention == "chunked" or (attention == "auto" and capped):
        exact.register()
        return exact.CHUNKED
    return None if attention == "auto" else attention


def _check_attention(model: Any, name: str) -> None:
    """ValueError if the model's output with its attention is not what exact attention gives.

    The probe runs past a sliding window where there is one, and with the cap on logits lowered to
    1, so that leaving either out shows whatever the weights are.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or 0
    longest = min(getattr(config, "max_position_embeddings", PROBE_MOST), PROBE_MOST)
    length = min(window + PROBE_LEAST, longest)
    ids = (torch.arange(length) * 7919 + 11) % int(config.vocab_size)
    ids = ids[None].to(next(model.parameters()).device)
    exact.register()
    with _one_sentence(f"attention {name} does not run here", name), _lowered_caps(model):
        outputs = _last_outputs(model, ids)
        model.set_attn_implementation(exact.CHUNKED)
        expected = _last_outputs(model, ids)
        model.set_attn_implementation(name)
    error = float(((outputs - expected).norm(dim=-1) / expected.norm(dim=-1)).median())
    if not error <= PROBE_TOLERANCE[model.dtype]:
        raise ValueError(
            f"attention {name} differs from the model's own by {error:.1%} on a probe of {length} "
            "tokens: choose auto."
        )


@torch.no_grad()
def _last_outputs(model: Any, ids: Tensor) -> Tensor:
    """What the decoder says of the probe's last tokens, `[tokens, d_model]` in float32."""
    outputs = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return outputs[0, -PROBE_LEAST:].float()


@contextmanager
def _lowered_caps(model: Any) -> Iterator[None]:
    """Inside the block, attention logits are capped at 1 in the layers that cap them."""
    capped = [m for m in model.modules() if getattr(m, "attn_logit_softcapping", None)]
    caps = [module.attn_logit_softcapping for module in capped]
    try:
        for module in capped:
            module.attn_logit_softcapping = 1.0
        yield
    finally:
        for module, cap in zip(capped, caps, strict=True):
            module.attn_logit_softcapping = cap
