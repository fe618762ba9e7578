"""`jumpscope list`: the catalog of a hub repository or a folder, or of known models and SAEs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from app.commands.shared import JSONFlag, shown, table, to_json

if TYPE_CHECKING:
    from sae_core.hub import CatalogEntry
    from sae_core.hub.known_pairs import KnownPair


@dataclass(frozen=True, kw_only=True)
class ListSAEs:
    """List the SAEs of a repository on the Hugging Face hub, or of a part of it, or of a folder.

    No weights are downloaded. What it prints as an id is what --sae takes. Without an id, it shows
    known pairs of a language model and SAEs, with the command that opens the app on each.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[ID]")] = ""
    """Hub id, e.g. gemma-scope-2b-pt-res or gemma-scope-2b-pt-res/layer_20, or a local folder."""
    layer: int | None = None
    """Only SAEs of this layer, counted from 0."""
    width: str | None = None
    """Only SAEs of this width: 16k, 1m or a number of features."""
    json: JSONFlag = False
    """Print JSON."""

    def execute(self) -> str:
        """The listing as JSON or text; ValueError if nothing is left of it."""
        from sae_core.hub import read_catalog, width_of
        from sae_core.sources import folder_catalog

        if not self.source:
            return self._known_pairs()
        folder = Path(self.source)
        entries = folder_catalog(folder) if folder.is_dir() else read_catalog(self.source)
        width = None if self.width is None else width_of(self.width)
        kept = [
            entry
            for entry in entries
            if (self.layer is None or (entry.site is not None and entry.site.layer == self.layer))
            and (width is None or entry.width == width)
        ]
        if not kept:
            there = sorted({entry.site.layer for entry in entries if entry.site is not None})
            widths = sorted({entry.width for entry in entries if entry.width is not None})
            raise ValueError(
                f"{self.source} offers {len(entries)} SAEs, but none of this kind: of layers "
                f"{', '.join(map(str, there))} and widths {', '.join(f'{w:,}' for w in widths)}."
            )
        if self.json:
            saes = [_as_json(entry) for entry in kept]
            return to_json({"source": self.source, "commit": kept[0].commit or None, "saes": saes})
        return _as_text(kept)

    def _known_pairs(self) -> str:
        from dataclasses import asdict

        from sae_core.hub.known_pairs import known_pairs

        if self.layer is not None or self.width is not None:
            raise ValueError("--layer and --width choose among a repository's SAEs: name one.")
        if self.json:
            pairs = [
                {**asdict(pair), "command": pair.command, "list": pair.list_command}
                for pair in known_pairs()
            ]
            return to_json({"pairs": pairs})
        return "\n\n".join(map(_pair_as_text, known_pairs()))


def _pair_as_text(pair: "KnownPair") -> str:
    size = "size not known" if pair.model_gb is None else f"{pair.model_gb:g} GB"
    login = ", with a login" if pair.gated else ""
    sae_size = "" if pair.sae_gb is None else f", {pair.sae_gb:g} GB for the one below"
    context = "" if pair.context_size is None else f", context {pair.context_size:,}"
    lines = [
        f"{pair.family}: {pair.model} ({size}{login}, {pair.model_license or _UNSTATED})",
        f"  {pair.activation}; {pair.sites}; features: {shown(pair.features)}{sae_size}{context}"
        f"; {pair.sae_license or _UNSTATED}",
        *([f"  {pair.note}"] if pair.note else []),
        f"  {pair.list_command}",
        f"  {pair.command}",
    ]
    return "\n".join(lines)


_UNSTATED = "license: see its page"
_LEVELS = ("", "small", "medium", "big")


def _as_json(entry: "CatalogEntry") -> dict[str, Any]:
    return {
        "id": entry.id,
        "site": str(entry.site) if entry.site else None,
        "site_out": str(entry.site_out) if entry.site_out else None,
        "width": entry.width,
        "l0": entry.l0,
        "level": entry.level or None,
        "affine": entry.affine,
        "canonical": entry.canonical,
        "bytes": entry.bytes,
        "whole": entry.whole,
        "same_as": entry.same_as or None,
    }


def _as_text(entries: "list[CatalogEntry]") -> str:
    """A line for each site and width with the L0s there are; SAEs of unknown L0 have one each."""
    groups: dict[str, list[CatalogEntry]] = {}
    for entry in entries:
        groups.setdefault(_pattern(entry), []).append(entry)
    rows = [["site", "width", "L0", "size of each", "id"]]
    for pattern, group in groups.items():
        first = group[0]
        site = f"{first.site} to {first.site_out}" if first.site_out else shown(first.site)
        size = _size(max(entry.bytes for entry in group))
        group.sort(key=lambda entry: (entry.l0 or 0, _LEVELS.index(entry.level)))
        rows.append([site, shown(first.width), "  ".join(map(_l0, group)), size, pattern])
    notes = [f"commit {entries[0].commit}"] if entries[0].commit else []
    if any(entry.canonical for entry in entries):
        notes.append("* canonical: of its layer and width the one whose L0 is nearest 100")
    if not all(entry.whole for entry in entries):
        notes.append("! its size is not that of a whole file")
    if doubled := [entry for entry in entries if entry.same_as]:
        notes.append("= one file under two names, of which one is wrong:")
        notes += [f"  {entry.id} and {entry.same_as}" for entry in _once(doubled)]
    return "\n".join([table(rows), *([""] if notes else []), *notes])


def _pattern(entry: "CatalogEntry") -> str:
    """The id with the number or word for the L0 left open."""
    if entry.level:
        return entry.id.replace(f"_l0_{entry.level}", "_l0_SIZE")
    if entry.l0 is not None:
        return entry.id.replace(f"average_l0_{entry.l0:.0f}", "average_l0_N")
    return entry.id


def _l0(entry: "CatalogEntry") -> str:
    l0 = entry.level or ("-" if entry.l0 is None else f"{entry.l0:.0f}")
    return l0 + "*" * entry.canonical + "!" * (not entry.whole) + "=" * bool(entry.same_as)


def _once(doubled: "list[CatalogEntry]") -> "list[CatalogEntry]":
    """Each pair of doubles by one of the two."""
    pairs = {frozenset((entry.id, entry.same_as)): entry for entry in reversed(doubled)}
    return list(reversed(pairs.values()))


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
