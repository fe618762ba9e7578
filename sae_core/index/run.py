"""`jumpscope index`: from settings to index files, with a progress bar."""

import time
from pathlib import Path
from typing import Any

import torch

from sae_core.bundle import INDEX_FILE, Bundle, load_language_model
from sae_core.formats.saelens import load_sae
from sae_core.index.build import Target, build_indexes
from sae_core.index.config import IndexConfig


def run(cfg: IndexConfig) -> dict[str, Any]:
    """Build the indexes that `cfg` asks for; progress goes to stderr.

    Returns `{"seconds", "indexes": [{"sae", "path", "bytes", "tokens", "documents", "l0", "fvu",
    "dead"}]}`. Raises ValueError with one sentence for a user's mistake.
    """
    from tqdm import tqdm

    if not cfg.bundle and not cfg.model:
        raise ValueError("give bundle (and sae), or model and sae_path: what is to be indexed?")
    device = _device(cfg)
    dtype = _dtype(cfg, device)
    started = time.monotonic()
    if cfg.bundle:
        bundle = Bundle.open(cfg.bundle)
        names = list(dict.fromkeys(cfg.sae)) or list(bundle.sae_names)
        targets = [
            Target(sae=bundle.load_sae(name, device), out_path=bundle.index_path(name))
            for name in names
        ]
        model, tokenizer = bundle.load_model(dtype, device)
        model_name = bundle.name
    else:
        names = list(dict.fromkeys(cfg.sae_path))
        targets = [
            Target(sae=load_sae(path, device), out_path=Path(path) / INDEX_FILE) for path in names
        ]
        model, tokenizer = load_language_model(cfg.model, dtype, device)
        model_name = cfg.model
    with tqdm(
        total=cfg.tokens, unit="token", unit_scale=True, desc="indexing", dynamic_ncols=True
    ) as bar:
        metas = build_indexes(
            model, tokenizer, targets, cfg, model_name=model_name, progress=bar.update
        )
    return {
        "seconds": round(time.monotonic() - started, 1),
        "indexes": [
            {
                "sae": name,
                "path": str(target.out_path),
                "bytes": target.out_path.stat().st_size,
                "tokens": meta["tokens"],
                "documents": meta["documents"],
                **meta["totals"],
            }
            for name, target, meta in zip(names, targets, metas, strict=True)
        ],
    }


def _device(cfg: IndexConfig) -> torch.device:
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("there is no CUDA device: use --device cpu.")
    if cfg.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(cfg.device)


def _dtype(cfg: IndexConfig, device: torch.device) -> torch.dtype:
    if cfg.dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[cfg.dtype]
