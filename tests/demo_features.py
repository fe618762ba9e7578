"""Features of the demo's first SAE that tests need, found in its index: numbers would change with
every demo that is made anew.
"""

from functools import cache
from typing import Any

from app.commands.shared import DEMO
from sae_core.bundle import Bundle
from sae_core.index import Index

_FIRST_BYTE = b"\xc3"
"""Of most accented letters, whose tokens are no whole characters."""


def _index() -> Index:
    bundle = Bundle.open(DEMO)
    return Index.open(bundle.index_path(bundle.sae_names[0]))


def _first(**search: Any) -> int:
    index = _index()
    try:
        return index.search(**search, limit=1)["features"][0]["feature"]
    finally:
        index.close()


@cache
def of_the_sea() -> int:
    """Sea, ship, boat, sail: the one that fits two of these best."""
    return _first(query="ship sea")


@cache
def of_ships() -> int:
    """Few words, which are whole tokens: the one that fits "ship" best."""
    return _first(query="ship")


@cache
def dead() -> int:
    """One that fired on no token of the index."""
    return _first(max_frequency=0.0)


@cache
def of_first_bytes() -> int:
    """The most frequent of those that fire most on the first byte of accented letters."""
    index = _index()
    try:
        rows = index.query_connection().execute(
            "SELECT feature FROM features WHERE tokens[1] = "
            "(SELECT token FROM vocabulary WHERE bytes = ?) ORDER BY frequency DESC LIMIT 1",
            [_FIRST_BYTE],
        )
        ((feature,),) = rows.fetchall()
        return feature
    finally:
        index.close()
