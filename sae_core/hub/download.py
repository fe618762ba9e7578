"""Fetching one SAE: just the files it needs, all of the same commit, into the client's cache."""

import logging
from dataclasses import replace
from pathlib import Path
from posixpath import normpath

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

from sae_core.formats.origin import Origin
from sae_core.hub.catalog import catalog_of
from sae_core.hub.choice import NEEDED, choose, sae_folders
from sae_core.hub.failures import explained
from sae_core.hub.ids import CANONICAL, SAEId, is_gemma_scope, origin
from sae_core.hub.listing import Listing, look

log = logging.getLogger(__name__)


def fetch(sae_id: SAEId) -> tuple[Path, Origin]:
    """The SAE's local folder, downloaded unless it was before, and what its id says of it.

    The origin names the commit. ValueError with one sentence if there is no such SAE, it may not be
    read, or cannot be had.
    """
    listing = look(sae_id.repo, sae_id.revision)
    if listing.files is None:
        return _cached(sae_id, listing.commit)
    folder = choose(sae_id, listing)
    weights = sae_folders(listing.files)[folder]
    if is_gemma_scope(sae_id.repo) and not catalog_of(sae_id.within(folder), listing)[0].whole:
        log.warning(
            "%s is smaller on the hub than others of its kind: its file is not whole there.",
            sae_id.within(folder),
        )
    # Small files first: what they say may stop the user before the wait for the large one.
    for path in (*_beside(weights, listing), weights):
        local = _download(sae_id, path, listing.commit)
    said = origin(sae_id.within(folder), listing.commit)
    return local.parent, replace(said, bytes=listing.files[weights])


def _beside(weights: str, listing: Listing) -> list[str]:
    assert listing.files is not None
    folder, _, name = weights.rpartition("/")
    paths = (normpath(f"{folder}/{other}").lstrip("/") for other in NEEDED[name])
    return [path for path in paths if path in listing.files]


def _download(sae_id: SAEId, path: str, commit: str) -> Path:
    try:
        return Path(hf_hub_download(sae_id.repo, path, revision=commit))
    except Exception as error:
        if sentence := explained(error, str(sae_id)):
            raise sentence from error
        raise


def _cached(sae_id: SAEId, commit: str) -> tuple[Path, Origin]:
    """For a repository that was never listed and cannot be: the id's own folder, if it is there."""
    for name in NEEDED:
        path = f"{sae_id.folder}/{name}".lstrip("/")
        local = try_to_load_from_cache(sae_id.repo, path, constants.HF_HUB_CACHE, revision=commit)
        if isinstance(local, str):
            return Path(local).parent, origin(sae_id, commit)
    why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "the hub cannot be reached"
    if sae_id.folder.rpartition("/")[2] == CANONICAL:
        raise ValueError(
            f"which folder {sae_id} means cannot be told, for {why} and the repository was never "
            "listed: name the folder, or go online once."
        )
    raise ValueError(f"{sae_id} is not among the files downloaded before, and {why}.")
