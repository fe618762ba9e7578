"""What the small settings files beside weights say of SAEs whose names say nothing."""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from sae_core.config import Site
from sae_core.formats.hooks import site_of_hook
from sae_core.hub.choice import NEEDED
from sae_core.hub.failures import explained, unreachable
from sae_core.hub.listing import Listing

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Described:
    """What an SAE's settings say, without its weights."""

    site: Site | None = None
    site_out: Site | None = None
    width: int | None = None


def described(listing: Listing, weights: Sequence[str]) -> dict[str, Described]:
    """Path of weights -> what its settings file says; nothing for those that cannot be had."""
    assert listing.files is not None
    files: dict[str, str] = {}
    for path in weights:
        above, _, name = path.rpartition("/")
        for file in NEEDED[name][:1]:
            files[path] = f"{above}/{file}".lstrip("/")
    files = {path: file for path, file in files.items() if file in listing.files}
    if not files:
        return {}
    try:
        folder = Path(
            snapshot_download(
                listing.repo, revision=listing.commit, allow_patterns=[*files.values()]
            )
        )
    except Exception as error:
        if unreachable(error):
            return {}
        if sentence := explained(error, listing.repo):
            raise sentence from error
        raise
    return {path: _described(folder / file, path) for path, file in files.items()}


def _described(file: Path, weights: str) -> Described:
    """What is said of the SAE with these weights; what is not said plainly is left out."""
    try:
        written = json.loads(file.read_text())
        read = _READERS[weights.rpartition("/")[2]]
        return read(written, file.parent.name)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        log.warning("%s says nothing of use (%r).", file, error)
        return Described()


def _saelens(written: dict[str, Any], folder: str) -> Described:
    said = {**written, **(written.get("metadata") or {})}
    model = said.get("model_name") or ""
    hook, hook_out = said.get("hook_name") or said.get("hook_point"), said.get("hook_name_out")
    return Described(
        site=site_of_hook(hook or "", model),
        site_out=site_of_hook(hook_out or "", model),
        width=int(written["d_sae"]),
    )


def _dictionary_learning(written: dict[str, Any], folder: str) -> Described:
    trainer = written["trainer"]
    place = re.fullmatch(r"resid_post_layer_(\d+)", trainer.get("submodule_name") or "")
    site = Site("resid_post", int(place[1])) if place else None
    return Described(site=site, width=int(trainer["dict_size"]))


def _sparsify(written: dict[str, Any], folder: str) -> Described:
    width = written.get("num_latents") or written["d_in"] * written["expansion_factor"]
    # Of a transcoder the folder names the module, not what goes into it.
    site = None if written.get("transcode") else site_of_hook(folder)
    return Described(site=site, width=int(width))


_READERS = {
    "sae_weights.safetensors": _saelens,
    "ae.pt": _dictionary_learning,
    "sae.safetensors": _sparsify,
}
