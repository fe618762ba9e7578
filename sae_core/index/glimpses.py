"""A few tokens of each feature's strongest context: what a list shows beside a signature."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sae_core.index.context_reader import WINDOW, ContextReader
from sae_core.index.feature_pages import FEATURES, strongest_places
from sae_core.index.index_checks import page_shape
from sae_core.tokens import partial_bytes, token_texts

_BEFORE, _AFTER = 8, 4
"""Tokens shown on either side of a peak."""


def places_in_pages(
    rows: Callable[[str, Any], list[tuple[Any, ...]]], pages: Iterable[int], meta: Mapping[str, Any]
) -> dict[int, int]:
    """Feature -> place of the peak of its strongest context, -1 for none, of all in these pages;
    `rows` answers a query.
    """
    statement = "SELECT page, data FROM pages WHERE list_contains(?, page)"
    return {
        page * FEATURES + n: place
        for page, data in rows(statement, [sorted(pages)])
        for n, place in enumerate(strongest_places(data, page_shape(meta, page)).tolist())
    }


def glimpses(
    places: Mapping[int, int], contexts: ContextReader, vocab: Sequence[bytes]
) -> dict[int, dict[str, Any]]:
    """`tokens`, their `bytes` and the place of the `peak` among them, of each feature that has a
    place.
    """
    there = {i: place for i, place in places.items() if place >= 0}
    read = {}
    # Whole windows, so that no character is cut where the few tokens begin.
    for i, (tokens, peak) in contexts.around(there, WINDOW, WINDOW).items():
        few = slice(max(peak - _BEFORE, 0), peak + _AFTER + 1)
        texts = token_texts(tokens, vocab)
        shown = partial_bytes(tokens, texts, vocab)
        read[i] = {"tokens": texts[few], "bytes": shown[few], "peak": min(peak, _BEFORE)}
    return read
