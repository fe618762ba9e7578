"""Reading an index: `Index`, from one file, from any number of threads."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from sae_core.index.context_reader import ContextReader
from sae_core.index.pages import FEATURES, Page
from sae_core.index.schema import connect

SORTS: dict[str, str] = {
    "id": "feature",
    "frequency": "active_tokens",
    "max_act": "max_act",
    "mean_act": "mean_act",
    "threshold": "threshold",
    "concentration": "concentration",
}
"""Sort order of `Index.search` -> the column it sorts by."""

_TITLES = ("Strong", "Above the middle", "Middle", "Below the middle", "Just above the threshold")
_ACT_BINS, _PRE_BINS = 64, 56


class Index:
    """What an index file holds; made by `Index.open`.

    Every method may be called from any thread: each call has its own cursor. Columns that every
    page needs (about 100 bytes per feature) are kept in memory, the rest is read when asked for.
    """

    @classmethod
    def open(cls, path: Path | str) -> "Index":
        """Open an index read-only; ValueError with one sentence if the file cannot be used."""
        path = Path(path)
        connection = connect(path)
        try:
            return cls(path, connection)
        except (duckdb.Error, zlib.error, ValueError, KeyError) as error:
            connection.close()
            raise ValueError(f"{path} is damaged: build it again with jumpscope index.") from error

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection) -> None:
        self._path, self._connection = path, connection
        entries = self._rows("SELECT key, value FROM meta")
        meta: dict[str, Any] = {key: json.loads(value) for key, value in entries}
        self._worth: list[tuple[int, str]] = [tuple(row) for row in meta.pop("worth_opening")]
        packed = dict(self._rows("SELECT name, data FROM arrays"))
        meta["mean_activation"] = _array(packed["mean_activation"], "<f4")
        self._meta = meta
        self._tokens = max(int(meta["tokens"]), 1)
        self._token_counts = _array(packed["token_counts"], "<u8")
        self._exponent = _array(packed["histogram_exponent"], "<i2").astype(int)
        self._width = _array(packed["histogram_width"], "<f4").astype(np.float64)
        columns = self._rows(
            "SELECT signature, active_tokens, max_act, mean_act, threshold FROM features"
            " ORDER BY feature"
        )
        signature, active, max_act, mean_act, threshold = zip(*columns, strict=True)
        self._signature: tuple[str, ...] = signature
        self._active = np.array(active, np.int64)
        self._max_act = np.array(max_act, np.float64)
        self._mean_act = np.array(mean_act, np.float64)
        self._threshold = np.array(threshold, np.float64)
        words = self._rows("SELECT text, bytes FROM vocabulary ORDER BY token")
        self._texts = [text for text, _ in words]
        vocab = [text.encode() if raw is None else raw for text, raw in words]
        documents = self._rows(
            "SELECT number, title, source, license FROM documents ORDER BY document"
        )
        self._contexts = ContextReader(
            read_blocks=self._read_blocks,
            token_counts=self._token_counts,
            vocab=vocab,
            segment_length=_array(packed["segment_length"], "<u4"),
            segment_document=_array(packed["segment_document"], "<u4"),
            segment_offset=_array(packed["segment_offset"], "<u4"),
            documents=documents,
            sources=[row["source"] for row in meta["sources"]],
            before=int(meta["before"]),
            after=int(meta["after"]),
        )

    def close(self) -> None:
        """Close the file; the index cannot be used after that."""
        self._connection.close()

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def meta(self) -> dict[str, Any]:
        """About the whole index (docs/format.md lists the entries), and `mean_activation`."""
        return dict(self._meta)

    def frequencies(self) -> np.ndarray:
        """Share of tokens on which each feature is active, float64 `[d_sae]`."""
        return self._active / self._tokens

    def max_acts(self) -> np.ndarray:
        """Largest activation of each feature, float64 `[d_sae]`; 0 for a dead one."""
        return self._max_act.copy()

    def summaries(self, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """What a list shows of each of these features; ValueError for an unknown id."""
        return {int(i): self._summary(self._known(i)) for i in ids}

    def search(
        self,
        query: str = "",
        sort: str = "frequency",
        descending: bool = True,
        min_frequency: float = 0.0,
        max_frequency: float = 1.0,
        limit: int = 50,
        offset: int = 0,
    ) -> dict[str, Any]:
        """One page of the features that match: `{"total", "features": [summary]}`.

        `query` is an id (`12`, `#12`) or text that stands in the signature or in a token that the
        feature fires on most, whatever the case. Ties keep the order of ids. Raises ValueError for
        an unknown `sort`.
        """
        if sort not in SORTS:
            raise ValueError(f"unknown sort order {sort!r}: use one of {', '.join(SORTS)}.")
        where = ["active_tokens BETWEEN $low AND $high"]
        # The bounds as counts, rounded so that a bound that is a feature's own share includes it.
        arguments: dict[str, Any] = {
            "low": float(min_frequency) * self._tokens - 1e-6,
            "high": float(max_frequency) * self._tokens + 1e-6,
        }
        query = query.strip()
        number = query.removeprefix("#")
        if number.isascii() and number.isdigit() and int(number) < len(self._active):
            where.append("feature = $id")
            arguments["id"] = int(number)
        elif query:
            where.append(
                "(contains(lower(signature), lower($query)) OR list_has_any(tokens, (SELECT"
                " coalesce(list(token), []) FROM vocabulary WHERE contains(lower(text),"
                " lower($query)))))"
            )
            arguments["query"] = query
        matching = f"FROM features WHERE {' AND '.join(where)}"
        direction = "DESC" if descending else "ASC"
        [(total,)] = self._rows(f"SELECT count(*) {matching}", arguments)
        found = self._rows(
            f"SELECT feature {matching} ORDER BY {SORTS[sort]} {direction}, feature"
            " LIMIT $limit OFFSET $offset",
            arguments | {"limit": max(int(limit), 0), "offset": max(int(offset), 0)},
        )
        return {"total": total, "features": [self._summary(feature) for (feature,) in found]}

    def feature(self, feature: int) -> dict[str, Any]:
        """All that is known of a feature, as JSON values; ValueError for an unknown id."""
        i = self._known(feature)
        page, at = self._page(i)
        [(tokens,)] = self._rows("SELECT tokens FROM features WHERE feature = ?", [i])
        threshold, largest = float(self._threshold[i]), float(self._max_act[i])
        return {
            **self._summary(i),
            "active_tokens": int(self._active[i]),
            "tokens": int(self._meta["tokens"]),
            "activation_histogram": self._activation_histogram(i, page, at),
            "pre_activation_histogram": self._pre_activation_histogram(i, page, at),
            "groups": self._groups(page, at, threshold, largest),
            "logits": {
                "raises": self._logits(page.raises, page.raises_logit, at),
                "lowers": self._logits(page.lowers, page.lowers_logit, at),
            },
            "fires_on": {
                "tokens": self._tokens_of(i, tokens, page, at),
                "sources": self._sources_of(i, page, at),
            },
            "neighbours": self._neighbours(page, at),
        }

    def worth_opening(self, n: int = 12) -> list[dict[str, Any]]:
        """Up to n features to open first: summary, `rule` (why), and a strong `context`.

        `sae_core.index.worth.RULE` states how they were chosen.
        """
        found = []
        for feature, reason in self._worth[:n]:
            page, at = self._page(feature)
            largest = float(self._max_act[feature])
            groups = self._groups(page, at, float(self._threshold[feature]), largest, only="top")
            contexts = groups[0]["contexts"]
            strong = [c for c in contexts if c["value"] >= 0.6 * largest]
            context = max(strong, key=_readability, default=contexts[0])
            found.append({**self._summary(feature), "rule": reason, "context": context})
        return found

    def _summary(self, i: int) -> dict[str, Any]:
        return {
            "feature": i,
            "signature": self._signature[i],
            "frequency": float(self._active[i] / self._tokens),
            "max_act": float(self._max_act[i]),
            "mean_act": float(self._mean_act[i]),
            "threshold": float(self._threshold[i]),
        }

    def _known(self, feature: int) -> int:
        i = int(feature)
        if not 0 <= i < len(self._active):
            raise ValueError(f"there is no feature {i}: ids run from 0 to {len(self._active) - 1}.")
        return i

    def _rows(self, statement: str, arguments: Any = None) -> list[tuple[Any, ...]]:
        """All rows of a query, on a cursor of its own: a connection is not safe across threads."""
        with self._connection.cursor() as cursor:
            try:
                return cursor.execute(statement, arguments).fetchall()
            except duckdb.ConnectionException:
                raise
            except duckdb.Error as error:
                raise ValueError(
                    f"{self._path} is damaged: build it again with jumpscope index."
                ) from error

    def _read_blocks(self, blocks: Sequence[int]) -> list[tuple[int, bytes]]:
        statement = "SELECT block, data FROM token_blocks WHERE list_contains(?, block)"
        return self._rows(statement, [list(blocks)])  # pyright: ignore[reportReturnType]

    def _page(self, feature: int) -> tuple[Page, int]:
        """The page of a feature and its place in it."""
        statement = "SELECT data FROM pages WHERE page = ?"
        [(data,)] = self._rows(statement, [feature // FEATURES])
        return Page.unpack(data), feature % FEATURES

    def _activation_histogram(self, i: int, page: Page, at: int) -> dict[str, list[float]]:
        counts = _of(page.activation_counts, at, _ACT_BINS)
        used = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 0
        if not used:
            return {"edges": [], "counts": []}
        edges = self._threshold[i] + np.arange(used + 1) * 2.0 ** self._exponent[i]
        return {"edges": edges.tolist(), "counts": counts[:used].tolist()}

    def _pre_activation_histogram(self, i: int, page: Page, at: int) -> dict[str, Any]:
        """The bins in use, and at least those on either side of the threshold."""
        counts = _of(page.pre_activation_counts, at, _PRE_BINS + 2)
        inner, half = counts[1:-1], _PRE_BINS // 2
        used = np.append(np.flatnonzero(inner), [half - 1, half])
        first, last = int(used.min()), int(used.max()) + 1
        edges = self._threshold[i] + np.arange(first - half, last - half + 1) * self._width[i]
        return {
            "edges": edges.tolist(),
            "counts": inner[first:last].tolist(),
            "below": int(counts[0]),
            "above": int(counts[-1]),
            "threshold": float(self._threshold[i]),
        }

    def _groups(
        self, page: Page, at: int, threshold: float, largest: float, only: str = ""
    ) -> list[dict[str, Any]]:
        intervals = int(self._meta["intervals"])
        names = ["top", *(f"interval_{n}" for n in range(intervals, 0, -1)), "near_miss"]
        n_groups = len(names)
        counts = page.contexts.astype(int)
        mine = counts[at * n_groups : (at + 1) * n_groups]
        first = int(counts[: at * n_groups].sum())
        near_before = int(counts[n_groups - 1 : at * n_groups : n_groups].sum())
        cut = _Cut(page, first, first - near_before, near_before)
        width = (largest - threshold) / intervals
        groups = []
        for name, count in zip(names, mine.tolist(), strict=True):
            if only and name != only:
                break
            if name == "near_miss":
                values = threshold - cut.gaps(count)
                low, high = (float(values.min()) if count else threshold), threshold
            else:
                values = cut.values(count) * largest
                low, high = (float(values.min()) if count else largest), largest
                if name != "top":
                    n = int(name.removeprefix("interval_"))
                    low, high = threshold + (n - 1) * width, threshold + n * width
            contexts = self._contexts.read(*cut.contexts(count), values, largest, name)
            groups.append(
                {
                    "name": name,
                    "title": _title(name, intervals),
                    "low": low,
                    "high": high,
                    "contexts": contexts,
                }
            )
        return groups

    def _logits(self, ids: np.ndarray, values: np.ndarray, at: int) -> list[dict[str, Any]]:
        k = int(self._meta["listed_logits"])
        chosen = zip(_of(ids, at, k).tolist(), _of(values, at, k).tolist(), strict=True)
        return [{"token": self._texts[i], "id": i, "logit": value} for i, value in chosen]

    def _tokens_of(
        self, i: int, tokens: Sequence[int], page: Page, at: int
    ) -> list[dict[str, Any]]:
        first = int(page.tokens[:at].sum())
        counts = page.token_count[first : first + int(page.tokens[at])]
        found = []
        for token, count in zip(tokens, counts.tolist(), strict=True):
            share = count / int(self._active[i])
            lift = share * self._tokens / int(self._token_counts[token])
            found.append({"token": self._texts[token], "id": token, "share": share, "lift": lift})
        return found

    def _sources_of(self, i: int, page: Page, at: int) -> list[dict[str, Any]]:
        first = int(page.sources[:at].sum())
        mine = slice(first, first + int(page.sources[at]))
        found = []
        for source, count in zip(
            page.source[mine].tolist(), page.source_count[mine].tolist(), strict=True
        ):
            share = count / int(self._active[i])
            facts = self._meta["sources"][source]
            lift = share * self._tokens / facts["tokens"]
            found.append({"source": facts["source"], "share": share, "lift": lift})
        return found

    def _neighbours(self, page: Page, at: int) -> list[dict[str, Any]]:
        k = int(self._meta["listed_neighbours"])
        ids, cosines = _of(page.neighbour, at, k), _of(page.cosine, at, k) / 32767
        return [
            {"feature": i, "cosine": cosine, "signature": self._signature[i]}
            for i, cosine in zip(ids.tolist(), cosines.tolist(), strict=True)
        ]


class _Cut:
    """Takes a feature's contexts off the arrays of its page, group by group."""

    def __init__(self, page: Page, context: int, value: int, gap: int) -> None:
        self._page, self._context, self._value, self._gap = page, context, value, gap
        self._other = int(page.others[:context].sum())

    def values(self, count: int) -> np.ndarray:
        """Shares of the largest activation at the next `count` peaks."""
        drops = self._page.value[self._value : self._value + count].astype(np.int64)
        self._value += count
        return (65535 - np.cumsum(drops)) / 65535

    def gaps(self, count: int) -> np.ndarray:
        """How far the next `count` near misses are below the threshold."""
        self._gap += count
        return self._page.gap[self._gap - count : self._gap].astype(np.float64)

    def contexts(self, count: int) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
        """Places of the next `count` peaks; positions and levels of the other active tokens."""
        mine = slice(self._context, self._context + count)
        self._context += count
        ends = self._other + np.cumsum(self._page.others[mine], dtype=np.int64)
        starts = np.concatenate([[self._other], ends[:-1]])
        self._other = int(ends[-1]) if count else self._other
        spans = [slice(a, b) for a, b in zip(starts.tolist(), ends.tolist(), strict=False)]
        positions = [self._page.position[span] for span in spans]
        levels = [self._page.activation[span] for span in spans]
        return self._page.place[mine], positions, levels


def _array(packed: bytes, dtype: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(packed), dtype)


def _of(array: np.ndarray, at: int, k: int) -> np.ndarray:
    return array[at * k : (at + 1) * k]


def _title(name: str, intervals: int) -> str:
    if name == "top":
        return "Strongest"
    if name == "near_miss":
        return "Near misses, just below the threshold"
    n = int(name.removeprefix("interval_"))
    return _TITLES[-n] if intervals == len(_TITLES) else f"Interval {n} of {intervals}"


def _readability(context: Mapping[str, Any]) -> tuple[float, float]:
    """Prefers contexts that read as text: letters and spaces, few line breaks, a peak inside."""
    text = "".join(context["tokens"])
    plain = sum(c.isalpha() or c == " " for c in text) / max(len(text), 1)
    breaks = text.count("\n")
    inside = context["peak"] >= 4 and len(context["tokens"]) - context["peak"] > 4
    return (round(plain - 0.15 * breaks + 0.2 * inside, 2), context["value"])
