"""`jumpscope list`: the SAEs that a hub repository, or a folder, has to offer."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from app.commands.shared import JSONFlag, shown, table, to_json

if TYPE_CHECKING:
    from sae_core.hub import Offer


@dataclass(frozen=True, kw_only=True)
class ListSAEs:
    """List the SAEs of a repository on the Hugging Face hub, or of a part of it, or of a folder.

    No weights are downloaded. What it prints as an id is what --sae takes.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ID")]
    """Hub id, e.g. gemma-scope-2b-pt-res or gemma-scope-2b-pt-res/layer_20, or a local folder."""
    layer: int | None = None
    """Only SAEs of this layer, counted from 0."""
    width: str | None = None
    """Only SAEs of this width: 16k, 1m or a number of features."""
    json: JSONFlag = False
    """Print JSON."""

    def execute(self) -> str:
        """The listing as JSON or text; ValueError if nothing is left of it."""
        from sae_core.hub import offers, width_of
        from sae_core.sources import offers_in

        folder = Path(self.source)
        found = offers_in(folder) if folder.is_dir() else offers(self.source)
        width = None if self.width is None else width_of(self.width)
        kept = [
            offer
            for offer in found
            if (self.layer is None or (offer.site is not None and offer.site.layer == self.layer))
            and (width is None or offer.width == width)
        ]
        if not kept:
            there = sorted({offer.site.layer for offer in found if offer.site is not None})
            widths = sorted({offer.width for offer in found if offer.width is not None})
            raise ValueError(
                f"{self.source} offers {len(found)} SAEs, but none of this kind: of layers "
                f"{', '.join(map(str, there))} and widths {', '.join(f'{w:,}' for w in widths)}."
            )
        if self.json:
            saes = [_as_json(offer) for offer in kept]
            return to_json({"source": self.source, "commit": kept[0].commit or None, "saes": saes})
        return _as_text(kept)


_LEVELS = ("", "small", "medium", "big")


def _as_json(offer: "Offer") -> dict[str, Any]:
    return {
        "id": offer.id,
        "site": str(offer.site) if offer.site else None,
        "site_out": str(offer.site_out) if offer.site_out else None,
        "width": offer.width,
        "l0": offer.l0,
        "level": offer.level or None,
        "affine": offer.affine,
        "canonical": offer.canonical,
        "bytes": offer.bytes,
        "whole": offer.whole,
    }


def _as_text(found: "list[Offer]") -> str:
    """A line for each site and width with the L0s there are; SAEs of unknown L0 have one each."""
    groups: dict[str, list[Offer]] = {}
    for offer in found:
        groups.setdefault(_pattern(offer), []).append(offer)
    rows = [["site", "width", "L0", "size of each", "id"]]
    for pattern, group in groups.items():
        first = group[0]
        site = f"{first.site} to {first.site_out}" if first.site_out else shown(first.site)
        size = _size(max(offer.bytes for offer in group))
        group.sort(key=lambda offer: (offer.l0 or 0, _LEVELS.index(offer.level)))
        rows.append([site, shown(first.width), "  ".join(map(_l0, group)), size, pattern])
    notes = [f"commit {found[0].commit}"] if found[0].commit else []
    if any(offer.canonical for offer in found):
        notes.append("* canonical: of its layer and width the one whose L0 is nearest 100")
    if not all(offer.whole for offer in found):
        notes.append("! its size is not that of a whole file")
    return "\n".join([table(rows), *([""] if notes else []), *notes])


def _pattern(offer: "Offer") -> str:
    """The id with the number or word for the L0 left open."""
    if offer.level:
        return offer.id.replace(f"_l0_{offer.level}", "_l0_SIZE")
    if offer.l0 is not None:
        return offer.id.replace(f"average_l0_{offer.l0:.0f}", "average_l0_N")
    return offer.id


def _l0(offer: "Offer") -> str:
    l0 = offer.level or ("-" if offer.l0 is None else f"{offer.l0:.0f}")
    return l0 + "*" * offer.canonical + "!" * (not offer.whole)


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
