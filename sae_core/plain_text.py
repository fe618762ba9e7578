"""What is done to text before it is tokenised, and how a long text is cut for that."""

import re
from collections.abc import Callable, Iterator, Sequence

PIECE = 2**16
"""Characters tokenised as one text. A tokenizer's time and memory for a single word grow faster
than the word: 3 million characters at once take seconds and most of a gigabyte."""

_BEFORE_CUT = 400
"""Characters on either side of a place that tell whether a text may be cut there."""
_TRIED = 32
"""Spaces at which a cut is tried, the last ones of a piece first."""

_BOM = "\ufeff"
_LINE_END = re.compile("\r\n?")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")

_Tokenize = Callable[[Sequence[str]], list[list[int]]]


def normalised(text: str) -> str:
    """Line ends as Python's text mode reads them (CRLF and CR become LF), without a byte order mark
    at the beginning. Nothing else is changed. Done twice it is the same.
    """
    if "\r" in text:
        text = _LINE_END.sub("\n", text)
    return text.lstrip(_BOM)


def passages(text: str) -> list[str]:
    """The stretches of a normalised text between blank lines; none of them is empty."""
    return [part for part in _BLANK_LINES.split(text.strip("\n")) if part.strip()]


def pieces(text: str, tokenize: _Tokenize) -> Iterator[str]:
    """A text in pieces of `PIECE` characters at most, whose tokens in a row are the text's own.

    `tokenize` gives the tokens of each of some texts. A cut is made at white space at which the
    text on both sides has the same tokens cut and whole: before a space, or, for tokenizers that
    begin every text with a space of their own, in its place. Where there is none, as in a word
    longer than a piece, the cut is after `PIECE` characters.
    """
    start = 0
    while len(text) - start > PIECE:
        end, following = _cut(text, start, tokenize)
        yield text[start:end]
        start = following
    yield text[start:]


def _cut(text: str, start: int, tokenize: _Tokenize) -> tuple[int, int]:
    """Where a piece from `start` on ends, and where the next one begins."""
    most = start + PIECE
    place = most
    for _ in range(_TRIED):
        place = max(text.rfind(white, start + 1, place) for white in " \n")
        if place <= start:
            break
        left = text[max(start, place - _BEFORE_CUT) : place]
        right = text[place : place + _BEFORE_CUT]
        whole, before, with_space, without = tokenize([left + right, left, right, right[1:]])
        if whole == before + with_space:
            return place, place
        if text[place] == " " and whole == before + without:
            return place, place + 1
    return most, most
