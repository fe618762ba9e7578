"""`jumpscope index`: from settings to index files, with a progress bar."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sae_core.bundle import Bundle
from sae_core.corpus import expand
from sae_core.index.build import Target, build_indexes, tokens_to_run
from sae_core.index.feature_map import check_method
from sae_core.index.index_checkpoint import only_build
from sae_core.index.index_config import IndexConfig
from sae_core.index.ranks import ALONE, Ranks
from sae_core.index.schema import check_name
from sae_core.placement import chosen_device, chosen_dtype, wide_device
from sae_core.workspace import check_command, workspace


def run_index(cfg: IndexConfig, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Build the indexes that `cfg` asks for; progress goes to stderr.

    Returns a `summary`; of several `ranks` all call this, and all but the first return {}. Raises
    ValueError with one sentence for a user's mistake.
    """
    from tqdm import tqdm

    if not cfg.bundle and not cfg.model:
        raise ValueError("give bundle, or model and sae: what is to be indexed?")
    check_method(cfg.map)
    device = chosen_device(cfg.device)
    dtype = chosen_dtype(cfg.dtype, device)
    started = time.monotonic()
    if cfg.model:
        bundle = workspace(cfg.model, cfg.sae)
        names = list(bundle.sae_names)
    else:
        bundle = Bundle.open(cfg.bundle)
        names = list(dict.fromkeys(cfg.sae)) or list(bundle.sae_names)
    for name in names:
        _check_configuration(bundle, name, cfg)
    expand(cfg.corpus)
    paths = [bundle.index_path(name) for name in names]
    for path in paths:
        check_name(path)
    with only_build(paths if ranks.first else []):
        pass  # whoever is at work on them, or a folder without rights, shows before the model loads
    targets = [
        Target(sae=bundle.load_sae(name, wide_device(device)), out_path=bundle.index_path(name))
        for name in names
    ]
    model, tokenizer = bundle.load_model(dtype, device)
    with tqdm(
        total=tokens_to_run([target.sae for target in targets], cfg),
        unit="token",
        unit_scale=True,
        desc="indexing",
        dynamic_ncols=True,
        disable=not ranks.first,
    ) as bar:
        metas = build_indexes(
            model,
            tokenizer,
            targets,
            cfg,
            model_name=cfg.model or bundle.name,
            progress=bar.update,
            ranks=ranks,
        )
    return summary(started, zip(names, paths, metas, strict=True)) if ranks.first else {}


def summary(started: float, built: Iterable[tuple[str, Path, dict[str, Any]]]) -> dict[str, Any]:
    """`{"seconds", "indexes": [{"sae", "path", "bytes", "tokens", "documents", "l0", "fvu",
    "dead"}]}` of names, files and meta entries; `started` by the monotonic clock.
    """
    return {
        "seconds": round(time.monotonic() - started, 1),
        "indexes": [
            {
                "sae": name,
                "path": str(path),
                "bytes": path.stat().st_size,
                "tokens": meta["tokens"],
                "documents": meta["documents"],
                **meta["totals"],
            }
            for name, path, meta in built
        ],
    }


def _check_configuration(bundle: Bundle, name: str, cfg: IndexConfig) -> None:
    """ValueError for an SAE that cannot be indexed, before its weights and the model are read."""
    sae = bundle.sae_config(name)
    if sae.site is None:
        command = check_command(bundle, name)
        raise ValueError(f"SAE {name} does not say at which site it reads: {command} finds it.")
    if not (cfg.context_size or sae.context_size):
        raise ValueError(
            f"SAE {name} does not say how many tokens its training prompts had: give "
            "--context-size, 1024 for instance."
        )
