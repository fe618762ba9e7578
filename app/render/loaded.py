"""What an SAE's files say of it: where it reads, how large it is, where it comes from."""

from collections.abc import Mapping
from typing import Any, Final

from app.render.text import escape

Data = Mapping[str, Any]

_ARCHITECTURES: Final = {"jumprelu": "JumpReLU", "gated": "Gated", "topk": "TopK"}
_HASH: Final = 12
"""Characters of a hash that are shown; the rest is in the tip."""


def loaded_html(row: Data) -> str:
    """A list of names and values from `Service.sae_facts`'s answer, without what is not known."""
    entries = [
        ("site", _sites(row)),
        ("kind", _kind(row)),
        ("widths", _widths(row)),
        ("L0 by its makers", _plain(row["declared_l0"])),
        ("trained on", _plain(row["trained_on"])),
        ("source", _plain(row["repository"] or row["weights"])),
        ("folder", _plain(row["folder"])),
        ("revision", _short(row["revision"])),
        ("SHA-256 of weights", _short(row["content_hash"]) or "known once they are read"),
    ]
    lines = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in entries if value
    )
    return f'<dl class="facts">{lines}</dl>'


def _sites(row: Data) -> str:
    if row["reads"] is None:
        return "unknown"
    reads = escape(row["reads"])
    return f"{reads} → {escape(row['writes'])}" if row["writes"] else reads


def _kind(row: Data) -> str:
    name = _ARCHITECTURES.get(row["architecture"], "ReLU")
    what = " transcoder" if row["writes"] else " SAE"
    k = f", k {row['k']}" if row["k"] else ""
    return f"{name}{what}{k}{', with a skip connection' if row['skip'] else ''}"


def _widths(row: Data) -> str:
    return f"{row['d_model']:,} → {row['d_sae']:,} features → {row['d_out']:,}"


def _plain(value: object) -> str:
    if value is None:
        return ""
    return escape(f"{value:g}" if isinstance(value, float) else value)


def _short(value: str | None) -> str:
    """A hash; words such as a branch's name are short already."""
    if value is None:
        return ""
    if len(value) <= _HASH:
        return escape(value)
    tip = f'data-tip="{escape(value)}" tabindex="0"'
    return f'<span class="mono" {tip}>{escape(value[:_HASH])}…</span>'
