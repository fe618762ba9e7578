"""What the tests' hub serves: tiny repositories with the names and folders of the published ones.

`google/gemma-2-2b` and `-it` are tiny random models (gated, as theirs are). The SAEs are fitted to
the first on a few documents, so that each has about the L0 that its folder's name declares and
reconstructs well; only their width is not what the name says.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor
from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast

from sae_core.config import Site
from sae_core.formats.saelens import save_sae
from sae_core.sites import activations
from sae_core.tokens import encode_text
from tests import tiny, tiny_chat
from tests.hub import Hub

MODEL, CHAT_MODEL = "google/gemma-2-2b", "google/gemma-2-2b-it"
"""Gated models; the SAEs below are the first's."""

GEMMA_SCOPE = {
    "google/gemma-scope-2b-pt-res": (
        "resid_post",
        "layer_0/width_16k/average_l0_46",
        "layer_1/width_16k/average_l0_22",
        "layer_1/width_16k/average_l0_71",
        "layer_1/width_16k/average_l0_176",
        "layer_1/width_65k/average_l0_53",
        "layer_2/width_16k/average_l0_71",
        "layer_2/width_65k/average_l0_53",
        "layer_2/width_65k/average_l0_105",
        "embedding/width_4k/average_l0_6",
    ),
    "google/gemma-scope-2b-pt-mlp": ("mlp_out", "layer_1/width_16k/average_l0_85"),
    "google/gemma-scope-2b-pt-att": ("attn_out", "layer_1/width_16k/average_l0_80"),
    "google/gemma-scope-2b-pt-transcoders": ("mlp_in_unit", "layer_1/width_16k/average_l0_22"),
}
"""Repository -> kind of site, and the folders with their `params.npz`."""

TRUNCATED = "layer_2/width_65k/average_l0_53"
"""Folder of gemma-scope-2b-pt-res whose file is cut off, as two are on the hub."""

GEMMA_SCOPE_2 = "google/gemma-scope-2-1b-pt"
SAELENS, DICTIONARY_LEARNING, SPARSIFY = (
    "example/saelens",
    "example/dictionary-learning",
    "example/sparsify",
)

# Features of an SAE whose folder's name says that wide.
_D_SAE = {"4k": 128, "16k": 512, "65k": 640}

Arrays = dict[str, np.ndarray]


def publish_all(
    hub: Hub, folder: Path, model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Write every repository under `folder` and publish it on `hub`."""
    at = _reader(model, tokenizer)
    _write_models(folder, model, tokenizer)
    for repo, (kind, *paths) in GEMMA_SCOPE.items():
        for path in paths:
            _write_gemma_scope(folder / repo / path, kind, at)
    whole = folder / "google/gemma-scope-2b-pt-res" / TRUNCATED / "params.npz"
    whole.write_bytes(whole.read_bytes()[:60_000])
    _write_gemma_scope_2(folder / GEMMA_SCOPE_2, at)
    save_sae(tiny.make_sae(model, tokenizer), folder / SAELENS / "blocks.1.hook_resid_post")
    _write_dictionary_learning(folder / DICTIONARY_LEARNING, at)
    _write_sparsify(folder / SPARSIFY, at)
    for owner in sorted(folder.iterdir()):
        for path in sorted(owner.iterdir()):
            repo = f"{owner.name}/{path.name}"
            (path / "README.md").write_text(f"# {repo}\n")
            hub.publish(repo, path, gated=repo in (MODEL, CHAT_MODEL))


def fit(x: Tensor, y: Tensor, *, d_sae: int, l0: float, seed: int = 0) -> Arrays:
    """A JumpReLU SAE (or transcoder) of random directions that has about this L0 on `x`.

    Every feature fires equally often; the decoder is the one that reconstructs these best.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(d_sae, x.shape[1], generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    pre_acts = (x - x.mean(dim=0)) @ directions.T
    below = round(len(x) * (1 - l0 / d_sae))
    threshold = pre_acts.kthvalue(below, dim=0).values.clamp(min=1e-3)
    acts = pre_acts * (pre_acts > threshold)
    ridge = acts.T @ acts + 1e-3 * acts.square().mean() * len(acts) * torch.eye(d_sae)
    decoder = torch.linalg.solve(ridge, acts.T @ (y - y.mean(dim=0)))
    return {
        "W_enc": directions.T.contiguous().numpy(),
        "b_enc": (-x.mean(dim=0) @ directions.T).numpy(),
        "threshold": threshold.numpy(),
        "W_dec": decoder.contiguous().numpy(),
        "b_dec": y.mean(dim=0).numpy(),
    }


Reader = Callable[[str, int], Tensor]


def _reader(model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Reader:
    """A function from site kind and layer to activations `[tokens, width]`, BOS left out."""
    tokens = [encode_text(tokenizer, row["text"]) for row in tiny.tiny_documents()]
    kinds = ("resid_pre", "resid_post", "mlp_in", "mlp_in_unit", "mlp_out", "attn_out")
    sites = [Site(kind, layer) for kind in kinds for layer in range(tiny.N_LAYERS)]
    read = [activations(model, torch.tensor([ids]), sites) for ids in tokens]
    result = {str(site): torch.cat([acts[site][0, 1:] for acts in read]) for site in sites}
    return lambda kind, layer: result[f"{kind}/{layer}"]


def _write_models(
    folder: Path, model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    model.save_pretrained(folder / MODEL, max_shard_size="100KB")
    tokenizer.save_pretrained(folder / MODEL)
    chat_tokenizer = tiny_chat.make_tokenizer()
    chat_model = tiny_chat.make_model(chat_tokenizer)
    chat_model.save_pretrained(folder / CHAT_MODEL, max_shard_size="100KB")
    chat_tokenizer.save_pretrained(folder / CHAT_MODEL)


def _write_gemma_scope(folder: Path, kind: str, at: Reader) -> None:
    place, width, average = folder.parts[-3:]
    if place == "embedding":
        # Trained on rows of the embedding, which the model multiplies by this root.
        x = y = at("resid_pre", 0) / tiny.D_MODEL**0.5
    else:
        layer = int(place.removeprefix("layer_"))
        x = at(kind, layer)
        y = at("mlp_out", layer) if kind == "mlp_in_unit" else x
    l0 = int(average.removeprefix("average_l0_"))
    folder.mkdir(parents=True)
    arrays = fit(x, y, d_sae=_D_SAE[width.removeprefix("width_")], l0=l0)
    np.savez(folder / "params.npz", **arrays)  # pyright: ignore[reportArgumentType]


_HOOKS_2 = {
    "resid_post": ("resid_post", "model.layers.1.output"),
    "attn_out": ("attn_out", "model.layers.1.self_attn.o_proj.input"),
    "mlp_out": ("mlp_out", "model.layers.1.post_feedforward_layernorm.output"),
    "transcoder": ("mlp_in", "model.layers.1.pre_feedforward_layernorm.output"),
}


def _write_gemma_scope_2(folder: Path, at: Reader) -> None:
    for path, l0 in (
        ("resid_post/layer_1_width_16k_l0_small", 15),
        ("resid_post/layer_1_width_16k_l0_medium", 50),
        ("attn_out_all/layer_1_width_16k_l0_small", 15),
        ("mlp_out_all/layer_1_width_16k_l0_big", 120),
        ("transcoder_all/layer_1_width_16k_l0_medium", 50),
        ("transcoder_all/layer_1_width_16k_l0_medium_affine", 50),
    ):
        what = path.partition("/")[0].removesuffix("_all")
        kind, hook = _HOOKS_2[what]
        transcoder = what == "transcoder"
        x = at(kind, 1)
        y = at("mlp_out", 1) if transcoder else x
        tensors: Arrays = {}
        rest = y
        if affine := path.endswith("_affine"):
            skip = torch.linalg.lstsq(x, y).solution
            tensors["affine_skip_connection"] = skip.contiguous().numpy()
            rest = y - x @ skip
        fitted = fit(x, rest, d_sae=_D_SAE["16k"], l0=l0)
        names = {"W_enc": "w_enc", "W_dec": "w_dec"}
        tensors |= {names.get(name, name): array for name, array in fitted.items()}
        (folder / path).mkdir(parents=True)
        save_file(tensors, folder / path / "params.safetensors")
        config = {
            "architecture": "jump_relu",
            "model_name": "google/gemma-3-1b-pt",
            "hf_hook_point_in": hook,
            "hf_hook_point_out": _HOOKS_2["mlp_out"][1] if transcoder else hook,
            "width": _D_SAE["16k"],
            "l0": l0,
            "affine_connection": affine,
            "type": "transcoder" if transcoder else "sae",
        }
        (folder / path / "config.json").write_text(json.dumps(config))
    clt = folder / "clt/width_16k_l0_medium/params_layer_0.safetensors"
    clt.parent.mkdir(parents=True)
    save_file({"w_enc": np.zeros((2, 2), np.float32)}, clt)


def _write_dictionary_learning(folder: Path, at: Reader) -> None:
    x = at("resid_post", 1)
    arrays = fit(x, x, d_sae=128, l0=20)
    jumprelu = {name: torch.from_numpy(array) for name, array in arrays.items()}
    topk = {
        "encoder.weight": jumprelu["W_enc"].T.contiguous(),
        "encoder.bias": torch.zeros(128),
        "decoder.weight": jumprelu["W_enc"].clone(),
        "b_dec": jumprelu["b_dec"],
        "k": torch.tensor(20, dtype=torch.int32),
        "threshold": torch.tensor(-1.0),
    }
    for number, (kind, tensors) in enumerate(
        (("JumpReluAutoEncoder", jumprelu), ("AutoEncoderTopK", topk))
    ):
        run = folder / f"resid_post_layer_1/trainer_{number}"
        run.mkdir(parents=True)
        torch.save(tensors, run / "ae.pt")
        trainer = {
            "dict_class": kind,
            "activation_dim": tiny.D_MODEL,
            "dict_size": 128,
            "layer": 1,
            "lm_name": MODEL,
            "submodule_name": "resid_post_layer_1",
        }
        trainer |= {"k": 20} if kind == "AutoEncoderTopK" else {"target_l0": 20}
        buffer = {"d_submodule": tiny.D_MODEL, "io": "out", "ctx_len": 32}
        (run / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": buffer}))


def _write_sparsify(folder: Path, at: Reader) -> None:
    for layer in range(2):
        x = at("resid_post", layer)
        directions = fit(x, x, d_sae=128, l0=16)["W_enc"].T.copy()
        path = folder / f"layers.{layer}"
        path.mkdir(parents=True)
        tensors = {
            "encoder.weight": directions,
            "encoder.bias": np.zeros(128, np.float32),
            "W_dec": directions,
            "b_dec": x.mean(dim=0).numpy(),
        }
        save_file(tensors, path / "sae.safetensors")
        config = {
            "activation": "topk",
            "expansion_factor": 4,
            "normalize_decoder": True,
            "num_latents": 128,
            "k": 16,
            "multi_topk": False,
            "skip_connection": False,
            "transcode": False,
            "d_in": tiny.D_MODEL,
        }
        (path / "cfg.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model": MODEL, "ctx_len": 32}))
