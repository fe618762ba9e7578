"""dictionary_learning: `ae.pt`, a state dict, and `config.json` with the trainer's settings.

| dict_class | its tensors | what is folded |
| --- | --- | --- |
| AutoEncoder | bias, encoder.{weight,bias}, decoder.weight | encodes x - bias; decoder norms |
| AutoEncoderNew | encoder.{weight,bias}, decoder.{weight,bias} | |
| GatedAutoEncoder | decoder_bias, encoder.weight, r_mag, gate_bias, mag_bias, decoder.weight | \
encodes x - decoder_bias |
| JumpReluAutoEncoder | W_enc, b_enc, W_dec, b_dec, threshold | |
| AutoEncoderTopK | k, encoder.{weight,bias}, decoder.weight, b_dec | encodes x - b_dec |
| BatchTopKSAE | the same, and threshold, one number | encodes x - b_dec |
| MatryoshkaBatchTopKSAE | W_enc, b_enc, W_dec, b_dec, k, threshold, group_sizes | \
encodes x - b_dec |

The batch's TopK is a matter of training: to encode, `relu(pre_acts)` is kept where it exceeds the
one threshold, so those are JumpReLU SAEs.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sae_core.config import Architecture, Site
from sae_core.formats.config_json import KEY, entry, read_json, recall, record, write_json
from sae_core.formats.folding import (
    norms_into_activations,
    project,
    scale_biases,
    subtract_b_dec,
)
from sae_core.formats.origin import Origin
from sae_core.formats.plan import Plan, matrix_shape
from sae_core.formats.torch_file import TorchFile
from sae_core.sae import SAE, GatedSAE

WEIGHTS_FILE = "ae.pt"
CONFIG_FILE = "config.json"


def _unit_norms(sae: SAE) -> None:
    # As its loader does, and only where it does.
    norms = sae.W_dec.data.norm(dim=1)
    if not torch.allclose(norms, torch.ones_like(norms)):
        norms_into_activations(sae)


def _standard(sae: SAE) -> None:
    subtract_b_dec(sae)
    _unit_norms(sae)


@dataclass(frozen=True)
class DictClass:
    """One of its classes: what it is here, and the tensors it keeps."""

    architecture: Architecture
    names: dict[str, str]
    unused: frozenset[str] = frozenset()
    fold: Callable[[SAE], None] | None = None

    @property
    def transposed(self) -> frozenset[str]:
        """`nn.Linear` keeps `[out, in]`, the transpose of what `x @ W` needs."""
        return frozenset(name for name, stored in self.names.items() if stored.endswith(".weight"))


_LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
_PLAIN = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
_THRESHOLD = {"threshold": "threshold"}
_GATED = {
    "W_enc": "encoder.weight",
    "W_dec": "decoder.weight",
    "b_dec": "decoder_bias",
    "b_gate": "gate_bias",
    "b_mag": "mag_bias",
    "r_mag": "r_mag",
}
_K = frozenset({"k"})

CLASSES = {
    "AutoEncoder": DictClass("standard", _LINEAR | {"b_dec": "bias"}, fold=_standard),
    "AutoEncoderNew": DictClass("standard", _LINEAR | {"b_dec": "decoder.bias"}),
    "GatedAutoEncoder": DictClass("gated", _GATED, fold=subtract_b_dec),
    "JumpReluAutoEncoder": DictClass("jumprelu", _PLAIN | _THRESHOLD),
    "AutoEncoderTopK": DictClass(
        "topk", _LINEAR | {"b_dec": "b_dec"}, _K | {"threshold"}, subtract_b_dec
    ),
    "BatchTopKSAE": DictClass(
        "jumprelu", _LINEAR | {"b_dec": "b_dec"} | _THRESHOLD, _K, subtract_b_dec
    ),
    "MatryoshkaBatchTopKSAE": DictClass(
        "jumprelu", _PLAIN | _THRESHOLD, _K | {"group_sizes"}, subtract_b_dec
    ),
}


def plan(path: Path, origin: Origin) -> Plan:
    """How to read a folder, the `ae.pt` in one, or a checkpoint `checkpoints/ae_1000.pt`."""
    path = path / WEIGHTS_FILE if path.is_dir() else path
    weights = TorchFile(path, inside="ae")  # an interrupted run's file has it beside the optimizer
    above = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    config = above / CONFIG_FILE
    written = read_json(config) if config.is_file() else {}
    trainer = entry(written, "trainer", dict, config) or {}
    layout = _class(weights, trainer.get("dict_class"))
    first, second = matrix_shape(weights, layout.names["W_enc"])
    d_model, d_sae = (second, first) if "W_enc" in layout.transposed else (first, second)
    header = weights.headers.get("threshold")
    of_batch = layout.architecture == "jumprelu" and header is not None and header.shape == ()
    if of_batch and weights.number("threshold") < 0:
        raise ValueError(
            f"{path} was saved before its threshold was estimated: train it further, or use a "
            "later checkpoint."
        )
    for key, size in (("activation_dim", d_model), ("dict_size", d_sae)):
        if (entry(trainer, key, int, config) or size) != size:
            raise ValueError(f"{config} says {key}={trainer[key]} but {path} has {size}.")
    buffer = entry(written, "buffer", dict, config) or {}
    cfg = origin.configure(
        path,
        _said(trainer, buffer, config) | recall(written, config),
        transcoder=buffer.get("io") == "in_and_out",
        architecture=layout.architecture,
        d_model=d_model,
        d_sae=d_sae,
        k=_k(weights, trainer, config) if layout.architecture == "topk" else None,
    )
    factor = weights.values.get("norm_factor")

    def fold(sae: SAE) -> None:
        if factor is not None:
            # While it trains, an SAE of normalised activations takes these; scaled when saved.
            scale_biases(sae, float(factor))
        if layout.fold is not None:
            layout.fold(sae)

    return Plan(
        cfg=cfg,
        weights=weights,
        names=layout.names,
        transposed=layout.transposed,
        unused=layout.unused,
        fold=fold,
    )


def write(sae: SAE, folder: Path, dtype: torch.dtype) -> Path:
    """Write both files; ValueError for a transcoder."""
    cfg = sae.cfg
    if cfg.is_transcoder:
        raise ValueError("dictionary_learning's format has no place for a transcoder's sites.")
    dict_class = {
        "standard": "AutoEncoderNew",
        "gated": "GatedAutoEncoder",
        "jumprelu": "JumpReluAutoEncoder",
        "topk": "AutoEncoderTopK",
    }[cfg.architecture]
    layout = CLASSES[dict_class]
    tensors = {name: getattr(sae, name).data for name in layout.names}
    if layout.fold is not None:  # those that take b_dec off their input
        moved = project(sae, sae.b_dec.data)
        if isinstance(sae, GatedSAE):
            tensors["b_gate"] = tensors["b_gate"] + moved
            tensors["b_mag"] = tensors["b_mag"] + moved * sae.r_mag.data.exp()
        else:
            tensors["b_enc"] = tensors["b_enc"] + moved
    state = {
        # Cloned, for torch.save writes the whole of a memory that a tensor has a part of.
        stored: (tensors[name].T if name in layout.transposed else tensors[name])
        .to("cpu", dtype)
        .clone(memory_format=torch.contiguous_format)
        for name, stored in layout.names.items()
    }
    trainer: dict[str, Any] = {
        "dict_class": dict_class,
        "activation_dim": cfg.d_model,
        "dict_size": cfg.d_sae,
        "layer": cfg.site.layer if cfg.site else None,
        "lm_name": cfg.model_name,
        "submodule_name": f"{cfg.site.kind}_layer_{cfg.site.layer}" if cfg.site else None,
    }
    if cfg.k is not None:
        trainer["k"] = cfg.k
        state["k"] = torch.tensor(cfg.k, dtype=torch.int32)
        state["threshold"] = torch.tensor(-1.0)
    path = folder / WEIGHTS_FILE
    torch.save(state, path)
    buffer = {"d_submodule": cfg.d_model, "io": "out", "ctx_len": cfg.context_size}
    write_json(folder / CONFIG_FILE, {"trainer": trainer, "buffer": buffer, KEY: record(cfg)})
    return path


def _class(weights: TorchFile, name: object) -> DictClass:
    """The class that the configuration names, or else the one whose tensors these are."""
    if name is not None:
        if name not in CLASSES:
            raise ValueError(
                f"{weights.path} is of class {name!r}: those read are {', '.join(CLASSES)}."
            )
        return CLASSES[str(name)]
    stored = set(weights.headers)
    matching: dict[str, DictClass] = {}
    for candidate, layout in CLASSES.items():
        whole = set(layout.names.values()) | layout.unused
        # Early TopK files have no threshold, which nothing needs.
        if whole - (layout.unused & {"threshold"}) <= stored <= whole:
            matching[candidate] = layout
    if not matching:
        raise ValueError(
            f"{weights.path} is none of dictionary_learning's classes: its tensors are "
            f"{', '.join(sorted(stored)[:8])}."
        )
    if len(matching) > 1:
        raise ValueError(
            f"{weights.path} may be of class {' or '.join(matching)}: it needs its {CONFIG_FILE}, "
            "which names the dict_class."
        )
    return next(iter(matching.values()))


def _k(weights: TorchFile, trainer: dict[str, Any], config: Path) -> int:
    said = entry(trainer, "k", int, config)
    stored = int(weights.number("k")) if "k" in weights.headers else said
    if stored is None:
        raise ValueError(f"{weights.path} does not say its k, nor does {CONFIG_FILE}.")
    if said not in (None, stored):
        raise ValueError(f"{config} says k={said} but {weights.path} has {stored}.")
    return stored


def _said(trainer: dict[str, Any], buffer: dict[str, Any], config: Path) -> dict[str, Any]:
    """What the settings say, as fields of `SAEConfig`."""
    # Other names ("mlp", "attention_out") are the trainer's own words: no site is better than a
    # wrong one.
    place = re.fullmatch(
        r"resid_post_layer_(\d+)", entry(trainer, "submodule_name", str, config) or ""
    )
    return {
        "site": Site("resid_post", int(place[1]))
        if place and buffer.get("io", "out") == "out"
        else None,
        "model_name": entry(trainer, "lm_name", str, config),
        "context_size": entry(buffer, "ctx_len", int, config),
    }
