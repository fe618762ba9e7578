"""Fetching one SAE: just the files it needs, all of the same commit, into the client's cache."""

import logging
from dataclasses import replace
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

from sae_core.formats.layouts import LAYOUTS, layout_of
from sae_core.formats.origin import Origin
from sae_core.hub.catalog import catalog_of
from sae_core.hub.choice import choose, sae_places, twins
from sae_core.hub.failures import errors_explained
from sae_core.hub.ids import CANONICAL, SAEId, is_gemma_scope, origin
from sae_core.hub.listing import Listing, look

log = logging.getLogger(__name__)


def fetch(sae_id: SAEId) -> tuple[Path, Origin]:
    """The SAE's local folder or file, downloaded unless it was before, and what its id says of it.

    The origin names the commit. ValueError with one sentence if there is no such SAE, it may not be
    read, or cannot be had.
    """
    listing = look(sae_id.repo, sae_id.revision)
    if listing.files is None:
        return _cached(sae_id, listing.commit)
    place = choose(sae_id, listing)
    _warn(sae_id.within(place), listing)
    weights = sae_places(listing.files)[place]
    layout = layout_of(weights)
    assert layout is not None
    # Small files first: what they say may stop the user before the wait for the large one.
    beside = [path for path in layout.needed(weights) if path in listing.files]
    for path in (*beside, weights):
        local = _download(sae_id, path, listing.commit)
    said = origin(sae_id.within(place), listing.commit)
    return _local(local, weights, place), replace(said, bytes=listing.files[weights])


def _warn(sae_id: SAEId, listing: Listing) -> None:
    """Say what the list of files tells against this SAE before it is downloaded."""
    if not is_gemma_scope(sae_id.repo):
        return
    assert listing.files is not None
    if not catalog_of(sae_id, listing)[0].whole:
        log.warning(
            "%s is smaller on the hub than others of its kind: its file is not whole there.", sae_id
        )
    if same := twins(sae_id.folder, sae_places(listing.files), listing.hashes):
        log.warning(
            "%s is on the hub the same file as %s, so one of the two is labelled wrong: "
            "jumpscope inspect --check tells which.",
            sae_id,
            sae_id.within(same[0]),
        )


def _local(weights: Path, path: str, place: str) -> Path:
    """The folder or file here of the SAE at `place`, whose weights, at `path`, are here."""
    for _ in range(path.count("/") - place.count("/") if place else path.count("/") + 1):
        weights = weights.parent
    return weights


def _download(sae_id: SAEId, path: str, commit: str) -> Path:
    with errors_explained(str(sae_id)):
        return Path(hf_hub_download(sae_id.repo, path, revision=commit))


def _cached(sae_id: SAEId, commit: str) -> tuple[Path, Origin]:
    """For a repository that was never listed and cannot be: the id's own folder, if it is there."""
    for path in _possible(sae_id.folder):
        local = try_to_load_from_cache(sae_id.repo, path, constants.HF_HUB_CACHE, revision=commit)
        if isinstance(local, str):
            return _local(Path(local), path, sae_id.folder), origin(sae_id, commit)
    why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "the hub cannot be reached"
    if sae_id.folder.rpartition("/")[2] == CANONICAL:
        raise ValueError(
            f"which folder {sae_id} means cannot be told, for {why} and the repository was never "
            "listed: name the folder, or go online once."
        )
    raise ValueError(f"{sae_id} is not among the files downloaded before, and {why}.")


def _possible(place: str) -> list[str]:
    """Paths at which the weights of the SAE at `place` may lie."""
    if layout_of(place):
        return [place]
    return [
        "/".join(part for part in (place, layout.folder, layout.name.replace("\\", "")) if part)
        for layout in LAYOUTS
        if not layout.one_a_file
    ]
