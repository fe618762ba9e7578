"""Tokens as they can stand in a line of text: trimmed, visible, fragments of words marked."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

BROKEN = "\ufffd"
"""Stands for bytes that are no whole character, and for characters that cannot be shown."""
_MARKS = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
_LONGEST = 24
_MOSTLY = 0.5
_PART = 2**24
"""Tokens looked at together: a stream may be larger than memory."""


def visible(text: str) -> str:
    """A token trimmed, its spaces drawn if it has nothing else."""
    trimmed = text.strip()
    if not trimmed:
        drawn = "".join(_MARKS.get(char, "") for char in text)
        if len(drawn) > 3 and len(set(drawn)) == 1:
            drawn = f"{drawn[0]}×{len(drawn)}"
        return drawn if len(drawn) <= 8 else drawn[:7] + "…"
    drawn = "".join(c if c.isprintable() else _MARKS.get(c, BROKEN) for c in trimmed)
    return drawn if len(drawn) <= _LONGEST else drawn[: _LONGEST - 1] + "…"


def plain_forms(texts: Sequence[str]) -> list[str]:
    """How each token of the vocabulary is written where it stands alone; "" if it has no form."""
    return ["" if BROKEN in word else word for word in map(visible, texts)]


def word_forms(texts: Sequence[str], plain: Sequence[str], stream: np.ndarray) -> list[str]:
    """How each token of the vocabulary is written in a signature; "" if it has no form.

    `plain`: its `plain_forms`; `stream`: the token ids of the sample in order. A token that mostly
    continues a word there is written `-ing`, one that is mostly continued `comm-`.
    """
    # Whether a token has a letter at its very beginning, and at its very end.
    begins = np.array([text[:1].isalpha() for text in texts])
    ends = np.array([text[-1:].isalpha() for text in texts])
    count = np.zeros(len(texts), np.int64)
    continues, continued = np.zeros_like(count), np.zeros_like(count)
    for first in range(0, len(stream), _PART):
        ids = np.asarray(stream[first : first + _PART + 1], np.int64)
        joined = ends[ids[:-1]] & begins[ids[1:]]
        count += np.bincount(ids[:_PART], minlength=len(texts))
        continued += np.bincount(ids[:-1][joined], minlength=len(texts))
        continues += np.bincount(ids[1:][joined], minlength=len(texts))
    forms = list(plain)
    for token in np.flatnonzero(continues > _MOSTLY * count).tolist():
        forms[token] = forms[token] and "-" + forms[token]
    for token in np.flatnonzero(continued > _MOSTLY * count).tolist():
        forms[token] = forms[token] and forms[token] + "-"
    return forms


@lru_cache(2**16)
def is_whole(word: str) -> bool:
    """Whether a form can be read as a word: at least three letters and no fragment."""
    return (
        sum(char.isalpha() for char in word) >= 3
        and not word.startswith("-")
        and not word.endswith("-")
    )
