"""Reading an index: `Index`, from one file, from any number of threads."""

import json
import math
import threading
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from sae_core.index.arrays import unpack
from sae_core.index.context_reader import ContextReader, read_blocks
from sae_core.index.described_words import read_described_words
from sae_core.index.feature_columns import FeatureColumns
from sae_core.index.feature_pages import FEATURES, Page
from sae_core.index.feature_reader import FeatureReader
from sae_core.index.feature_search import FeatureSearch
from sae_core.index.feature_summaries import FeatureSummaries
from sae_core.index.glimpses import glimpses, places_in_pages
from sae_core.index.highlights import META_KEY, readability
from sae_core.index.index_checks import (
    MANY_PAGES,
    check_arrays,
    check_features,
    check_highlights,
    check_ids,
    check_meta,
    check_page,
    check_score_settings,
    check_scores,
    check_tables,
    page_shape,
    pages_of,
    totals_of,
)
from sae_core.index.map_reader import FeatureMap, main_sources, read_map
from sae_core.index.match_ranking import MatchRanking
from sae_core.index.schema import ARRAYS, MAP, SCORES, columns_of, connect, damaged, rows_of
from sae_core.index.sql_queries import open_views, relation
from sae_core.index.views import FeatureFunctions
from sae_core.index.vocabulary_reader import read_vocabulary

_NUMBERS = ("active_tokens", "max_act", "mean_act", "threshold", "concentration")
_WRONG = (zlib.error, ValueError, LookupError, ArithmeticError, TypeError, RecursionError)
"""What is raised where a file's bytes or numbers cannot be what they stand for."""


class Index:
    """What an index file holds; made by `Index.open`.

    Every method may be called from any thread: each query has its own cursor. What lists show and
    sort by is kept in memory (about 100 bytes a feature), and from the first search for a text on
    what that needs; the rest is read when needed.
    """

    @classmethod
    def open(cls, path: Path | str) -> "Index":
        """Open an index read-only; ValueError with one sentence if the file cannot be used."""
        path = Path(path)
        connection = connect(path)
        try:
            return cls(path, connection)
        except _WRONG as error:
            connection.close()
            raise ValueError(damaged(path, error)) from error
        except BaseException:
            connection.close()
            raise

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection) -> None:
        self._path, self._connection = path, connection
        entries = self._rows("SELECT key, value FROM meta")
        self._meta: dict[str, Any] = {key: json.loads(value) for key, value in entries}
        check_meta(self._meta)
        d_sae = self._meta["d_sae"]
        self._highlights = check_highlights(self._meta.pop(META_KEY), d_sae)
        self._strong_contexts: dict[int, dict[str, Any]] = {}
        self._match_ranking: MatchRanking | None = None
        self._making_words = threading.Lock()
        self._meta["totals"] = totals_of(self._meta)
        named = "SELECT name, data FROM arrays WHERE list_contains(?, name)"
        packed = dict(self._rows(named, [[*ARRAYS, MAP]]))
        arrays = {name: unpack(packed[name], dtype)[0] for name, dtype in ARRAYS.items()}
        self._meta["mean_activation"] = arrays["mean_activation"]
        self._map, self._main_sources = read_map(self._meta, packed), None
        self._tokens = int(self._meta["tokens"])
        self._columns = self._read_columns(d_sae)
        self._summaries = FeatureSummaries(connection, path, self._columns)
        texts, vocab = read_vocabulary(connection, path)
        self._vocabulary = len(vocab)
        documents = self._rows(
            "SELECT number, title, source, license, document FROM documents ORDER BY document"
        )
        check_ids("documents", [document for *_, document in documents], len(documents))
        check_arrays(arrays, self._meta, len(documents), len(vocab))
        check_tables(partial(rows_of, connection, path), self._meta, self._vocabulary)
        contexts = ContextReader(
            read_blocks=partial(read_blocks, connection, path),
            arrays=arrays,
            vocab=vocab,
            documents=[facts[:-1] for facts in documents],
            sources=[row["source"] for row in self._meta["sources"]],
            before=int(self._meta["before"]),
            after=int(self._meta["after"]),
        )
        self._reader = FeatureReader(
            self._meta, arrays, texts=texts, vocab=vocab, contexts=contexts
        )

    def __repr__(self) -> str:
        """File, SAE and sample in one line."""
        meta = self._meta
        return (
            f"Index({str(self._path)!r}: {len(self._columns):,} features at {meta['site']} of "
            f"{meta['model_name']}, {meta['tokens']:,} tokens)"
        )

    def _read_columns(self, d_sae: int) -> FeatureColumns:
        """The numbers of all features; NaN for scores in an index without."""
        scores = SCORES if self.has_output_scores else ()
        names = ["feature", *_NUMBERS, *scores]
        statement = f"SELECT {', '.join(names)} FROM features ORDER BY feature"
        columns = columns_of(self._connection, self._path, statement)
        check_ids("features", columns.pop("feature"), d_sae)
        check_features(columns, self._tokens)
        columns["active_tokens"] = columns["active_tokens"].astype(np.int64)
        if self.has_output_scores:
            check_score_settings(self._meta["output_scores"])
            check_scores(*(columns[name] for name in SCORES))
        missing = {name: np.full(d_sae, np.nan) for name in SCORES if name not in columns}
        return FeatureColumns(columns | missing, self._tokens)

    def close(self) -> None:
        """Close the file; the index cannot be used after that."""
        self._connection.close()

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def meta(self) -> dict[str, Any]:
        """About the whole index (docs/format.md lists the entries), and `mean_activation`. Numbers
        in `totals` are NaN where the sample does not define them.
        """
        return dict(self._meta)

    @property
    def has_output_scores(self) -> bool:
        """Whether what features write was measured."""
        return self._meta["schema_version"] >= 3 and "output_scores" in self._meta

    @property
    def feature_map(self) -> FeatureMap | None:
        """Where features are on the map; None where it was not computed."""
        return self._map

    def main_sources(self) -> np.ndarray:
        """The place in the meta entry `sources` of the source that most of each feature's strongest
        contexts are from, int32 `[d_sae]`; -1 for a feature that never fires.
        """
        with self._making_words, self._reading():
            if self._main_sources is None:
                self._main_sources = main_sources(self._rows, self._reader.contexts, self._meta)
            return self._main_sources.copy()

    def output_scores(self) -> np.ndarray:
        """Output score of each feature, float64 `[d_sae]`; NaN where it has none."""
        return self._columns["output_score"].copy()

    def frequencies(self) -> np.ndarray:
        """Share of tokens on which each feature is active, float64 `[d_sae]`."""
        return self._columns.frequencies()

    def max_acts(self) -> np.ndarray:
        """Largest activation of each feature, float64 `[d_sae]`; 0 for a dead one."""
        return self._columns["max_act"].copy()

    def summaries(self, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """What a list shows of each of these features; ValueError for an unknown id."""
        checked = [self._checked(i) for i in ids]
        return dict(zip(checked, self._summaries.of(checked), strict=True))

    def search(
        self,
        query: str = "",
        sort: str = "",
        descending: bool = True,
        min_frequency: float = 0.0,
        max_frequency: float = 1.0,
        limit: int = 50,
        offset: int = 0,
        min_output_score: float = 0.0,
        max_side_effect: float = math.inf,
        notes: Mapping[int, tuple[str, str]] | None = None,
        among: Collection[int] | None = None,
    ) -> dict[str, Any]:
        """One page of the features that match: `{"total", "sort", "marks", "phrases", "nowhere",
        "features"}`.

        `query` is an id (`12`, `#12`) or text: features with all of its words, each in one of the
        tokens that the feature fires on most, in a word of its signature, or in what `notes` have
        (feature -> label and note), whatever the case; what is in double quotes stands there with
        its spaces. "" sorts by "match" with a query (`match_ranking.py`), else by frequency. Ties
        keep the order of ids; features without the number that is sorted by come last, and are not
        in a list that is filtered by it. `among` leaves only those features. `sort` is what was
        sorted by, `marks` the folded texts that matched, `phrases` those of several tokens,
        `nowhere` those that no feature has, a feature's `matches` its tokens' words that have one,
        with their share of its firing. Raises ValueError for an unknown `sort`, and for output
        scores that the index does not have.
        """
        first = max(int(offset), 0)
        bounds = (float(min_frequency), float(max_frequency), min_output_score, max_side_effect)
        page = slice(first, first + max(int(limit), 0))
        search = FeatureSearch(
            self._columns, self.has_output_scores, self._ranking, self._strongest
        )
        found = search.page(query, sort, descending, bounds, page, notes, among)
        return {
            "total": found.total,
            "sort": found.sort,
            "marks": list(found.marks),
            "phrases": list(found.phrases),
            "nowhere": list(found.nowhere),
            "features": [
                {**row, "matches": matches}
                for row, matches in zip(self._summaries.of(found.ids), found.matches, strict=True)
            ],
        }

    def glimpses(self, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """A few tokens around the peak of the strongest context of each of these features:
        `tokens`, their `bytes` (`partial_bytes`) and the `peak` among them; none for a dead one,
        and none at all in a large index as long as no text was searched for.
        """
        ids = [self._checked(i) for i in ids]
        with self._reading():
            if self._match_ranking is not None:
                places = {i: int(self._match_ranking.strongest[i]) for i in ids}
            elif pages_of(len(self._columns)) <= MANY_PAGES:
                in_pages = places_in_pages(self._rows, {i // FEATURES for i in ids}, self._meta)
                places = {i: in_pages[i] for i in ids}
            else:
                return {}
            return glimpses(places, self._reader.contexts, self._reader.words[1])

    def prepare_search(self) -> None:
        """Make what the first search for a text would have to wait for."""
        self._ranking()

    def _ranking(self) -> MatchRanking:
        """What texts are looked for in; made once."""
        with self._making_words:
            if self._match_ranking is None:
                with self._reading():
                    active = self._columns["active_tokens"]
                    words = read_described_words(
                        self._connection, self._path, self._meta, self._reader.words, active
                    )
                    self._match_ranking = MatchRanking(words, active)
            return self._match_ranking

    def _strongest(self, feature: int) -> list[tuple[str, str, str]]:
        """The texts of a feature's strongest contexts: before, at and after the peak."""
        with self._reading():
            return self._reader.strongest(*self._page(feature))

    def feature(self, feature: int) -> dict[str, Any]:
        """All that the index holds of a feature, as JSON values; ValueError for an unknown id."""
        i = self._checked(feature)
        with self._reading():
            page, at = self._page(i)
            [(tokens,)] = self._rows("SELECT tokens FROM features WHERE feature = ?", [i])
            [summary] = self._summaries.of([i])
            active, threshold = int(self._columns["active_tokens"][i]), summary["threshold"]
            read = self._reader
            return {
                **summary,
                "active_tokens": active,
                "tokens": int(self._meta["tokens"]),
                "activation_histogram": read.activation_histogram(page, at, i, threshold),
                "pre_activation_histogram": read.pre_activation_histogram(page, at, i, threshold),
                "groups": read.groups(page, at, threshold, summary["max_act"]),
                "writes": self._ranks(i),
                "logits": {"raises": read.raises(page, at), "lowers": read.lowers(page, at)},
                "fires_on": {
                    "tokens": read.tokens(page, at, tokens, active),
                    "sources": read.sources(page, at, active),
                },
                "neighbours": [
                    {**row, "signature": self._summaries.signature(row["feature"])}
                    for row in read.neighbours(page, at)
                ],
            }

    def strongest_contexts(self, ids: Sequence[int]) -> dict[int, dict[str, Any] | None]:
        """The strongest context of each of these features, as `feature` has it; None for one that
        never fires. Pages and tokens of all are read at once.
        """
        with self._reading():
            found = self._pages([self._checked(i) for i in ids])
            largest = {i: float(self._columns["max_act"][i]) for i in found}
            return self._reader.strongest_contexts(found, largest)

    def contexts(self, feature: int) -> list[dict[str, Any]]:
        """The contexts of a feature, a record each: those of `feature` with their `kind` (the
        group's name) and `rank`, 1 for the strongest of its kind.
        """
        groups = self.feature(feature)["groups"]
        return [
            {"feature": int(feature), "kind": group["name"], "rank": rank, **context}
            for group in groups
            for rank, context in enumerate(group["contexts"], 1)
        ]

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """What a query over the views selects (docs/sql.md): `.df()`, `.arrow()`, `.fetchall()`.

        ValueError with one sentence if it is no query. It may write files, as the user may.
        """
        return relation(self.query_connection(hardened=False), query)

    def query_connection(self, **limits: Any) -> duckdb.DuckDBPyConnection:
        """A connection to the views, which the caller closes; `limits` as `open_views` has them."""
        functions = FeatureFunctions(self._page, self._reader)
        return open_views(self._path, functions, self._meta, **limits)

    def highlights(self, n: int = 12) -> list[dict[str, Any]]:
        """Up to n features to open first: summary, `rule` (why), and a strong `context`.

        `sae_core.index.highlights.RULE` states how they were chosen.
        """
        rows = []
        summaries = self.summaries([feature for feature, _ in self._highlights[:n]])
        for feature, reason in self._highlights[:n]:
            # Every visit of an overview shows these: their contexts are kept once they are read.
            if feature not in self._strong_contexts:
                self._strong_contexts[feature] = self._strong_context(feature)
            context = self._strong_contexts[feature]
            rows.append({**summaries[feature], "rule": reason, "context": context})
        return rows

    def _strong_context(self, feature: int) -> dict[str, Any]:
        with self._reading():
            page, at = self._page(feature)
            numbers = (self._columns[name][feature] for name in ("max_act", "threshold"))
            largest, threshold = map(float, numbers)
            [top] = self._reader.groups(page, at, threshold, largest, 1)
            strong = [c for c in top["contexts"] if c["value"] >= 0.6 * largest]
            return max(strong, key=readability)

    def _ranks(self, i: int) -> dict[str, dict[str, int]] | None:
        """For each of a feature's scores its rank, 1 for the largest, of the features that have it;
        None where it has none.
        """
        ranks = {name: self._columns.rank(name, i) for name in SCORES}
        return {name: rank for name, rank in ranks.items() if rank} or None

    def _checked(self, feature: int) -> int:
        i = int(feature)
        if i != feature or not 0 <= i < len(self._columns):
            raise ValueError(
                f"there is no feature {feature}: ids run from 0 to {len(self._columns) - 1}."
            )
        return i

    def _page(self, feature: int) -> tuple[Page, int]:
        """The page of a feature and its place in it."""
        return self._pages([feature])[feature]

    def _pages(self, features: Sequence[int]) -> dict[int, tuple[Page, int]]:
        """Of each feature its page and its place in it."""
        numbers = sorted({i // FEATURES for i in features})
        pages, asked = {}, ", ".join("?" * len(numbers)) or "NULL"
        for number, data in self._rows(
            f"SELECT page, data FROM pages WHERE page IN ({asked})", numbers
        ):
            shape = page_shape(self._meta, number)
            pages[number] = Page.unpack(data, shape)
            active = self._columns["active_tokens"][number * FEATURES : (number + 1) * FEATURES]
            check_page(pages[number], shape, self._meta, active, self._vocabulary)
        return {i: (pages[i // FEATURES], i % FEATURES) for i in features}

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """What the bytes of a page or a block make go wrong inside, as one sentence."""
        try:
            yield
        except _WRONG as error:
            raise ValueError(damaged(self._path, error)) from error

    def _rows(self, statement: str, arguments: Any = None) -> list[tuple[Any, ...]]:
        return rows_of(self._connection, self._path, statement, arguments)
