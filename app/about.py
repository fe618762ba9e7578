"""What a bundle holds, read from its files without loading a model: facts for the overview."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from sae_core.bundle import Bundle
from sae_core.index import Index

BINS_PER_DECADE = 4
"""Resolution of the frequency histogram."""

SUMMARY = ("l0", "fvu", "delta_lm_loss", "loss_recovered_mean", "dead", "high_frequency")
"""Measured numbers that stand beside an SAE's name; `measured` has them all."""


def open_index(bundle: Bundle, sae: str) -> Index:
    """The index of an SAE; ValueError if there is none or it was built from other weights."""
    path = bundle.index_path(sae)
    if not path.is_file():
        raise ValueError(f"SAE {sae} has no index yet: build one with jumpscope index.")
    index = Index.open(path)
    weights = bundle.sae_config(sae).metadata.get("content_hash")
    indexed = index.meta.get("sae_hash")
    if weights and indexed and weights != indexed:
        raise ValueError(
            f"The index of SAE {sae} was built from other weights: build it again with "
            "jumpscope index."
        )
    return index


def bundle_facts(bundle: Bundle) -> dict[str, Any]:
    """Name, title and the examples that pages offer first."""
    return {"name": bundle.name, "title": bundle.title, "examples": bundle.examples}


def model_facts(bundle: Bundle) -> dict[str, Any] | None:
    """Size and shape of the language model from its folder; None if it is a hub id."""
    folder = bundle.path / bundle.model
    if not (folder / "config.json").is_file():
        return None
    config = json.loads((folder / "config.json").read_text())
    return {
        "name": bundle.name,
        "architecture": str((config.get("architectures") or [config.get("model_type")])[0]),
        "parameters": sum(_parameters(file) for file in sorted(folder.glob("*.safetensors"))),
        "layers": config.get("num_hidden_layers"),
        "d_model": config.get("hidden_size"),
        "vocabulary": config.get("vocab_size"),
        "context": config.get("max_position_embeddings"),
    }


def loaded_facts(model: Any) -> dict[str, Any]:
    """The same of a model that is in memory."""
    config = model.config
    return {
        "name": str(config.name_or_path),
        "architecture": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": config.num_hidden_layers,
        "d_model": config.hidden_size,
        "vocabulary": config.vocab_size,
        "context": getattr(config, "max_position_embeddings", None),
    }


def _parameters(file: Path) -> int:
    try:
        with safe_open(file, framework="np") as tensors:
            names = list(tensors.keys())
            return sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}): copy the model again.") from error


def sae_facts(bundle: Bundle, name: str) -> dict[str, Any]:
    """Where an SAE reads, how large it is, and what was measured when it was made."""
    cfg = bundle.sae_config(name)
    measured = dict(cfg.metadata.get("measured") or {})
    site = cfg.site
    where = "site unknown" if site is None else f"layer {site.layer} · {site.kind}"
    return {
        "name": name,
        "label": f"{where} · {cfg.d_sae:,} features",
        "site": None if site is None else site.kind,
        "layer": None if site is None else site.layer,
        "architecture": cfg.architecture,
        "d_model": cfg.d_model,
        "d_sae": cfg.d_sae,
        "indexed": bundle.index_path(name).is_file(),
        **{key: measured.get(key) for key in SUMMARY},
        "measured": measured,
    }


def index_facts(index: Index) -> dict[str, Any]:
    """What text the index was built on."""
    meta = index.meta
    return {key: meta.get(key) for key in ("tokens", "documents", "context_size", "sources")}


def frequency_histogram(frequencies: np.ndarray, tokens: int) -> dict[str, Any]:
    """Features by log10 of frequency, in quarters of a decade down to one firing in the sample.

    `counts[i]` features lie in [edges[i], edges[i + 1]); features that never fire are `dead`.
    """
    alive = frequencies[frequencies > 0]
    lowest = math.floor(math.log10(1 / max(tokens, 10)) * BINS_PER_DECADE)
    edges = np.arange(lowest, 1) / BINS_PER_DECADE
    counts, _ = np.histogram(np.log10(alive), bins=edges)
    return {
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "dead": int(len(frequencies) - len(alive)),
    }
