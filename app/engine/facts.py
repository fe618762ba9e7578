"""What a bundle holds, read from its files without loading a model: facts for the overview."""

import json
import logging
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from sae_core.bundle import Bundle
from sae_core.config import SAEConfig
from sae_core.files import is_version
from sae_core.index import Index

log = logging.getLogger(__name__)

BINS_PER_DECADE = 4
"""Resolution of the frequency histogram."""

COMPARISON_FILE = "pareto.json"

SUMMARY = ("l0", "fvu", "delta_lm_loss", "loss_recovered_mean", "dead", "high_frequency")
"""Measured numbers that stand beside an SAE's name; `measured` has them all."""


def bundle_facts(bundle: Bundle) -> dict[str, Any]:
    """Name, title and the examples that pages offer first."""
    return {"name": bundle.name, "title": bundle.title, "examples": bundle.examples}


def comparison(bundle: Bundle) -> dict[str, Any] | None:
    """The curves of `pareto.json`, if the bundle has one (`benchmarks.pareto_report` writes it)."""
    path = bundle.path / COMPARISON_FILE
    if not path.is_file():
        return None
    try:
        curves = json.loads(path.read_text(encoding="utf-8"))
        is_read = curves["format"] == "jumpscope-comparison" and is_version(curves["version"], 1)
    except (ValueError, KeyError, TypeError):
        is_read = False
    if not is_read:
        log.warning("%s is no comparison that this version reads: it is not shown.", path)
        return None
    return curves


def model_facts(bundle: Bundle) -> dict[str, Any]:
    """Size and shape of the language model from its folder; its name alone if it is a hub id."""
    folder = bundle.path / bundle.model
    if not (folder / "config.json").is_file():
        return {"name": bundle.model}
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


def facts_of_model(bundle: Bundle, loaded: Any, problem: str | None) -> dict[str, Any]:
    """The model's facts from its files, else from the model `loaded`, None before it is.

    `problem` says why it cannot be loaded; it stays with the facts, or gives way to what its files
    complain of.
    """
    try:
        facts = model_facts(bundle)
    except (ValueError, OSError) as error:
        facts, problem = {"name": bundle.model}, str(error)
    if "layers" not in facts and loaded is not None:
        facts = loaded_facts(loaded)
    return {**facts, "problem": problem}


def _parameters(file: Path) -> int:
    try:
        with safe_open(file, framework="np") as tensors:
            names = list(tensors.keys())
            return sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}): copy the model again.") from error


def sae_facts(bundle: Bundle, name: str) -> dict[str, Any]:
    """Where an SAE reads, how large it is, what it is made from and what was measured then.

    ValueError with one sentence if its files cannot be read.
    """
    cfg = bundle.sae_config(name)
    measured = dict(cfg.metadata.get("measured") or {})
    site = cfg.site
    return {
        "name": name,
        "label": _label(cfg),
        "place": _place(cfg),
        "site": None if site is None else site.kind,
        "layer": None if site is None else site.layer,
        **config_facts(cfg),
        "weights": bundle.sources.get(name),
        "indexed": bundle.index_path(name).is_file(),
        **{key: measured.get(key) for key in SUMMARY},
        "measured": measured,
        "problem": None,
    }


def unread_facts(name: str, problem: str) -> dict[str, Any]:
    """The same of an SAE that cannot be read: its name, and the sentence that says why."""
    unknown = ("site", "layer", "d_model", "d_sae", "declared_l0", "content_hash", *SUMMARY)
    nothing = dict.fromkeys(unknown)
    words = {"name": name, "label": name, "place": name}
    return {**words, **nothing, "measured": {}, "problem": problem}


def facts_of_all(bundle: Bundle) -> list[dict[str, Any]]:
    """`sae_facts` of every SAE, or the problem with its files; no two of one label."""
    rows = []
    for name in bundle.sae_names:
        try:
            rows.append(sae_facts(bundle, name))
        except ValueError as error:
            rows.append(unread_facts(name, str(error)))
    labels = Counter(facts["label"] for facts in rows)
    return [
        facts
        if labels[facts["label"]] == 1
        else facts | {key: f"{facts[key]} · {facts['name']}" for key in ("label", "place")}
        for facts in rows
    ]


def config_facts(cfg: SAEConfig) -> dict[str, Any]:
    """What an SAE's files say of it: kind, sites, widths, declared L0, origin, hash."""
    source = cfg.metadata.get("source") or {}
    declared = cfg.metadata.get("declared") or {}
    return {
        "architecture": cfg.architecture,
        "d_model": cfg.d_model,
        "d_sae": cfg.d_sae,
        "reads": None if cfg.site is None else str(cfg.site),
        "writes": None if cfg.site_out is None else str(cfg.site_out),
        "d_out": cfg.width_out,
        "skip": cfg.skip,
        "k": cfg.k,
        "trained_on": cfg.model_name or None,
        "context_size": cfg.context_size,
        "declared_l0": declared.get("l0"),
        "repository": source.get("repo"),
        "folder": source.get("path"),
        "revision": source.get("revision"),
        "content_hash": cfg.metadata.get("content_hash"),
    }


def _place(cfg: SAEConfig) -> str:
    """Where an SAE reads, and a transcoder writes, in words."""
    where = "site unknown" if cfg.site is None else f"layer {cfg.site.layer} · {cfg.site.kind}"
    return where if cfg.site_out is None else f"{where} → {cfg.site_out.kind}"


def _label(cfg: SAEConfig) -> str:
    """What an SAE is called in lists: an L0 that its makers gave it tells it from its siblings."""
    declared = (cfg.metadata.get("declared") or {}).get("l0")
    label = f"{_place(cfg)} · {cfg.d_sae:,} features"
    return f"{label} · L0 {declared:g}" if declared else label


def index_facts(index: Index | None) -> dict[str, Any]:
    """What the overview shows of an index: its text, frequencies and features worth opening."""
    if index is None:
        return {"index": None, "frequency_histogram": None, "highlights": []}
    return {
        "index": text_facts(index),
        "frequency_histogram": frequency_histogram(index.frequencies(), int(index.meta["tokens"])),
        "highlights": index.highlights(12),
    }


def text_facts(index: Index) -> dict[str, Any]:
    """What text the index was built on, and the SAE's `totals` on it, None where undefined."""
    meta = index.meta
    totals = {k: v if math.isfinite(v) else None for k, v in meta["totals"].items()}
    facts = {key: meta.get(key) for key in ("tokens", "documents", "context_size", "sources")}
    return {**facts, "totals": totals}


def frequency_histogram(frequencies: np.ndarray, tokens: int) -> dict[str, Any]:
    """Features by log10 of frequency, in quarters of a decade down to one firing in the sample.

    `counts[i]` features lie in [edges[i], edges[i + 1]); `dead` is the share that never fires.
    """
    alive = frequencies[frequencies > 0]
    lowest = math.floor(math.log10(1 / max(tokens, 10)) * BINS_PER_DECADE)
    edges = np.arange(lowest, 1) / BINS_PER_DECADE
    counts, _ = np.histogram(np.log10(alive), bins=edges)
    return {
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "dead": 1 - len(alive) / len(frequencies),
    }
