"""The catalog of a repository: its SAEs by site, width and L0, from its list of files."""

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace

from sae_core.config import Site
from sae_core.hub.choice import canonical, choose, sae_places, same_files
from sae_core.hub.ids import SAEId, is_gemma_scope, origin, parse_id
from sae_core.hub.listing import Listing, look
from sae_core.hub.settings_files import Described, described

_NAMED = re.compile(
    r"(?:layer_\d+|embedding)/width_(?P<width>\d+[km])/average_l0_\d+"
    r"|[a-z_]+/layer_\d+_width_(?P<width_2>\d+[km])_l0_(?P<level>[a-z]+)(?P<affine>_affine)?"
)


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One SAE that can be had, as far as names, sizes and small settings files tell."""

    id: str
    """What to give to --sae."""
    site: Site | None
    """Where it reads."""
    site_out: Site | None
    """Transcoders: what it reconstructs."""
    width: int | None
    """Number of features."""
    l0: float | None
    """Active features per token, as its makers state it."""
    level: str = ""
    """Gemma Scope 2's word for its L0: small, medium or big."""
    affine: bool = False
    """Gemma Scope 2's transcoders: with a skip connection."""
    bytes: int
    """Size of the file with the weights."""
    canonical: bool = False
    """Whether `canonical` means this one of its layer and width."""
    whole: bool = True
    """False if the file is smaller than those of the same sites and width are."""
    same_as: str = ""
    """Id of another SAE in the repository that is this very file: one is labelled wrong."""
    commit: str = ""
    """The repository's commit that was looked at; "" for a folder."""


def read_catalog(source: SAEId | str, revision: str | None = None) -> list[CatalogEntry]:
    """The SAEs of a repository, or of the part of it that an id names, in natural order.

    No weights are downloaded. ValueError with one sentence if there are none, or for the reasons
    that `fetch` has.
    """
    sae_id = source if isinstance(source, SAEId) else parse_id(source)
    if sae_id is None:
        raise ValueError(
            f"{source} is neither a folder here nor a hub id such as owner/repository."
        )
    if revision:
        sae_id = replace(sae_id, revision=revision)
    listing = look(sae_id.repo, sae_id.revision)
    if listing.files is None:
        raise ValueError(
            f"what {sae_id.repo} holds cannot be told, for it was never listed and the hub cannot "
            "be reached: go online once."
        )
    return catalog_of(sae_id, listing)


def catalog_of(sae_id: SAEId, listing: Listing) -> list[CatalogEntry]:
    """The same, of a repository whose files are listed."""
    assert listing.files is not None
    folders = sae_places(listing.files)
    inside = [folder for folder in folders if f"{folder}/".startswith(_prefix(sae_id.folder))]
    if not inside:
        inside = [choose(sae_id, listing)]
    scope = is_gemma_scope(sae_id.repo)
    settings = {} if scope else described(listing, [folders[folder] for folder in inside])
    everything = {
        folder: _entry(sae_id.within(folder), listing, weights, settings.get(weights))
        for folder, weights in folders.items()
    }
    if scope:
        everything = _measured(everything)
    for first, second, *others in same_files(folders, listing.hashes):
        everything[first] = replace(everything[first], same_as=everything[second].id)
        for folder in (second, *others):
            everything[folder] = replace(everything[folder], same_as=everything[first].id)
    above = {folder.rpartition("/")[0] for folder in inside}
    best = {canonical(folder, folders, listing.hashes) for folder in above}
    return [replace(everything[folder], canonical=folder in best) for folder in inside]


def width_of(text: str) -> int:
    """A width as people write it, `16k`, `1m` or `16384`, as a number; ValueError if it is none.

    Names round: 16k is 16,384 and 1m is 1,048,576, the nearest power of two.
    """
    match = re.fullmatch(r"(\d+)([km]?)", text.lower())
    if not match or int(match[1]) == 0:
        raise ValueError(f"width {text!r} is not a number of features such as 16k, 1m or 16384.")
    number = int(match[1])
    if not match[2]:
        return number
    return 2 ** round(math.log2(number * {"k": 1e3, "m": 1e6}[match[2]]))


def _prefix(folder: str) -> str:
    return f"{folder}/" if folder else ""


def _entry(
    sae_id: SAEId, listing: Listing, weights: str, settings: Described | None
) -> CatalogEntry:
    assert listing.files is not None
    said = origin(sae_id, listing.commit)
    named = _NAMED.fullmatch(sae_id.folder) if is_gemma_scope(sae_id.repo) else None
    parts = named.groupdict() if named else {}
    width = parts.get("width") or parts.get("width_2")
    settings = settings or Described()
    return CatalogEntry(
        id=str(sae_id),
        site=said.site or settings.site,
        site_out=said.site_out or settings.site_out,
        width=width_of(width) if width else said.width or settings.width,
        l0=settings.l0 if said.l0 is None else said.l0,
        level=parts.get("level") or "",
        affine=bool(parts.get("affine")),
        bytes=listing.files[weights],
        commit=listing.commit,
    )


def _measured(entries: dict[str, CatalogEntry]) -> dict[str, CatalogEntry]:
    """Marks the files that are not whole.

    Files of one kind of site and one width hold the same arrays in the same format, so the size
    that most of them have is that of a whole file.
    """
    sizes: dict[tuple[object, ...], Counter[int]] = defaultdict(Counter)
    for entry in entries.values():
        sizes[_kind(entry)][entry.bytes] += 1
    common = {
        kind: max(counts, key=lambda size: (counts[size], size)) for kind, counts in sizes.items()
    }
    # A header may be some bytes longer or shorter.
    return {
        folder: replace(entry, whole=entry.bytes > 0.99 * common[_kind(entry)])
        for folder, entry in entries.items()
    }


def _kind(entry: CatalogEntry) -> tuple[object, ...]:
    kinds = (site.kind if site else None for site in (entry.site, entry.site_out))
    return (*kinds, entry.width, entry.affine)
