"""Files of exactly the published layouts, with the arithmetic of the code that published them.

Each function writes the files of one SAE of random weights, as on the hub, and says what they
compute, in plain PyTorch on the stored tensors. Llama Scope and circuit-tracer's are in
`tests.formats_layered`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.formats_support import D_MODEL, D_SAE, K


@dataclass(frozen=True)
class Published:
    """One SAE as it was published."""

    repo: str
    place: str
    format: str
    model: str
    sites: tuple[str, str | None]
    acts: Callable[[Tensor], Tensor]
    output: Callable[[Tensor, Tensor], Tensor]
    """Of activations and the input they came from."""
    loader: str = ""
    """SAELens' own, if it has one."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Sizes that the loader takes from names."""
    scale: float | None = None
    """What SAELens folds in from its own table of releases."""
    prepend_bos: bool = True
    local: str = ""
    """The path that is read on disk, if it is not the id's place."""


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 3


def encoder() -> tuple[Tensor, Tensor]:
    return numbers(1, D_SAE, D_MODEL), numbers(2, D_SAE)


def decoder(d_out: int = D_MODEL) -> tuple[Tensor, Tensor]:
    return numbers(3, d_out, D_SAE), numbers(4, d_out)


def topk(pre: Tensor, k: int = K) -> Tensor:
    top = pre.relu().topk(k)
    return torch.zeros_like(pre).scatter(-1, top.indices, top.values)


SIZES = {"d_in": D_MODEL, "d_sae": D_SAE}


def write_json(path: Path, written: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(written))


def goodfire(root: Path, *, model: str = "Llama-3.1-8B-Instruct", layer: int = 19) -> Published:
    (w, b), (u, c) = encoder(), decoder()
    ending = "pth" if layer == 19 else "pt"
    name = f"{model}-SAE-l{layer}.{ending}"
    state = {
        "encoder_linear.weight": w,
        "encoder_linear.bias": b,
        "decoder_linear.weight": u,
        "decoder_linear.bias": c,
    }
    torch.save(state, root / name)
    return Published(
        repo=f"Goodfire/{model}-SAE-l{layer}",
        place=name,
        format="goodfire",
        model=f"meta-llama/{model}",
        sites=(f"resid_post/{layer}", None),
        acts=lambda x: (x @ w.T + b).relu(),
        output=lambda acts, x: acts @ u.T + c,
        loader="get_goodfire_huggingface_loader",
        overrides=SIZES,
    )


def goodfire_70b(root: Path) -> Published:
    return goodfire(root, model="Llama-3.3-70B-Instruct", layer=50)


def gpt_oss(root: Path) -> Published:
    (w, b), (u, c) = encoder(), decoder()
    state = {
        "encoder_linear.weight": w.bfloat16(),
        "encoder_linear.bias": b,
        "decoder.weight": u.bfloat16(),
        "decoder_bias": c,
    }
    name = f"topk_sae_l15_exp16_k{K}.pt"
    torch.save(state, root / name)
    w16, u16 = w.bfloat16().float(), u.bfloat16().float()
    return Published(
        repo="Goodfire/Hackathon-gpt-oss-20b-SAE-l15",
        place=name,
        format="goodfire",
        model="openai/gpt-oss-20b",
        sites=("resid_post/15", None),
        acts=lambda x: topk(x @ w16.T + b),
        output=lambda acts, x: acts @ u16.T + c,
        prepend_bos=False,
    )


def gpt_oss_without_biases(root: Path) -> Published:
    """Both matrices `[F, d]`, no bias at all."""
    (w, _), (u, _) = encoder(), decoder()
    name = f"topk_sae_l15_exp16_k{K}.pt"
    torch.save({"encoder_linear.weight": w, "decoder.weight": u.T.contiguous()}, root / name)
    return Published(
        repo="Goodfire/Hackathon-gpt-oss-20b-SAE-l15",
        place=name,
        format="goodfire",
        model="openai/gpt-oss-20b",
        sites=("resid_post/15", None),
        acts=lambda x: topk(x @ w.T),
        output=lambda acts, x: acts @ u.T,
        prepend_bos=False,
    )


def deepseek(root: Path) -> Published:
    (w, b), (u, c) = encoder(), decoder()
    name = "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"
    state = {"encoder.weight": w, "encoder.bias": b, "decoder.weight": u, "decoder.bias": c}
    torch.save(state, root / name)
    return Published(
        repo="qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19",
        place=name,
        format="dictionary_learning",
        model="deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        sites=("resid_post/19", None),
        acts=lambda x: (x @ w.T + b).relu(),
        output=lambda acts, x: acts @ u.T + c,
        loader="deepseek_r1_sae_huggingface_loader",
        overrides=SIZES,
    )


def qwen_scope(root: Path) -> Published:
    (w, b), (u, c) = encoder(), decoder()
    repo = f"Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_{K}"
    torch.save({"W_enc": w, "W_dec": u, "b_enc": b, "b_dec": c}, root / "layer7.sae.pt")
    return Published(
        repo=repo,
        place="layer7.sae.pt",
        format="qwen_scope",
        model="Qwen/Qwen3-8B-Base",
        sites=("resid_post/7", None),
        acts=lambda x: topk(x @ w.T + b),
        output=lambda acts, x: acts @ u.T + c,
        loader="qwen_scope_sae_huggingface_loader",
        overrides=SIZES,
        prepend_bos=False,
    )


def hook_z(root: Path) -> Published:
    (w, b), (u, c) = encoder(), decoder()
    stem = "gpt2-small_L5_Hcat_z_lr1.20e-03_l11.00e+00_ds24576_bs4096_v9"
    torch.save({"W_enc": w.T, "b_enc": b, "W_dec": u.T, "b_dec": c}, root / f"{stem}.pt")
    write_json(
        root / f"{stem}_cfg.json",
        {"act_name": "blocks.5.attn.hook_z", "act_size": D_MODEL, "dict_size": D_SAE},
    )
    return Published(
        repo="ckkissane/attn-saes-gpt2-small-all-layers",
        place=f"{stem}.pt",
        format="hook_z",
        model="openai-community/gpt2",
        sites=("attn_out/5", None),
        acts=lambda x: ((x - c) @ w.T + b).relu(),
        output=lambda acts, x: acts @ u.T + c,
        loader="connor_rob_hook_z_huggingface_loader",
        overrides={"reshape_activations": "none"},  # the heads stand side by side here
    )
