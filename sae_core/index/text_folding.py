"""Text as it is compared: without case, and composed characters in one form.

Canonically equal spellings are one (NFC), and so are compatibility forms of letters and digits
(`ﬁ`, full-width `Ａ`, `²`), but no character that would become spaces or marks of punctuation, as
`…`, `½` and `´` would.
"""

from collections.abc import Iterable
from functools import lru_cache
from unicodedata import normalize


def folded(text: str) -> str:
    """A text without its case; the folded parts of a text, laid end to end, are its folded whole
    but where a mark begins a part.
    """
    if text.isascii():
        return text.lower()
    return normalize("NFC", "".join(map(_plain, normalize("NFC", text))).casefold())


def marked_parts(text: str, terms: Iterable[str]) -> list[tuple[str, bool]]:
    """A text cut where one of the folded `terms` begins or ends in it: parts, and whether each is
    of a term. Together the parts are the text.
    """
    whole, owner = "", []
    for i, char in enumerate(text):
        plain = folded(char)
        whole += plain
        owner += [i] * len(plain)
    inside = [False] * len(text)
    for term in filter(None, terms):
        at = whole.find(term)
        while at >= 0:
            for i in owner[at : at + len(term)]:
                inside[i] = True
            at = whole.find(term, at + 1)
    parts: list[tuple[str, bool]] = []
    for char, is_marked in zip(text, inside, strict=True):
        if parts and parts[-1][1] == is_marked:
            parts[-1] = (parts[-1][0] + char, is_marked)
        else:
            parts.append((char, is_marked))
    return parts


@lru_cache(maxsize=65_536)
def _plain(char: str) -> str:
    """The compatibility form of a letter or digit; any other character as it is."""
    plain = normalize("NFKC", char)
    return plain if plain.isalnum() else char
