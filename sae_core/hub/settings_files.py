"""What the small settings files beside weights say of SAEs whose names say nothing."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from sae_core.config import Site
from sae_core.formats.config_json import read_json
from sae_core.formats.config_yaml import read_yaml
from sae_core.formats.hooks import site_of_hook
from sae_core.formats.layouts import layout_of
from sae_core.hub.failures import errors_explained, unreachable
from sae_core.hub.listing import Listing

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Described:
    """What an SAE's settings say, without its weights."""

    site: Site | None = None
    site_out: Site | None = None
    width: int | None = None
    l0: float | None = None
    """Active features per token, as it was trained to have or had at the end."""


def described(listing: Listing, weights: Sequence[str]) -> dict[str, Described]:
    """Path of weights -> what its settings file says; nothing for those that cannot be had."""
    assert listing.files is not None
    files: dict[str, list[str]] = {}
    for path in weights:
        layout = layout_of(path)
        assert layout is not None
        there = [file for file in layout.needed(path) if file in listing.files]
        if there:
            # circuit-tracer's say the hooks in one, the sizes in another.
            files[path] = there if layout.format == "circuit_tracer" else there[:1]
    if not files:
        return {}
    wanted = sorted({file for some in files.values() for file in some})
    with errors_explained(listing.repo):
        try:
            folder = Path(
                snapshot_download(listing.repo, revision=listing.commit, allow_patterns=wanted)
            )
        except Exception as error:  # of no class in common: `unreachable` tells them apart
            if not unreachable(error):
                raise
            log.warning(
                "The hub cannot be reached: what the settings files of %s say is left out.",
                listing.repo,
            )
            return {}
    return {
        path: _described([folder / file for file in some], path) for path, some in files.items()
    }


def _described(files: Sequence[Path], weights: str) -> Described:
    """What is said of the SAE with these weights; what is not said plainly is left out."""
    layout = layout_of(weights)
    assert layout is not None
    reader = _READERS.get(layout.format)
    if layout.format == "saelens" and files[0].name != "cfg.json":
        reader = _llama_scope
    if reader is None:
        return Described()
    try:
        written: dict[str, Any] = {}
        for file in files:
            written |= read_yaml(file) if file.suffix == ".yaml" else read_json(file)
        return reader(written, weights)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        log.warning("%s says nothing of use (%r).", files[0], error)
        return Described()


def _saelens(written: dict[str, Any], weights: str) -> Described:
    said = {**written, **(written.get("metadata") or {})}
    model = said.get("model_name") or ""
    hook, hook_out = said.get("hook_name") or said.get("hook_point"), said.get("hook_name_out")
    return Described(
        site=site_of_hook(hook or "", model),
        site_out=site_of_hook(hook_out or "", model),
        width=int(written["d_sae"]),
        l0=_number(said.get("l0")),
    )


def _dictionary_learning(written: dict[str, Any], weights: str) -> Described:
    trainer = written["trainer"]
    place = re.fullmatch(r"resid_post_layer_(\d+)", trainer.get("submodule_name") or "")
    site = Site("resid_post", int(place[1])) if place else None
    aim = trainer.get("k") or trainer.get("target_l0")
    return Described(site=site, width=int(trainer["dict_size"]), l0=_number(aim))


def _sparsify(written: dict[str, Any], weights: str) -> Described:
    width = written.get("num_latents") or written["d_in"] * written["expansion_factor"]
    # Of a transcoder the folder names the module, not what goes into it.
    folder = weights.split("/")[-2] if "/" in weights else ""
    site = None if written.get("transcode") else site_of_hook(folder)
    return Described(site=site, width=int(width), l0=_number(written.get("k")))


def _llama_scope(written: dict[str, Any], weights: str) -> Described:
    hook, hook_out = written["hook_point_in"], written["hook_point_out"]
    width = written.get("d_sae") or written["d_model"] * written["expansion_factor"]
    return Described(
        site=site_of_hook(hook),
        site_out=site_of_hook(hook_out) if hook_out != hook else None,
        width=int(width),
        l0=_number(written.get("top_k")),
    )


def _circuit_tracer(written: dict[str, Any], weights: str) -> Described:
    (layer,) = re.findall(r"layer_(\d+)\.safetensors$", weights)
    hooks = [
        written.get(key, usual)
        for key, usual in (
            ("feature_input_hook", "mlp.hook_in"),
            ("feature_output_hook", "hook_mlp_out"),
        )
    ]
    site, site_out = (site_of_hook(f"blocks.{layer}.{hook}") for hook in hooks)
    width = written.get("d_feature")
    return Described(
        site=site,
        site_out=site_out,
        width=int(width) if width else None,
        l0=_number(written.get("k")),
    )


def _hook_z(written: dict[str, Any], weights: str) -> Described:
    return Described(site=site_of_hook(written["act_name"]), width=int(written["dict_size"]))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


_READERS = {
    "saelens": _saelens,
    "dictionary_learning": _dictionary_learning,
    "sparsify": _sparsify,
    "llama_scope": _llama_scope,
    "circuit_tracer": _circuit_tracer,
    "hook_z": _hook_z,
}
