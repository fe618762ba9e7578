"""The words that features are described by, and which of them have a text.

A feature's words are the tokens that it fires on most and those that its signature shows. Distinct
words are few beside features (a token is one word, however many features fire on it): a query is
looked for once in all of them, laid end to end as bytes; `match_ranking.py` turns that into
features. Bytes, because a token may be a part of a character.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from enum import IntEnum
from functools import lru_cache
from unicodedata import category

import numpy as np

from sae_core.index.text_folding import folded

_TERM = re.compile(r'"([^"]+)(?:"|$)|(\S+)')
_MARKS = {"·", "→", "…"}
"""What a signature has beside words."""
_ESCAPED = "surrogateescape"
"""How bytes that are no UTF-8 are told from characters."""
_MOST_PIECES = 12
"""Pieces of a text that is looked for as several tokens."""


class Place(IntEnum):
    """Where in a word a text stands; punctuation and spaces around a word are not of it."""

    NOWHERE = 0
    WITHIN = 1
    BEGINS = 2
    WHOLE = 3


def terms(query: str) -> list[str]:
    """What has to stand somewhere, folded: words, and what is in double quotes with its spaces. A
    signature may be a query as it stands. What follows a quote that nothing closes is one text, as
    while it is typed.
    """
    return [folded(text) for text in _texts(query)]


def as_written(query: str) -> dict[str, str]:
    """Each of a query's terms as somebody wrote it."""
    return {folded(text): text for text in _texts(query)}


def _texts(query: str) -> list[str]:
    return [quoted or word for quoted, word in _TERM.findall(query) if word not in _MARKS]


class Words:
    """Numbers texts as they come; those that fold to the same are one word."""

    def __init__(self) -> None:
        self._number: dict[bytes, int] = {}

    def __call__(self, text: str) -> int:
        """The number of a text's word."""
        return self._number.setdefault(encoded(folded(text)), len(self._number))

    def of_tokens(self, texts: Sequence[str], raw: Sequence[bytes]) -> np.ndarray:
        """The number of each token's word; `raw`: their bytes."""
        number = self._number
        # Of some hundred thousand tokens most are ASCII.
        keys = (
            each.lower() if each.isascii() else _key(texts[token], each)
            for token, each in enumerate(raw)
        )
        return np.array([number.setdefault(key, len(number)) for key in keys], np.int64)

    def __iter__(self) -> Iterator[bytes]:
        """The words by their numbers."""
        return iter(self._number)

    def __len__(self) -> int:
        return len(self._number)


def _key(text: str, raw: bytes) -> bytes:
    """A token's word: its bytes where they are no whole characters."""
    return raw if "\ufffd" in text else encoded(folded(text))


def encoded(text: str) -> bytes:
    """A folded text's bytes."""
    return text.encode("utf-8", "surrogatepass")


class WordTable:
    """Distinct words as one run of bytes, and the search in it."""

    def __init__(self, words: Sequence[bytes]) -> None:
        self._bytes = np.frombuffer(b"".join(words), np.uint8)
        self._end = np.cumsum([len(each) for each in words], dtype=np.int64)
        self._lettered = np.zeros(len(self._bytes) + 1, np.int32)
        """How many of the bytes before each are of letters, digits or marks."""
        np.cumsum(_lettered(words), out=self._lettered[1:])

    def __len__(self) -> int:
        return len(self._end)

    def word(self, number: int) -> bytes:
        """A word by its number."""
        start = int(self._end[number - 1]) if number else 0
        return self._bytes[start : int(self._end[number])].tobytes()

    def find(self, term: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the words in which a folded term stands, and the best `Place` in each."""
        needle = np.frombuffer(term, np.uint8)
        last = len(self._bytes) - len(needle)
        if last < 0 or not len(needle):
            return np.empty(0, np.int64), np.empty(0, np.uint8)
        # UTF-8 begins no character with a byte that goes on with one.
        at = np.flatnonzero(self._bytes[: last + 1] == needle[0])
        for n, byte in enumerate(needle[1:], 1):
            at = at[self._bytes[at + n] == byte]
        word, place = self._placed(at, len(needle), _is_text(term))
        if not len(word):
            return word, place
        # Sorted by their places, words come in runs.
        first = np.flatnonzero(np.diff(word, prepend=-1))
        return word[first], np.maximum.reduceat(place, first)

    def _placed(self, at: np.ndarray, length: int, is_text: bool) -> tuple[np.ndarray, np.ndarray]:
        """Words and places of a needle of that many bytes at these bytes; none across an end, and
        of parts of characters none but in words that are these parts alone.
        """
        word = np.searchsorted(self._end, at, side="right")
        inside = at + length <= self._end[word]
        at, word = at[inside], word[inside]
        start = np.where(word > 0, self._end[word - 1], 0)
        if not is_text:
            alone = (at == start) & (at + length == self._end[word])
            return word[alone], np.full(int(alone.sum()), Place.WHOLE, np.uint8)
        count = self._lettered
        begins = count[at] == count[start]
        whole = begins & (count[self._end[word]] == count[at + length])
        return word, (np.uint8(Place.WITHIN) + begins + whole).astype(np.uint8)

    def pieces(self, term: bytes) -> list[bytes]:
        """A term as tokens that stand one after the other: the longest word at each place, spaces
        between words apart. Empty if some of it is no word, or if a word falls into single letters,
        which say nothing of it; single digits are how many tokenizers write numbers.
        """
        pieces: list[bytes] = []
        for part in term.split():
            at = 0
            while at < len(part):
                length = self._longest(part[at:])
                alone = length == 1 and part[at] < 128 and len(part) > 1
                alone &= part[at : at + 1].isalpha()
                if not length or alone or len(pieces) == _MOST_PIECES:
                    return []
                pieces.append(part[at : at + length])
                at += length
        return pieces

    def _longest(self, text: bytes) -> int:
        """Bytes of the longest beginning of a text that is a whole word; 0 for none."""
        longest = 0
        at = np.flatnonzero(self._bytes == text[0])
        for n in range(1, len(text) + 1):
            if not len(at):
                break
            if (self._placed(at, n, _is_text(text[:n]))[1] == Place.WHOLE).any():
                longest = n
            if n < len(text):
                at = at[at + n < len(self._bytes)]
                at = at[self._bytes[at + n] == text[n]]
        return longest


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


_ASCII = bytes(n < 128 and chr(n).isalnum() for n in range(256))


def _lettered(words: Sequence[bytes]) -> np.ndarray:
    """For each byte of the words whether it is of a letter, digit, mark or sign, or a part of one;
    signs of ASCII are punctuation here.
    """
    whole = bytearray(b"".join(words).translate(_ASCII))
    ends = itertools.accumulate(map(len, words))
    for word, end in zip(words, ends, strict=True):
        if not word.isascii():
            parts = []
            for char in word.decode("utf-8", _ESCAPED):
                length = 1 if "\udc80" <= char <= "\udcff" else len(encoded(char))
                parts.append(bytes([_is_lettered(char)]) * length)
            whole[end - len(word) : end] = b"".join(parts)
    return np.frombuffer(whole, np.uint8)


@lru_cache(maxsize=65_536)
def _is_lettered(char: str) -> bool:
    return char.isalnum() if char.isascii() else category(char)[0] not in "PZ"
