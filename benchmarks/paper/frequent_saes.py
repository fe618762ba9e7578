"""The SAEs of the study of very frequent features: every architecture, and JumpReLU with the
penalty on frequent features, all at one rate, on the same tokens, to the same L0.
"""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.paper.arms import LOSS, RECIPE
from sae_core.bundle import BUNDLE_FILE, Bundle, write_bundle
from sae_core.config import Architecture
from sae_core.formats.saelens import load_sae
from sae_core.sae import SAE
from training.loop import train
from training.train_config import RunOptions, TrainConfig, short_run

KINDS: dict[str, tuple[Architecture, float]] = {
    "jumprelu": ("jumprelu", 0.0),
    "gated": ("gated", 0.0),
    "topk": ("topk", 0.0),
    "standard": ("standard", 0.0),
    "frequency_0.1": ("jumprelu", 0.1),
    "frequency_0.01": ("jumprelu", 0.01),
}
"""Architecture, and w_0 of the penalty on frequent features (0: none)."""
SITES = ("resid_post/4", "mlp_out/4", "attn_out/4")
TARGETS = (32.0, 64.0)
LR = 0.01
"""Of every kind: in the comparison of architectures the best rate of each, or next to it."""


def config(kind: str, options: argparse.Namespace) -> TrainConfig:
    """A run of one kind at all sites and targets; ValueError for an unknown kind."""
    if kind not in KINDS:
        raise ValueError(f"there is no kind {kind}: use one of {', '.join(KINDS)}.")
    architecture, frequency_scale = KINDS[kind]
    compiled = "cuda-graph" if torch.cuda.is_available() else "off"
    return short_run(
        model=str(options.bundle / "model"),
        corpus=tuple(options.corpus),
        sites=SITES,
        architectures=(architecture,),
        d_sae=options.d_sae,
        out=str(options.out / f"{kind}-{options.seed}"),
        l0_targets=TARGETS,
        lrs=(LR,),
        lr_warmup=RECIPE["lr_warmup"],
        lr_decay=RECIPE["lr_decay"],
        tokens=options.batch * options.steps,
        batch=options.batch,
        context_size=options.context_size,
        seed=options.seed,
        loss=replace(LOSS, frequency_scale=frequency_scale),
        run=RunOptions(compile=compiled, checkpoint_every=0, index_tokens=0),
    )


def make(options: argparse.Namespace) -> None:
    """Train `options.kinds`, each as a bundle in a folder of its name and seed."""
    for kind in options.kinds:
        train(config(kind, options))


def saes_at(folders: Sequence[Path], site: str, device: torch.device) -> list[SAE]:
    """The SAEs of one site in some folders, each of them a run's bundle or a single SAE's."""
    found = []
    for folder in folders:
        if (folder / BUNDLE_FILE).is_file():
            bundle = Bundle.open(folder)
            found += [bundle.load_sae(name) for name in bundle.sae_names]
        else:
            found.append(load_sae(folder))
    return [sae.to(device) for sae in found if str(sae.cfg.site) == site]


def place_in_order(sae: SAE) -> tuple[int, float, int]:
    """By which SAEs of a site stand in order: seeds, the larger L0 first, kinds as in `KINDS`."""
    return seed_of(sae), -target_of(sae), list(KINDS).index(kind_of(sae))


def kind_of(sae: SAE) -> str:
    """Its kind, from the settings that it was trained with."""
    loss = sae.cfg.metadata["training"]["settings"].get("loss", {})
    scale = loss.get("frequency_scale") or 0.0
    return f"frequency_{scale:g}" if scale else sae.cfg.architecture


def target_of(sae: SAE) -> float:
    """The L0 that it was trained to."""
    return float(sae.cfg.metadata["training"]["l0_target"])


def seed_of(sae: SAE) -> int:
    """The seed that it was trained with."""
    return int(sae.cfg.metadata["training"]["settings"]["seed"])


def blind(runs: Sequence[Path], model: Path, site: str, out: Path) -> None:
    """A bundle for the blind test: of each run its SAE of `site` at the highest L0, called a, b, c
    and so on in the order of the runs. ValueError where a run has none.
    """
    names = []
    for letter, run in zip("abcdefghijklmnopqrstuvwxyz", runs, strict=False):
        bundle = Bundle.open(run)
        saes = {name: bundle.load_sae(name) for name in bundle.sae_names}
        of_site = [name for name, sae in saes.items() if str(sae.cfg.site) == site]
        if not of_site:
            raise ValueError(f"{run} has no SAE of {site}.")
        best = max(of_site, key=lambda name: target_of(saes[name]))
        shutil.copytree(run / "saes" / best, out / "saes" / letter)
        names.append(letter)
    write_bundle(out, name=out.name, title="Blind test", model=str(model.resolve()), saes=names)
