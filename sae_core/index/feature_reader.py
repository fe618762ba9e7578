"""A feature's part of a page as JSON values."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sae_core.index.context_reader import WINDOW, ContextReader
from sae_core.index.feature_pages import DOUBLING_BINS, WINDOW_BINS, Page
from sae_core.tokens import partial_bytes, token_texts


class Peak(NamedTuple):
    """A context without its tokens."""

    group: str
    rank: int
    """1 for the first of its group."""
    value: float
    """The activation, or for a near miss the pre-activation."""
    place: int
    """Among the stored tokens."""
    positions: np.ndarray
    """The other active tokens: place in the window, and activation in 255ths of the largest."""
    levels: np.ndarray

    @property
    def activation(self) -> float:
        """0 for a near miss."""
        return 0.0 if self.group == "near_miss" else self.value


class FeatureReader:
    """Reads the feature at place `at` of a page."""

    def __init__(
        self,
        meta: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        texts: Sequence[str],
        vocab: Sequence[bytes],
        contexts: ContextReader,
    ) -> None:
        """`meta`, `arrays` as docs/format.md has them; `texts`, `vocab`: tokens and bytes."""
        self._tokens = max(int(meta["tokens"]), 1)
        self._sources: list[dict[str, Any]] = meta["sources"]
        self._intervals = int(meta["intervals"])
        self._k_logits, self._k_near = int(meta["listed_logits"]), int(meta["listed_neighbours"])
        self._token_counts = arrays["token_counts"]
        self._exponent = arrays["histogram_exponent"].astype(int)
        self._width = arrays["histogram_width"].astype(np.float64)
        self._texts, self._vocab = texts, vocab
        self.words = (texts, vocab, arrays["token_counts"])
        """Texts and bytes of the vocabulary, and how often the sample has each token."""
        self.contexts = contexts
        """Reads the tokens of contexts."""

    def activation_histogram(
        self, page: Page, at: int, feature: int, threshold: float
    ) -> dict[str, Any]:
        """Edges from the threshold to just above the largest activation; empty if dead."""
        counts = _of(page.activation_counts, at, DOUBLING_BINS)
        if not counts.any():
            return {"edges": [], "counts": []}
        used = int(np.flatnonzero(counts)[-1]) + 1
        edges = threshold + np.arange(used + 1) * 2.0 ** self._exponent[feature]
        return {"edges": edges.tolist(), "counts": counts[:used].tolist()}

    def pre_activation_histogram(
        self, page: Page, at: int, feature: int, threshold: float
    ) -> dict[str, Any]:
        """The bins in use, and at least those on either side of the threshold."""
        half = WINDOW_BINS // 2
        below, *inner, above = _of(page.pre_activation_counts, at, 2 * half + 2).tolist()
        used = np.append(np.flatnonzero(inner), [half - 1, half])
        first, last = int(used.min()), int(used.max()) + 1
        edges = threshold + np.arange(first - half, last - half + 1) * self._width[feature]
        return {
            "edges": edges.tolist(),
            "counts": inner[first:last],
            "below": below,
            "above": above,
            "threshold": threshold,
        }

    def groups(
        self, page: Page, at: int, threshold: float, largest: float, first: int | None = None
    ) -> list[dict[str, Any]]:
        """Groups of contexts, strongest first; all, or the `first` few."""
        names = self._names()
        cut = _Cut(page, at, len(names))
        counts = _of(page.contexts, at, len(names)).tolist()
        blocks = self.contexts.blocks(cut.places(sum(counts[:first])))
        width = (largest - threshold) / self._intervals
        groups = []
        for name, count in list(zip(names, counts, strict=True))[:first]:
            if name == "near_miss":
                values = threshold - cut.gaps(count)
                low, high = float(values.min(initial=threshold)), threshold
            else:
                values = cut.values(count) * largest
                low, high = float(values.min(initial=largest)), largest
            if name.startswith("interval_"):
                n = int(name.removeprefix("interval_"))
                low, high = threshold + (n - 1) * width, threshold + n * width
            near_miss = name == "near_miss"
            groups.append(
                {
                    "name": name,
                    "title": self._title(name),
                    "low": low,
                    "high": high,
                    "contexts": self.contexts.read(
                        blocks, *cut.contexts(count), values, largest, near_miss
                    ),
                }
            )
        return groups

    def peaks(self, page: Page, at: int, threshold: float, largest: float) -> list["Peak"]:
        """All contexts, in the order of `groups`, without their tokens."""
        names = self._names()
        cut = _Cut(page, at, len(names))
        peaks = []
        for name, count in zip(names, _of(page.contexts, at, len(names)).tolist(), strict=True):
            near_miss = name == "near_miss"
            values = threshold - cut.gaps(count) if near_miss else cut.values(count) * largest
            context = zip(values.tolist(), *cut.contexts(count), strict=True)
            peaks += [
                Peak(name, rank, value, int(place), positions, levels)
                for rank, (value, place, positions, levels) in enumerate(context, 1)
            ]
        return peaks

    def strongest_contexts(
        self, pages: Mapping[int, tuple[Page, int]], largest: Mapping[int, float]
    ) -> dict[int, dict[str, Any] | None]:
        """By feature the first of its `groups`' contexts, None where there is none; the tokens of
        all are read at once.
        """
        groups = len(self._names())
        cuts = {
            i: _Cut(page, at, groups)
            for i, (page, at) in pages.items()
            if _of(page.contexts, at, groups)[0]
        }
        places = [cut.places(1) for cut in cuts.values()]
        blocks = self.contexts.blocks(np.concatenate(places)) if places else {}
        read: dict[int, dict[str, Any] | None] = dict.fromkeys(pages)
        for i, cut in cuts.items():
            values = cut.values(1) * largest[i]
            contexts = self.contexts.read(blocks, *cut.contexts(1), values, largest[i], False)
            read[i] = contexts[0]
        return read

    def strongest(self, page: Page, at: int) -> list[tuple[str, str, str]]:
        """The strongest contexts as texts: before the peak, the peak, and after it."""
        groups = len(self._names())
        count = int(_of(page.contexts, at, groups)[0])
        places = _Cut(page, at, groups).places(count).tolist()
        windows = self.contexts.around(dict(enumerate(places)), WINDOW, WINDOW)
        split = []
        for ids, peak in windows.values():
            texts = token_texts(ids, self._vocab)
            split.append(("".join(texts[:peak]), texts[peak], "".join(texts[peak + 1 :])))
        return split

    def _names(self) -> list[str]:
        """The groups of contexts."""
        return ["top", *(f"interval_{n}" for n in range(self._intervals, 0, -1)), "near_miss"]

    def _title(self, name: str) -> str:
        if name == "top":
            return "Strongest"
        if name == "near_miss":
            return "Near misses, just below the threshold"
        return f"Interval {name.removeprefix('interval_')} of {self._intervals}"

    def raises(self, page: Page, at: int) -> list[dict[str, Any]]:
        """Tokens whose logits the feature raises most."""
        return self._logits(page.raises, page.raises_logit, at)

    def lowers(self, page: Page, at: int) -> list[dict[str, Any]]:
        """Tokens whose logits the feature lowers most."""
        return self._logits(page.lowers, page.lowers_logit, at)

    def _logits(self, ids: np.ndarray, logits: np.ndarray, at: int) -> list[dict[str, Any]]:
        k = self._k_logits
        return [
            {**self._token(i), "logit": logit}
            for i, logit in zip(_of(ids, at, k).tolist(), _of(logits, at, k).tolist(), strict=True)
        ]

    def tokens(
        self, page: Page, at: int, tokens: Sequence[int], active: int
    ) -> list[dict[str, Any]]:
        """The listed `tokens` of a feature that fires on `active`, with share and lift."""
        counts = _ragged(page.token_count, page.tokens, at)
        rows = []
        for token, count in zip(tokens, counts.tolist(), strict=True):
            share = count / active
            lift = share * self._tokens / int(self._token_counts[token])
            rows.append({**self._token(token), "share": share, "lift": lift})
        return rows

    def _token(self, i: int) -> dict[str, Any]:
        """A token of the vocabulary; `bytes` are those of one whose text shows no character."""
        [shown] = partial_bytes([i], [self._texts[i]], self._vocab)
        return {"token": self._texts[i], "id": i, "bytes": shown}

    def sources(self, page: Page, at: int, active: int) -> list[dict[str, Any]]:
        """The sources it fires in most, with share and lift."""
        numbers = _ragged(page.source, page.sources, at)
        counts = _ragged(page.source_count, page.sources, at)
        rows = []
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            source = self._sources[number]
            share = count / active
            lift = share * self._tokens / source["tokens"]
            rows.append({"source": source["source"], "share": share, "lift": lift})
        return rows

    def neighbours(self, page: Page, at: int) -> list[dict[str, Any]]:
        """The nearest features by decoder cosine."""
        ids, cosines = _of(page.neighbour, at, self._k_near), _of(page.cosine, at, self._k_near)
        return [
            {"feature": i, "cosine": cosine}
            for i, cosine in zip(ids.tolist(), (cosines / 32767).tolist(), strict=True)
        ]


class _Cut:
    """Takes a feature's contexts off the arrays of its page, group by group."""

    def __init__(self, page: Page, at: int, groups: int) -> None:
        before = page.contexts[: at * groups].astype(int)
        near = int(before[groups - 1 :: groups].sum())
        self._page, self._context, self._gap = page, int(before.sum()), near
        self._value = self._context - near
        self._other = int(page.others[: self._context].sum())

    def places(self, count: int) -> np.ndarray:
        """Places of the next `count` peaks, which stay to be taken."""
        return self._page.place[self._context : self._context + count]

    def values(self, count: int) -> np.ndarray:
        """Shares of the largest activation at the next `count` peaks."""
        drops = self._page.value[self._value : self._value + count].astype(np.int64)
        self._value += count
        shares = (65535 - np.cumsum(drops)) / 65535
        if (shares < 0).any():
            raise ValueError("a context's activation is below 0")
        return shares

    def gaps(self, count: int) -> np.ndarray:
        """How far the next `count` near misses are below the threshold."""
        self._gap += count
        return self._page.gap[self._gap - count : self._gap].astype(np.float64)

    def contexts(self, count: int) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
        """Places of the next `count` peaks; positions and levels of the other active tokens."""
        mine = slice(self._context, self._context + count)
        self._context += count
        bounds = self._other + np.cumsum([0, *self._page.others[mine].tolist()])
        self._other = int(bounds[-1])
        spans = [slice(a, b) for a, b in itertools.pairwise(bounds.tolist())]
        positions = [self._page.position[span] for span in spans]
        levels = [self._page.activation[span] for span in spans]
        return self._page.place[mine], positions, levels


def _of(array: np.ndarray, at: int, k: int) -> np.ndarray:
    """Row `at` of rows of k."""
    return array[at * k : (at + 1) * k]


def _ragged(array: np.ndarray, lengths: np.ndarray, at: int) -> np.ndarray:
    """Row `at` of rows of these lengths."""
    first = int(lengths[:at].sum())
    return array[first : first + int(lengths[at])]
