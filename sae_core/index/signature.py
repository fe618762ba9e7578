"""One line that says what a feature fires on, made from counts alone: its signature.

Tokens are ordered by how much they say, `share * log2(share / base share)`: a token's part in how
far the tokens that the feature fires on differ from those of the text at large, in bits. So " the"
leads only where a feature fires on it more than the text has it. Tokens that differ in case or
spaces around them count together; fragments of words are marked (`words.word_forms`). The forms:

    said · replied · cried                  these make up most of its firing
    court · law · judge …                   these stand out, but are less than half of it
    many tokens, such as house · door       no few tokens stand out; these are the most telling
    self · cls, in python-peps              most of its firing is in a source that the text has
                                            little of
    many tokens, in the first 4 tokens      where in a row it fires
    had · have → been · gone                what it makes the model expect, where that is marked
    never fires in 3,000,000 tokens

Nothing here knows what a token means.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sae_core.index.index_config import EARLY
from sae_core.index.token_words import is_whole

MAX_LENGTH = 70
_MAX_WORDS = 4
_LISTED = 0.5
"""A list of words that covers less of the firing than this ends in an ellipsis."""
_STANDS_OUT = 0.05
"""Words are a list of their own if they cover at least this share, else they are examples."""
_LEAST_PART = 1 / 8
"""A word is listed if it says at least this part of what the first word says."""
_EXAMPLES = 3
_TELLING_LIFT, _TELLING_SHARE = 8.0, 0.005
SOURCE_SHARE, _SOURCE_LIFT = 0.5, 3.0
_EARLY_SHARE = 0.5
_EXPECTED = 3
LOGIT_SD = 4.5
"""A token is expected if its logit is this many standard deviations of the vocabulary's up."""


class Word(NamedTuple):
    """A word that a feature fires on; tokens that differ in case or spaces are one."""

    word: str
    share: float
    """Of the firing."""
    base: float
    """Of the text."""
    bits: float
    """`share * log2(share / base)`."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a signature is made from. Words are forms as `token_words.word_forms` writes them."""

    tokens_read: int
    active_tokens: int
    leading: Sequence[Word]
    """The words that say most, up to four; and those that tell, by falling bits."""
    telling: Sequence[Word]
    sources: Sequence[tuple[str, float, float]]
    """Name, share of the firing, share of the text."""
    early_share: float
    """Share of the firing on the first tokens of a row."""
    raises: Sequence[tuple[str, float]]
    """Word and logit of the tokens it raises most, in standard deviations over the vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The line and what it was made from."""

    text: str
    words: tuple[str, ...] = ()
    """The words that the line lists."""
    share: float = 0.0
    """Share of the firing that is on them."""
    telling: tuple[tuple[str, float], ...] = ()
    """Whole words, listed or not, on which it fires at least eight times as often as the text has
    them, and at least every 200th time; and the share of the firing on each."""
    telling_bits: float = 0.0
    """What the telling words add up to of `share * log2(share / base share)`."""
    source: str = ""
    """The source that most of the firing is in, if it is marked."""
    expected: tuple[str, ...] = ()
    """The words that the line says the model then expects."""


def describe(facts: Facts) -> Signature:
    """The signature of one feature."""
    if not facts.active_tokens:
        return Signature(text=f"never fires in {facts.tokens_read:,} tokens")
    listed, telling = _listed(facts.leading), facts.telling
    share = min(sum(word.share for word in listed), 1.0)
    if listed:
        text = " · ".join(word.word for word in listed) + ("" if share >= _LISTED else " …")
    else:
        text = "many tokens"
    source = _source(facts)
    if facts.early_share >= _EARLY_SHARE:
        text = _with(text, f", in the first {EARLY} tokens")
    elif source:
        text = _with(text, f", in {source}")
    if not listed:
        text = _with_examples(text, telling)
    expected = _expected(text, facts, [word.word for word in listed])
    return Signature(
        text=f"{text} → {' · '.join(expected)}" if expected else text,
        words=tuple(word.word for word in listed),
        share=share,
        telling=tuple((word.word, word.share) for word in telling),
        telling_bits=sum(word.bits for word in telling),
        source=source,
        expected=tuple(expected),
    )


SEPARATORS = (" · ", " → ", ", such as ")
"""What stands between the words of a line."""


def words_in(part: str) -> list[str]:
    """What a line of `describe` shows between two separators: a word and a source, or fewer; none
    of the line's own words.
    """
    if part.startswith("never fires in "):
        return []
    word = part.removesuffix(f", in the first {EARLY} tokens")
    listed, _, source = word.rpartition(", in ")
    if not listed:
        listed, source = word, ""
    listed = listed.removesuffix(" …")
    return [each for each in (listed, source) if each not in ("", "many tokens")]


class WordForms:
    """How the tokens of a vocabulary are written, and which of them are one word."""

    def __init__(self, forms: list[str]) -> None:
        """`forms` of all tokens; "" where one has none."""
        self.forms = forms
        self.key = _keys(forms)


class RankedWords:
    """The words of many features by falling bits."""

    def __init__(
        self,
        feature: np.ndarray,
        token: np.ndarray,
        share: np.ndarray,
        base: np.ndarray,
        words: WordForms,
    ) -> None:
        """Columns of equal length: a feature, a token that it fires on, the token's share of the
        firing and of the text; sorted by feature, then falling share. `words` are of all tokens.
        """
        key, forms = words.key, words.forms
        self._forms = forms
        written = key[token] >= 0
        feature, token = feature[written], token[written]
        group = feature.astype(np.int64) * (len(forms) + 1) + key[token]
        order = np.argsort(group, kind="stable")
        first = np.ones(len(order), bool)
        first[1:] = group[order][1:] != group[order][:-1]
        merged = np.cumsum(first) - 1
        count = int(first.sum())
        # The form that it fires on most, the first, stands for all.
        shown = order[first]
        feature, token = feature[shown], token[shown]
        share = np.bincount(merged, share[written][order], count)
        base = np.bincount(merged, base[written][order], count)
        with np.errstate(divide="ignore", invalid="ignore"):
            bits = np.where(base > 0, share * np.log2(share / base), 0.0)
        by_bits = np.lexsort((key[token], -bits, feature))
        by_bits = by_bits[bits[by_bits] > 0]
        self._feature, self._token = feature[by_bits], token[by_bits]
        self._share, self._base, self._bits = share[by_bits], base[by_bits], bits[by_bits]

    def leading(self, d_sae: int) -> list[list[Word]]:
        """Up to four words of each feature."""
        start = np.searchsorted(self._feature, self._feature)
        return self._lists(np.arange(len(start)) - start < _MAX_WORDS, d_sae)

    def telling(self, d_sae: int) -> list[list[Word]]:
        """Of each feature the whole words that it fires on far more often than the text does."""
        often = (self._share >= _TELLING_SHARE) & (self._share >= _TELLING_LIFT * self._base)
        tokens, place = np.unique(self._token[often], return_inverse=True)
        whole = np.array(
            [is_whole(form) for form in map(self._forms.__getitem__, tokens.tolist())], bool
        )
        often[often] = whole[place]
        return self._lists(often, d_sae)

    def _lists(self, chosen: np.ndarray, d_sae: int) -> list[list[Word]]:
        columns = (column[chosen].tolist() for column in (self._share, self._base, self._bits))
        words = [self._forms[token] for token in self._token[chosen].tolist()]
        made = list(map(Word, words, *columns))
        bounds = np.searchsorted(self._feature[chosen], np.arange(d_sae + 1)).tolist()
        return [made[a:b] for a, b in itertools.pairwise(bounds)]


def _keys(forms: Sequence[str]) -> np.ndarray:
    """A number for each form, equal for those that differ in case alone, in the order of what they
    are without it; -1 for those that are empty.
    """
    folded = [form.casefold() for form in forms]
    number = {word: n for n, word in enumerate(sorted(set(folded) - {""}))} | {"": -1}
    return np.array([number[word] for word in folded], np.int64)


def _listed(ranked: Sequence[Word]) -> list[Word]:
    """The words to list, none if they stand for little of the firing."""
    listed: list[Word] = []
    length = -len(" · ")
    for word in ranked[:_MAX_WORDS]:
        length += len(" · ") + len(word.word)
        long = length > MAX_LENGTH - 16
        if word.bits < _LEAST_PART * ranked[0].bits or (listed and long):
            break
        listed.append(word)
    return listed if sum(word.share for word in listed) >= _STANDS_OUT else []


def _source(facts: Facts) -> str:
    for name, share, base in facts.sources:
        if name and base > 0 and share >= SOURCE_SHARE and share >= _SOURCE_LIFT * base:
            return name
    return ""


def _with(text: str, more: str) -> str:
    return text + more if len(text) + len(more) <= MAX_LENGTH else text


def _with_examples(text: str, telling: Sequence[Word]) -> str:
    if len(telling) < 2:
        return text
    return _with(text, ", such as " + " · ".join(w.word for w in telling[:_EXAMPLES]))


def _expected(text: str, facts: Facts, words: Sequence[str]) -> list[str]:
    """The tokens that the feature raises, as far as they stand out and fit behind `text`."""
    # That a word makes the model expect the same word says nothing new.
    seen = {word.casefold() for word in words}
    expected: list[str] = []
    for word, deviations in facts.raises:
        if deviations < LOGIT_SD or len(expected) == _EXPECTED:
            break
        inside_a_word = word.startswith("-") and word.endswith("-")
        if not word or inside_a_word or word.casefold() in seen:
            continue
        if len(f"{text} → {' · '.join([*expected, word])}") > MAX_LENGTH:
            break
        seen.add(word.casefold())
        expected.append(word)
    return expected
