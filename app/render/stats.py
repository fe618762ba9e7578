"""Numbers with their definition: a strip of them, and single ones inside a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.render.text import escape


@dataclass(frozen=True, kw_only=True)
class Stat:
    """One number of a strip."""

    value: str
    name: str
    definition: str = ""


def strip(stats: Sequence[Stat]) -> str:
    """Numbers side by side; each definition shows on hover, on focus and at a touch."""
    return f'<dl class="stats">{"".join(_stat(stat) for stat in stats)}</dl>'


def _stat(stat: Stat) -> str:
    name = escape(stat.name)
    if stat.definition:
        name = term(stat.name, stat.definition)
    return f'<div class="stat"><dt>{name}</dt><dd>{escape(stat.value)}</dd></div>'


def term(name: str, definition: str) -> str:
    """A word that explains itself; a button, so that the keyboard and a finger reach it."""
    return (
        f'<button type="button" class="term" data-tip="{escape(definition)}" '
        f'aria-description="{escape(definition)}">{escape(name)}</button>'
    )
