"""The slow reference of arms: a forward of the whole text with a hook of a few lines."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM

from sae_core.arms import ArmBatch
from sae_core.edits import Edit
from sae_core.sae import SAE
from tests import tiny

WINDOW = 8
"""What the tiny model's layers 0 and 2 see."""

MODULES = {
    "resid_pre": ("model.layers.{}", "input"),
    "resid_post": ("model.layers.{}", "output"),
    "mlp_in": ("model.layers.{}.mlp", "input"),
    "mlp_out": ("model.layers.{}.post_feedforward_layernorm", "output"),
    "attn_out": ("model.layers.{}.self_attn.o_proj", "input"),
    "attn_add": ("model.layers.{}.post_attention_layernorm", "output"),
}


def slow_acts(sae: SAE, x: Tensor) -> Tensor:
    pre = x @ sae.W_enc + sae.b_enc
    return torch.where(pre > sae.get_parameter("threshold"), pre, 0.0)


def slow_edited(a: Tensor, edit: Edit) -> Tensor:
    v = edit.value
    return {"set": 0 * a + v, "scale": a * v, "add": a + v, "ablate": 0 * a, "cap": a.clamp(max=v)}[
        edit.mode
    ]


def slow_logits(
    model: Any,
    ids: Sequence[int],
    edits: Sequence[tuple[SAE, Edit]],
    prompt_length: int | None = None,
    special: Sequence[int] = (0, 1, 2),
) -> Tensor:
    """`[pos, vocab]` of the model with a hook of a few lines at each SAE's module."""
    length = len(ids) if prompt_length is None else prompt_length

    def hook(sae: SAE, own: list[Edit]) -> Any:
        def change(x: Tensor) -> Tensor:
            acts = slow_acts(sae, x[0].float())
            edited = acts.clone()
            for edit in own:
                for t, token in enumerate(ids):
                    place = edit.positions
                    if isinstance(place, str):
                        due = {"all": True, "prompt": t < length, "generated": t >= length}[place]
                    else:
                        due = t in place
                    if due and token not in special:
                        edited[t, edit.feature] = slow_edited(edited[t, edit.feature], edit)
            return (x.float() + (edited - acts) @ sae.W_dec).to(x.dtype)

        return change

    with torch.no_grad(), ExitStack() as stack:
        for sae in {id(sae): sae for sae, _ in edits}.values():
            assert sae.cfg.site is not None
            name, side = MODULES[sae.cfg.site.kind]
            module = model.get_submodule(name.format(sae.cfg.site.layer))
            fn = hook(sae, [edit for other, edit in edits if other is sae])
            if side == "input":
                handle = module.register_forward_pre_hook(lambda _m, a, fn=fn: (fn(a[0]), *a[1:]))
            else:
                handle = module.register_forward_hook(lambda _m, _a, out, fn=fn: fn(out))
            stack.callback(handle.remove)
        return model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]


def by_arm(batches: Any) -> dict[int, tuple[ArmBatch, int]]:
    """For each arm its batch and its row there; every arm comes once."""
    rows: dict[int, tuple[ArmBatch, int]] = {}
    for batch in batches:
        for row, arm in enumerate(batch.arms):
            assert arm not in rows
            rows[arm] = (batch, row)
    return rows


def logits_of(batches: Any) -> Tensor:
    """`[arms, read, vocab]` in the order in which the arms were given."""
    rows = by_arm(batches)
    return torch.stack([rows[a][0].logits[rows[a][1]] for a in range(len(rows))])


def windowed_mistral() -> Any:
    """A random one whose layers all see a window of 8 tokens, by PyTorch's attention."""
    config = MistralConfig(
        vocab_size=tiny.VOCAB_SIZE,
        hidden_size=tiny.D_MODEL,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        sliding_window=WINDOW,
        initializer_range=0.2,
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MistralForCausalLM(config).float().eval().requires_grad_(False)
