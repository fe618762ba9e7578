"""Llama Scope's and circuit-tracer's files, as `tests.formats_published` has the others."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.formats_published import SIZES, Published, decoder, encoder, numbers, topk, write_json
from tests.formats_support import D_MODEL, D_SAE, K

THRESHOLD, NORM_IN, NORM_OUT = 0.3, 7.3, 2.1


def llama_scope(
    root: Path, *, place: str = "Llama3_1-8B-Base-L8R-8x", norm_out: float = NORM_IN, **changes: Any
) -> Published:
    (w, b), (u, c) = encoder(), decoder()
    transcoder = norm_out != NORM_IN
    hook = "blocks.8.ln2.hook_normalized" if transcoder else "blocks.8.hook_resid_post"
    hyperparams = {
        "d_model": D_MODEL,
        "d_sae": D_SAE,
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "act_fn": "jumprelu",
        "top_k": 50,
        "jump_relu_threshold": THRESHOLD,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": NORM_IN, "out": norm_out},
        "sparsity_include_decoder_norm": False,
        "hook_point_in": hook,
        "hook_point_out": "blocks.8.hook_mlp_out" if transcoder else hook,
    } | changes
    write_json(root / place / "hyperparams.json", hyperparams)
    state = {"encoder.weight": w, "encoder.bias": b, "decoder.weight": u, "decoder.bias": c}
    state = {name: tensor.bfloat16() for name, tensor in state.items()}
    (root / place / "checkpoints").mkdir()
    save_file(state, root / place / "checkpoints" / "final.safetensors")
    w, b, u, c = (tensor.float() for tensor in state.values())
    c_in, c_out = math.sqrt(D_MODEL) / NORM_IN, math.sqrt(D_MODEL) / norm_out

    def acts(x: Tensor) -> Tensor:
        # As the library prepares an SAE for use: biases and the decoder are rescaled, and, if the
        # sparsity counts decoder norms, rows become unit vectors; the threshold is as it stands.
        bias, rows = b / c_in, u * c_in / c_out
        norms = rows.norm(dim=0) if hyperparams["sparsity_include_decoder_norm"] else 1.0
        if transcoder and not hyperparams["sparsity_include_decoder_norm"]:
            norms = c_in / c_out
        hidden = x @ w.T + bias
        mask = hidden * norms > THRESHOLD
        # In the units of the scaled input, as SAELens has them.
        return hidden.relu() * mask * c_in

    return Published(
        repo=f"fnlp/Llama3_1-8B-Base-LX{'TC' if transcoder else 'R'}-8x",
        place=place,
        format="llama_scope",
        model="meta-llama/Llama-3.1-8B",
        sites=("mlp_in_unit/8", "mlp_out/8") if transcoder else ("resid_post/8", None),
        acts=acts,
        output=lambda acts, x: (acts @ u.T + c) / c_out,
        loader="" if transcoder or changes else "llama_scope_sae_huggingface_loader",
        scale=c_in,
        local=f"{place}/checkpoints/final.safetensors",
    )


def llama_scope_transcoder(root: Path) -> Published:
    return llama_scope(root, place="Llama3_1-8B-Base-L8TC-8x", norm_out=NORM_OUT)


def llama_scope_by_norm(root: Path) -> Published:
    return llama_scope(root, sparsity_include_decoder_norm=True)


def llama_scope_distill(root: Path, *, in_tensors: bool = True) -> Published:
    (w, b), (u, c) = encoder(), decoder()
    place, hook = "400M-Slimpajama-400M-OpenR1-Math-220k/L15R", "blocks.15.hook_resid_post"
    log_threshold = numbers(5, D_SAE) - 1
    state = {
        "encoder.weight": w,
        "encoder.bias": b,
        "decoder.weight": u,
        "decoder.bias": c,
        "log_jumprelu_threshold": log_threshold,
    }
    config: dict[str, Any] = {
        "sae_type": "sae",
        "d_model": D_MODEL,
        "expansion_factor": D_SAE / D_MODEL,
        "hook_point_in": hook,
        "hook_point_out": hook,
        "act_fn": "jumprelu",
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": False,
    }
    if in_tensors:
        state[f"dataset_average_activation_norm.{hook}"] = torch.tensor(NORM_IN)
    else:
        config["dataset_average_activation_norm"] = {hook: NORM_IN}
    write_json(root / place / "config.json", config)
    save_file(state, root / place / "sae_weights.safetensors")
    scale = math.sqrt(D_MODEL) / NORM_IN

    def acts(x: Tensor) -> Tensor:
        pre = (x * scale) @ w.T + b
        return pre.relu() * (pre > log_threshold.exp())

    return Published(
        repo="fnlp/Llama-Scope-R1-Distill",
        place=place,
        format="llama_scope",
        model="deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        sites=("resid_post/15", None),
        acts=acts,
        output=lambda acts, x: (acts @ u.T + c) / scale,
        loader="llama_scope_r1_distill_sae_huggingface_loader",
        overrides=SIZES,
        scale=scale,
        local=f"{place}/sae_weights.safetensors",
    )


def llama_scope_distill_in_settings(root: Path) -> Published:
    return llama_scope_distill(root, in_tensors=False)


CONFIG_YAML = """\
model_name: {model}
model_kind: transcoder_set
feature_input_hook: {hook}
feature_output_hook: hook_mlp_out
scan: {repo}
"""


def circuit_tracer(
    root: Path,
    *,
    repo: str = "mwhanna/qwen3-4b-transcoders",
    model: str = "Qwen/Qwen3-4B",
    hook: str = "mlp.hook_in",
    settings: bool = True,
    sizes: str = "wandb-config.yaml",
    extra: dict[str, Tensor] | None = None,
    activate: Callable[[Tensor], Tensor] = torch.relu,
    site: str = "mlp_in",
) -> Published:
    (w, b), (u, c), extra = encoder(), decoder(), extra or {}
    if settings:
        written = CONFIG_YAML.format(model=model, hook=hook, repo=repo)
        (root / "config.yaml").write_text(written)
    if sizes:
        (root / sizes).write_text(
            f"d_model:\n  desc: null\n  value: {D_MODEL}\n"
            f"d_feature:\n  desc: null\n  value: {D_SAE}\nbatch_size:\n  value: 4096\n"
        )
    state = {"W_enc": w, "W_dec": u.T.contiguous(), "b_enc": b, "b_dec": c}
    save_file(state | extra, root / "layer_7.safetensors")

    def output(acts: Tensor, x: Tensor) -> Tensor:
        out = acts @ u.T + c
        return out + x @ extra["W_skip"].T if "W_skip" in extra else out

    return Published(
        repo=repo,
        place="layer_7.safetensors",
        format="circuit_tracer",
        model=model,
        sites=(f"{site}/7", "mlp_out/7"),
        acts=lambda x: activate(x @ w.T + b),
        output=output,
        loader="mwhanna_transcoder_huggingface_loader" if repo.startswith("mwhanna") else "",
        prepend_bos=not repo.startswith("mwhanna"),
    )


def circuit_tracer_14b(root: Path) -> Published:
    """Without `config.yaml`, and with the sizes in a file whose name is misspelt."""
    return circuit_tracer(
        root,
        repo="mwhanna/qwen3-14b-transcoders-lowl0",
        model="Qwen/Qwen3-14B",
        settings=False,
        sizes="wanb-config.yaml",
    )


def circuit_tracer_skip(root: Path) -> Published:
    """With a skip, and from the stream before the norm."""
    return circuit_tracer(
        root,
        repo="mntss/transcoder-Llama-3.2-1B",
        model="meta-llama/Llama-3.2-1B",
        hook="hook_resid_mid",
        site="resid_mid",
        sizes="",
        extra={"W_skip": numbers(6, D_MODEL, D_MODEL)},
    )


def circuit_tracer_jumprelu(root: Path) -> Published:
    threshold = numbers(7, D_SAE).abs()
    return circuit_tracer(
        root,
        repo="someone/transcoders",
        model="google/gemma-2-2b",
        extra={"activation_function.threshold": threshold},
        activate=lambda pre: pre * (pre > threshold),
    )


def crv(root: Path, k: int = K) -> Published:
    """TopK: k stands in the settings."""
    published = circuit_tracer(
        root,
        repo="facebook/crv-8b-instruct-transcoders",
        model="meta-llama/Llama-3.1-8B-Instruct",
        activate=lambda pre: topk(pre, k),
    )
    with (root / "config.yaml").open("a") as file:
        file.write(f"k: {k}\n")
    return published
