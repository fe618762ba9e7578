"""Features by how well their words match a query: best match first.

A term of the query is looked for in every word that describes a feature. What counts first is the
best kind of match, the tier: whole tokens, then tokens that begin with the term, then tokens with
it inside; a word that only stands in the feature's line (what it makes the model expect, the source
that it fires in) comes after tokens that begin with the term, and tokens that the feature fires on
less often than the text has them come last. Within a tier features are ordered by the share of
their firing that lies on the tier's tokens, times its lift. A share is `count / (active +
_PRIOR)`: three firings, all on one word, prove less than three hundred. With several terms a
feature must match all; the worst tier counts, and the products are multiplied.

A term that is no token's text is looked for as the tokens that it falls into (`WordTable.pieces`):
each counts by its share times its lift, which is large for rare tokens.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from sae_core.index.described_words import DescribedWords
from sae_core.index.text_folding import folded
from sae_core.index.word_search import Place, encoded, terms

_PRIOR = 10
"""Firings that every feature is taken to have besides, on other words."""
MOST_TERMS = 16
"""Terms of a query: each is looked for in every word and label."""
_ONE_TEXT = 3
"""Most words that are taken for one text where no feature has them all."""
_GATHER = 1 / 8
"""Share of all pairs above which those of the words that match are not taken one by one."""


class Tier(IntEnum):
    """Kinds of match, better ones larger."""

    NONE = 0
    BY_CHANCE = 1
    SHOWN_WITHIN = 2
    SHOWN_BEGINS = 3
    WITHIN = 4
    PIECES = 5
    SHOWN_WHOLE = 6
    BEGINS = 7
    WHOLE = 8
    NOTE = 9
    LABEL_WITHIN = 10
    LABEL_BEGINS = 11
    LABEL_WHOLE = 12


_FIRES, _SHOWN, _CHANCE = range(3)
_TIERS = {
    _FIRES: (Tier.NONE, Tier.WITHIN, Tier.BEGINS, Tier.WHOLE),
    _SHOWN: (Tier.NONE, Tier.SHOWN_WITHIN, Tier.SHOWN_BEGINS, Tier.SHOWN_WHOLE),
    _CHANCE: (Tier.NONE, Tier.BY_CHANCE, Tier.BY_CHANCE, Tier.BY_CHANCE),
}
"""What a word is to a feature -> the tier of a term at each `Place` of it."""


@dataclass(frozen=True, kw_only=True)
class _Term:
    """A term's matches."""

    table: np.ndarray
    """Tier by code of a pair."""
    base: np.ndarray
    """Share of all tokens that are of each tier, `[tiers]`."""
    pairs: int
    """How many pairs match."""


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Features that match a query."""

    tiers: np.ndarray
    """Of each feature, `[d_sae]`, 0 where it does not match."""
    marks: tuple[str, ...] = ()
    """Folded texts that stand in what matched."""
    phrases: tuple[str, ...] = ()
    """Terms that were looked for as several tokens."""
    nowhere: tuple[str, ...] = ()
    """Terms that no feature has."""
    terms: Sequence["_Term | list[_Term]"] = field(default=(), repr=False)


class MatchRanking:
    """Finds and orders the features of an index."""

    def __init__(self, described: DescribedWords, active: np.ndarray) -> None:
        """`active [d_sae]`: tokens on which each feature fires."""
        self._table, self._base, self._active = described.words, described.base, active
        self.strongest = described.strongest
        """Place of the peak of each feature's strongest context, -1 for none."""
        n_words, d_sae = len(described.words), len(active)
        kind = np.full(len(described.share), _SHOWN, np.int32)
        kind[described.share > 0] = _FIRES
        kind[described.share < 0] = _CHANCE
        code = kind * np.int32(n_words) + described.word
        lengths = np.bincount(described.feature, minlength=d_sae)
        # One pair more for each feature, of no word, so that none is without.
        self._first = np.cumsum(lengths + 1) - lengths - 1
        place = np.arange(len(described.word)) + described.feature
        self._code = np.full(len(place) + d_sae, 3 * n_words, np.int32)
        self._code[place] = code
        self._share = np.zeros(len(self._code), np.float32)
        self._share[place] = np.abs(described.share)
        # The features of each code, in order.
        pairs = code.astype(np.uint64) << np.uint64(32)
        pairs |= described.feature.view(np.uint32)
        pairs.sort()
        self._feature = pairs.astype(np.uint32).view(np.int32)
        self._bound = np.append(0, np.cumsum(np.bincount(code, minlength=3 * n_words)))
        self._notes: tuple[Mapping[int, tuple[str, str]], dict[int, tuple[str, str]]] = ({}, {})
        """The notes that were last looked in, as they were given and folded."""

    def matching(self, query: str, notes: Mapping[int, tuple[str, str]] | None = None) -> Matches:
        """The features that match every term of a query; `notes`: feature -> label and note, which
        are looked in as well. Where none has all of two or three terms, they are one text of
        several tokens. Those of features that are not in the index are passed over. ValueError if
        the query has more than MOST_TERMS terms.
        """
        wanted = terms(query)
        if len(wanted) > MOST_TERMS:
            raise ValueError(
                f"a query may have {MOST_TERMS} words, and this one has {len(wanted)}: leave some "
                "out, or put a text in quotes."
            )
        lines = self._folded(notes or {})
        matches = self._matching(wanted, lines)
        if not matches.tiers.any() and 1 < len(wanted) <= _ONE_TEXT:
            whole = self._matching([" ".join(wanted)], lines)
            return whole if whole.tiers.any() else matches
        return matches

    def _folded(self, notes: Mapping[int, tuple[str, str]]) -> dict[int, tuple[str, str]]:
        """Label and note of the index's features, folded once for all searches in the same object,
        which stays as it is.
        """
        given, lines = self._notes
        if given is not notes:
            d_sae = len(self._active)
            lines = {
                feature: (folded(label), folded(note))
                for feature, (label, note) in notes.items()
                if 0 <= feature < d_sae
            }
            self._notes = notes, lines
        return lines

    def _matching(self, wanted: Sequence[str], notes: Mapping[int, tuple[str, str]]) -> Matches:
        looked_for: list[tuple[_Term | list[_Term], dict[int, Tier]]] = []
        marks: list[str] = []
        phrases: list[str] = []
        nowhere: list[str] = []
        for text in wanted:
            needle = encoded(text)
            term = self._term(needle)
            in_notes = _in_notes(text, notes)
            pieces = self._table.pieces(needle) if self._falls(text, term) else []
            if len(pieces) > 1:
                phrases.append(text)
                marks += [text, *(p.decode(errors="ignore") for p in pieces if len(p) > 1)]
                looked_for.append(
                    ([self._term(piece) for piece in dict.fromkeys(pieces)], in_notes)
                )
            else:
                marks.append(text)
                looked_for.append((term, in_notes))
            if not _pairs(looked_for[-1][0]) and not in_notes:
                nowhere.append(text)
        # Rare ones first: the others are then looked for in what these left.
        looked_for.sort(key=lambda each: _pairs(each[0]))
        tiers = None
        for term, in_notes in looked_for:
            of_term = self._tiers(term, tiers)
            for feature, tier in in_notes.items():
                of_term[feature] = max(of_term[feature], tier)
            tiers = of_term if tiers is None else np.minimum(tiers, of_term)
        return Matches(
            tiers=np.zeros(len(self._active), np.uint8) if tiers is None else tiers,
            marks=tuple(dict.fromkeys(filter(None, marks))),
            phrases=tuple(phrases),
            nowhere=tuple(dict.fromkeys(nowhere)),
            terms=[term for term, _ in looked_for],
        )

    def best(self, matches: Matches, allowed: np.ndarray, count: int) -> np.ndarray:
        """Up to `count` of the matches within a mask, best first; the more active of two equal
        ones first.
        """
        tiers = matches.tiers * allowed
        by_tier = np.bincount(tiers, minlength=len(Tier))
        by_tier[Tier.NONE] = 0
        enough = np.cumsum(by_tier[::-1]) >= count
        lowest = len(Tier) - 1 - int(enough.argmax()) if enough.any() else 1
        ids = np.flatnonzero(tiers >= max(lowest, 1))
        score = self._scores(ids, matches)
        order = np.lexsort((ids, -self._active[ids], -score, -tiers[ids].astype(np.int8)))
        return ids[order[:count]]

    def words(self, matches: Matches, feature: int) -> list[tuple[bytes, float]]:
        """The words of a feature's tokens that a query's terms stand in, and the share of the
        firing on each; the largest first.
        """
        first = self._first[feature]
        last = self._first[feature + 1] if feature + 1 < len(self._first) else len(self._code)
        codes, shares = self._code[first:last], self._share[first:last]
        of_term = [
            t for term in matches.terms for t in (term if isinstance(term, list) else [term])
        ]
        on: dict[bytes, float] = {}
        for code, share in zip(codes.tolist(), shares.tolist(), strict=True):
            if share > 0 and any(term.table[code] for term in of_term):
                word = self._table.word(code % len(self._table)).strip()
                on[word] = on.get(word, 0.0) + share
        return sorted(on.items(), key=lambda each: -each[1])

    def _falls(self, text: str, term: _Term) -> bool:
        """Whether a term is looked for as several tokens: it has words in it, or stands nowhere."""
        return len(text.split()) > 1 or term.pairs == 0

    def _term(self, needle: bytes) -> _Term:
        words, places = self._table.find(needle)
        n = len(self._table)
        table = np.zeros(3 * n + 1, np.uint8)
        base = np.zeros(len(Tier))
        for kind, tiers in _TIERS.items():
            table[kind * n + words] = np.array(tiers, np.uint8)[places]
        for place in (Place.WITHIN, Place.BEGINS, Place.WHOLE):
            base[_TIERS[_FIRES][place]] = self._base[words[places == place]].sum()
        codes = np.concatenate([kind * n + words for kind in _TIERS])
        pairs = int((self._bound[codes + 1] - self._bound[codes]).sum())
        return _Term(table=table, base=base, pairs=pairs)

    def _tiers(self, term: "_Term | list[_Term]", among: np.ndarray | None) -> np.ndarray:
        """The tier of each feature for a term, `[d_sae]`; 0 wherever `among`, if given, is."""
        if isinstance(term, list):
            table = np.zeros_like(term[0].table)
            for piece in term:
                # Of the tokens themselves, and where the feature fires on them for a reason.
                table[piece.table == Tier.WHOLE] = Tier.PIECES
        else:
            table = term.table
        tiers = np.zeros(len(self._active), np.uint8)
        if _pairs(term) < _GATHER * len(self._code):
            codes = np.flatnonzero(table[:-1])
            # Better tiers overwrite others.
            codes = codes[np.argsort(table[codes], kind="stable")]
            at, lengths = _runs(self._bound[codes], self._bound[codes + 1])
            tiers[self._feature[at]] = np.repeat(table[codes], lengths)
            return tiers
        if among is not None:
            ids = np.flatnonzero(among)
            if not len(ids):
                return tiers
            if len(ids) < _GATHER * len(tiers):
                at, first = self._pairs_of(ids)
                tiers[ids] = np.maximum.reduceat(table[self._code[at]], first)
                return tiers
        return np.maximum.reduceat(table[self._code], self._first)

    def _pairs_of(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the pairs of features stand, and which of these are each one's first."""
        first = self._first[ids]
        at, lengths = _runs(first, np.append(self._first, len(self._code))[ids + 1])
        return at, np.cumsum(lengths) - lengths

    def _scores(self, ids: np.ndarray, matches: Matches) -> np.ndarray:
        """Share of the firing on the tokens of each feature's tier, times its lift."""
        score = np.ones(len(ids))
        if not len(ids):
            return score
        at, first = self._pairs_of(ids)
        lengths = np.diff(np.append(first, len(at)))
        code, active = self._code[at], self._active[ids]
        share = self._share[at] * np.repeat(active / (active + _PRIOR), lengths)

        def on(chosen: np.ndarray) -> np.ndarray:
            return np.add.reduceat(share * chosen, first)

        for term in matches.terms:
            if isinstance(term, list):
                whole = Tier.WHOLE
                parts = [_evidence(on(p.table[code] == whole), p.base[whole]) for p in term]
                score *= np.sum(parts, axis=0)
            else:
                tiers = term.table[code]
                own = np.maximum.reduceat(tiers, first)
                is_own = (tiers == np.repeat(own, lengths)) & (tiers > 0)
                score *= _evidence(on(is_own), term.base[own])
        return score


def _evidence(share: np.ndarray, base: np.ndarray | float) -> np.ndarray:
    return share * share / np.maximum(base, 1e-12)


def _pairs(term: "_Term | list[_Term]") -> int:
    return sum(each.pairs for each in term) if isinstance(term, list) else term.pairs


def _in_notes(term: str, notes: Mapping[int, tuple[str, str]]) -> dict[int, Tier]:
    """Features in whose label or note, folded, a term stands, and the tier."""
    tiers: dict[int, Tier] = {}
    for feature, (label, note) in notes.items():
        if term in label:
            words = re.findall(r"\w+", label)
            whole = term in words or f" {term} " in f" {label} "
            begins = whole or any(word.startswith(term) for word in words)
            tiers[feature] = Tier(Tier.LABEL_WITHIN + begins + whole)
        elif term in note:
            tiers[feature] = Tier.NOTE
    return tiers


def _runs(first: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All places of several runs, one after the other, and the runs' lengths."""
    lengths = stop - first
    offset = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(first - offset, lengths), lengths
