"""What a search matched, as the list of features draws it: parts of texts, each marked or not."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from app.web.token_text import quoted
from sae_core.index.signature import SEPARATORS, words_in
from sae_core.index.text_folding import marked_parts

Part = tuple[str, bool]

_SEPARATOR = re.compile("(" + "|".join(map(re.escape, SEPARATORS)) + ")")


def marked_signature(signature: str, marks: Sequence[str]) -> list[Part]:
    """A signature with what matched marked, in its words alone: never in what the line says of
    itself.
    """
    if not marks:
        return [(signature, False)]
    parts: list[Part] = []
    for text in _SEPARATOR.split(signature):
        words = [] if text in SEPARATORS else words_in(text)
        at = 0
        for word in words:
            start = text.index(word, at)
            parts += [(text[at:start], False), *marked_parts(word, marks)]
            at = start + len(word)
        parts.append((text[at:], False))
    return [part for part in parts if part[0]]


def shown_context(context: Mapping[str, Any] | None, marks: Sequence[str]) -> dict[str, Any] | None:
    """A context on one line: the parts before its peak, the peak's text, and the parts after it."""
    if context is None:
        return None
    tokens, raw, peak = context["tokens"], context["bytes"], context["peak"]
    shown = [quoted(token, partial)[1:-1] for token, partial in zip(tokens, raw, strict=True)]
    # The spaces before the peak are not of it.
    at_peak = shown[peak].lstrip(" ") or shown[peak]
    before = "".join(shown[:peak]) + shown[peak].removesuffix(at_peak)
    return {
        "before": marked_parts(before, marks),
        "peak": at_peak,
        "after": marked_parts("".join(shown[peak + 1 :]), marks),
    }


def nowhere_words(matches: Mapping[str, Any]) -> str:
    """Which words of a query no feature has, to go on with where nothing is found."""
    words = [f"“{text}”" for text in matches.get("nowhere", ())]
    return f": none has {' or '.join(words)}" if words else ""


def pieces_sentence(matches: Mapping[str, Any]) -> str:
    """What is said where a text was looked for as several tokens; "" where none was."""
    phrases = matches.get("phrases", ())
    if not phrases:
        return ""
    named = " and ".join(f"“{phrase}”" for phrase in phrases)
    return (
        f"No token is {named}: these features fire on the tokens that it falls into, first those "
        "whose strongest contexts have it where they fire."
    )
