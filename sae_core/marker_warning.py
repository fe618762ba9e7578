"""One warning for plain text that is full of the model's special markers.

Text that spells `<start_of_turn>` is tokenised as those characters, since what is in a text must
not become markup. Where a corpus is written in turns, that is hardly what its owner wants.
"""

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sae_core.tokens import special_ids

log = logging.getLogger(__name__)

WATCHED = 64
"""Documents at the beginning of a corpus in which markers are counted."""
_LEAST = 3
"""Markers that are not there by chance."""
_APART = 2_000
"""Characters for each marker, at most, where a text is full of them."""
_NAMED = 3


def warn_of_markers(texts: Sequence[str], tokenizer: Any) -> None:
    """Warn once in a process, if these texts spell the tokenizer's special tokens again and again.

    HTML's `<s>` and `</s>`, which are special tokens too, do not count.
    """
    if not texts:
        return
    names = {tokenizer.convert_ids_to_tokens(i) for i in special_ids(tokenizer)}
    names -= {"<s>", "</s>"}
    counts = {name: sum(text.count(name) for text in texts) for name in sorted(names) if name}
    total = sum(counts.values())
    if total < _LEAST or total * _APART < sum(map(len, texts)):
        return
    most = sorted(counts, key=lambda name: -counts[name])
    _warn(tuple(name for name in most if counts[name])[:_NAMED])


@lru_cache(maxsize=64)
def _warn(names: tuple[str, ...]) -> None:
    log.warning(
        "the text is full of %s, which are special tokens of the model, but in plain text are read "
        "as the characters they are: give conversations as a column of messages (roles and "
        "contents; --text-column), which the model's chat template writes.",
        ", ".join(names),
    )
