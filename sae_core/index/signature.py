"""One line that says what a feature fires on, made from counts alone: its signature.

Tokens are ordered by how much they say, `share * log2(share / base share)`: a token's part in how
far the tokens that the feature fires on differ from those of the text at large, in bits. So " the"
leads only where a feature fires on it more than the text has it. Tokens that differ in case or
spaces around them count together. The forms:

    said · replied · cried              these make up most of its firing
    court · law · judge …               these stand out, but are less than half of it
    many tokens, in python-peps         no token stands out; a source, or the start of texts, does
    said · replied → the · he           and what it makes the model expect, where that is marked
    never fires in 3,000,000 tokens

Nothing here knows what a token means.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_LENGTH = 70
_MAX_WORDS = 4
_LISTED = 0.5
"""A list of words that covers less of the firing than this ends in an ellipsis."""
_STANDS_OUT = 0.05
"""The words listed must cover at least this share."""
_SOURCE_SHARE, _SOURCE_LIFT = 0.5, 3.0
_EARLY_SHARE = 0.5
_LOGIT_SD = 5.0
"""A token is expected if its logit is this many standard deviations of the vocabulary's up."""
_MARKS = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a signature is made from."""

    tokens_read: int
    active_tokens: int
    tokens: Sequence[tuple[str, float, float]]
    """Text, share of the firing, share of the text: of the tokens it fires on most."""
    sources: Sequence[tuple[str, float, float]]
    """Name, share of the firing, share of the text."""
    early_share: float
    """Share of the firing on the first tokens of a row."""
    raises: Sequence[tuple[str, float]]
    """Text and logit of the tokens it raises most, in standard deviations over the vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The line, the words in it, and the share of the firing that is on them."""

    text: str
    words: tuple[str, ...]
    share: float
    bits: float
    """What the words listed add up to of `share * log2(share / base share)`."""


def describe(facts: Facts) -> Signature:
    """The signature of one feature."""
    if not facts.active_tokens:
        text = f"never fires in {facts.tokens_read:,} tokens"
        return Signature(text=text, words=(), share=0.0, bits=0.0)
    words, share, bits = _words(facts.tokens)
    where = _where(facts)
    text = " · ".join(words) or "many tokens"
    if words and share < _LISTED:
        text += " …"
    if where and len(text) + len(where) <= MAX_LENGTH:
        text += f", {where}"
    text = _with_expected(text, facts, taken=words)
    return Signature(text=text, words=words, share=share, bits=bits)


def visible(text: str) -> str:
    """A token as it can stand in a line: trimmed, its spaces drawn if it has nothing else."""
    trimmed = text.strip()
    if not trimmed:
        drawn = "".join(_MARKS.get(char, "") for char in text)
        shorter = drawn[:1] + f"×{len(drawn)}" if len(set(drawn)) == 1 and len(drawn) > 3 else drawn
        return shorter[:8]
    drawn = "".join(c if c.isprintable() else _MARKS.get(c, "�") for c in trimmed)
    return drawn if len(drawn) <= 24 else drawn[:23] + "…"


def _words(tokens: Sequence[tuple[str, float, float]]) -> tuple[tuple[str, ...], float, float]:
    """Words worth naming in order, their share of the firing, and their bits."""
    merged: dict[str, list[float]] = {}
    forms: dict[str, tuple[float, str]] = {}
    for text, share, base in tokens:
        word = visible(text)
        if not word:
            continue
        key = word.casefold()
        sums = merged.setdefault(key, [0.0, 0.0])
        sums[0] += share
        sums[1] += base
        # The form that it fires on most stands for all.
        forms[key] = max(forms.get(key, (0.0, "")), (share, word), key=lambda form: form[0])
    bits = {k: share * np.log2(share / base) for k, (share, base) in merged.items() if base > 0}
    ranked = sorted(
        ((b, k) for k, b in bits.items() if b > 0), key=lambda item: (-item[0], item[1])
    )
    if not ranked:
        return (), 0.0, 0.0
    chosen = [k for b, k in ranked[:_MAX_WORDS] if b >= ranked[0][0] / 8]
    words: list[str] = []
    total_share = total_bits = 0.0
    for key in chosen:
        word = forms[key][1]
        if words and len(" · ".join([*words, word])) > MAX_LENGTH - 16:
            break
        words.append(word)
        total_share += merged[key][0]
        total_bits += float(bits[key])
    if total_share < _STANDS_OUT:
        return (), 0.0, 0.0
    return tuple(words), min(total_share, 1.0), total_bits


def _where(facts: Facts) -> str:
    if facts.early_share >= _EARLY_SHARE:
        return "at the start of a text"
    for name, share, base in facts.sources:
        if name and base > 0 and share >= _SOURCE_SHARE and share >= _SOURCE_LIFT * base:
            return f"in {name}"
    return ""


def _with_expected(text: str, facts: Facts, taken: Sequence[str]) -> str:
    """`text` with the tokens that the feature raises, as far as they stand out and fit."""
    seen = {word.casefold() for word in taken} if len(taken) == 1 else set()
    expected: list[str] = []
    for token, deviations in facts.raises:
        word = visible(token)
        if deviations < _LOGIT_SD or len(expected) == 3:
            break
        if not word or word.casefold() in seen:
            continue
        longer = f"{text} → {' · '.join([*expected, word])}"
        if len(longer) > MAX_LENGTH:
            break
        seen.add(word.casefold())
        expected.append(word)
    return f"{text} → {' · '.join(expected)}" if expected else text
