"""Views of an index that a person can read, in SQL: a row a context, a logit, a bin, a neighbour.

An index keeps all that packed. Here each view is SQL over the table `features` that calls a
function per feature, which unpacks what stands in the feature's page; text, tokens and activations
of contexts are put together for those rows alone that a query asks for. So a query about one
feature reads one page, and one about all of them reads each page once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import duckdb

from sae_core.index.feature_pages import FEATURES, Page
from sae_core.index.feature_reader import FeatureReader, Peak
from sae_core.index.schema import SCORES


@dataclass(frozen=True, kw_only=True)
class View:
    """What a view holds."""

    rows: str
    """What one row is."""
    columns: Mapping[str, tuple[str, str]]
    """Name -> type and meaning."""


VIEWS: Final[Mapping[str, View]] = {
    "features": View(
        rows="a feature",
        columns={
            "feature": ("INTEGER", "its number"),
            "signature": ("VARCHAR", "what it fires on, in one line"),
            "frequency": ("DOUBLE", "share of tokens on which it is active"),
            "active_tokens": ("BIGINT", "tokens on which it is active"),
            "max_act": ("FLOAT", "largest activation"),
            "mean_act": ("FLOAT", "mean activation where it is active"),
            "threshold": ("FLOAT", "pre-activation above which it is active"),
            "concentration": ("FLOAT", "share of its firing on the words of the signature"),
            "early_share": ("FLOAT", "share of its firing on the first 4 tokens of a row"),
            "output_score": ("FLOAT", "how much it writes what it promotes"),
            "side_effect": ("FLOAT", "KL in nats at equal push"),
            "tokens": ("INTEGER[]", "ids of the tokens it fires on most"),
        },
    ),
    "feature_contexts": View(
        rows="a context of a feature",
        columns={
            "feature": ("INTEGER", "number of the feature"),
            "kind": ("VARCHAR", "top, interval_5 (the highest) to interval_1, near_miss"),
            "rank": ("INTEGER", "1 for the strongest of its kind"),
            "activation": ("DOUBLE", "activation at the peak; 0 for a near miss"),
            "gap": ("DOUBLE", "near misses alone: threshold less pre-activation"),
            "token": ("VARCHAR", "the token at the peak"),
            "text": ("VARCHAR", "the tokens of the window as text"),
            "document": ("INTEGER", "its row in documents"),
            "title": ("VARCHAR", "title of the document"),
            "source": ("VARCHAR", "source of the document"),
            "first_token": ("BIGINT", "token of the document at which the window begins"),
            "peak": ("INTEGER", "place of the peak in the window, from 0"),
            "tokens": ("VARCHAR[]", "the tokens of the window"),
            "activations": ("DOUBLE[]", "the activation on each of them"),
        },
    ),
    "feature_logits": View(
        rows="a token that a feature raises or lowers",
        columns={
            "feature": ("INTEGER", "number of the feature"),
            "direction": ("VARCHAR", "raises or lowers"),
            "rank": ("INTEGER", "1 for the strongest effect"),
            "token": ("VARCHAR", "the token"),
            "token_id": ("INTEGER", "its id"),
            "logit": ("DOUBLE", "effect of the unit decoder row on its centred logit"),
        },
    ),
    "histograms": View(
        rows="a bin of a feature's histogram",
        columns={
            "feature": ("INTEGER", "number of the feature"),
            "kind": ("VARCHAR", "activation (active tokens) or pre_activation (all tokens)"),
            "bin": ("INTEGER", "1 for the lowest"),
            "low": ("DOUBLE", "lower edge; NULL below all edges"),
            "high": ("DOUBLE", "upper edge; NULL above all edges"),
            "count": ("BIGINT", "tokens in it"),
        },
    ),
    "neighbours": View(
        rows="a feature's neighbour by decoder direction",
        columns={
            "feature": ("INTEGER", "number of the feature"),
            "rank": ("INTEGER", "1 for the nearest"),
            "neighbour": ("INTEGER", "number of the other feature"),
            "cosine": ("DOUBLE", "cosine of the two decoder rows"),
        },
    ),
    "token_shares": View(
        rows="a token that a feature fires on",
        columns={
            "feature": ("INTEGER", "number of the feature"),
            "rank": ("INTEGER", "1 for the most frequent"),
            "token": ("VARCHAR", "the token"),
            "token_id": ("INTEGER", "its id"),
            "share": ("DOUBLE", "share of the feature's active tokens"),
            "lift": ("DOUBLE", "that over the token's share of all tokens"),
        },
    ),
    "source_shares": View(
        rows="a source that a feature fires in",
        columns={
            "feature": ("INTEGER", "number of the feature"),
            "rank": ("INTEGER", "1 for the most frequent"),
            "source": ("VARCHAR", "name of the source"),
            "share": ("DOUBLE", "share of the feature's active tokens"),
            "lift": ("DOUBLE", "that over the source's share of all tokens"),
        },
    ),
    "documents": View(
        rows="a document that contexts are from",
        columns={
            "document": ("INTEGER", "its number here, from 0"),
            "number": ("BIGINT", "its place in the corpus"),
            "title": ("VARCHAR", "its title"),
            "source": ("VARCHAR", "name of its source"),
            "license": ("VARCHAR", "its licence"),
        },
    ),
    "vocabulary": View(
        rows="a token",
        columns={
            "token": ("INTEGER", "its id"),
            "text": ("VARCHAR", "what it stands for"),
            "bytes": ("BLOB", "its bytes, where they are not the text in UTF-8"),
        },
    ),
    "meta": View(
        rows="an entry about the whole index",
        columns={
            "key": ("VARCHAR", "its name"),
            "value": ("VARCHAR", "its value, as JSON"),
        },
    ),
}
"""Everything that a query can name. The last two are tables of the file itself."""

_FILE: Final = "index_file.main"
_CONTEXT: Final = "STRUCT(kind VARCHAR, rank INTEGER, value DOUBLE, place BIGINT, n INTEGER)[]"
_WINDOW: Final = (
    "STRUCT(document INTEGER, title VARCHAR, source VARCHAR, first_token BIGINT, peak INTEGER)"
)
_LOGIT: Final = (
    "STRUCT(direction VARCHAR, rank INTEGER, token VARCHAR, token_id INTEGER, logit DOUBLE)[]"
)
_BIN: Final = "STRUCT(kind VARCHAR, bin INTEGER, low DOUBLE, high DOUBLE, count BIGINT)[]"
_NEIGHBOUR: Final = "STRUCT(rank INTEGER, neighbour INTEGER, cosine DOUBLE)[]"
_SHARE: Final = "STRUCT(rank INTEGER, token VARCHAR, token_id INTEGER, share DOUBLE, lift DOUBLE)[]"
_SOURCE: Final = "STRUCT(rank INTEGER, source VARCHAR, share DOUBLE, lift DOUBLE)[]"

_PER_FEATURE: Final = {
    "feature_logits": "logits_of(feature)",
    "histograms": "bins_of(feature, threshold)",
    "neighbours": "neighbours_of(feature)",
    "token_shares": "token_shares_of(feature, tokens, active_tokens)",
    "source_shares": "source_shares_of(feature, active_tokens)",
}
"""View -> the function whose rows it has, beside the feature."""


class FeatureFunctions:
    """The functions that the views call, for one index; a query runs in one thread."""

    def __init__(self, page_of: Callable[[int], tuple[Page, int]], reader: FeatureReader) -> None:
        """`page_of`: the page of a feature, and the feature's place in it."""
        self._page_of, self._reader = page_of, reader
        self._page: tuple[int, Page] | None = None
        self._peaks: tuple[int, list[Peak]] = (-1, [])

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make the functions known to a connection."""
        for name, function, arguments, returned in (
            ("contexts_of", self.contexts, ["INTEGER", "DOUBLE", "DOUBLE"], _CONTEXT),
            ("window_at", self.window, ["BIGINT"], _WINDOW),
            ("tokens_at", self.tokens, ["BIGINT"], "VARCHAR[]"),
            ("text_at", self.text, ["BIGINT"], "VARCHAR"),
            ("token_at", self.token, ["BIGINT"], "VARCHAR"),
            (
                "activations_at",
                self.activations,
                ["INTEGER", "INTEGER", "DOUBLE", "DOUBLE"],
                "DOUBLE[]",
            ),
            ("logits_of", self.logits, ["INTEGER"], _LOGIT),
            ("bins_of", self.bins, ["INTEGER", "DOUBLE"], _BIN),
            ("neighbours_of", self.neighbours, ["INTEGER"], _NEIGHBOUR),
            ("token_shares_of", self.token_shares, ["INTEGER", "INTEGER[]", "BIGINT"], _SHARE),
            ("source_shares_of", self.source_shares, ["INTEGER", "BIGINT"], _SOURCE),
        ):
            connection.create_function(name, function, arguments, returned)  # pyright: ignore[reportArgumentType, reportCallIssue] - types may be words

    def _at(self, feature: int) -> tuple[Page, int]:
        """The page of a feature, which the next ones of a scan are in too, and its place in it."""
        number, at = divmod(feature, FEATURES)
        if self._page is None or self._page[0] != number:
            self._page = (number, self._page_of(feature)[0])
        return self._page[1], at

    def _peaks_of(self, feature: int, threshold: float, largest: float) -> list[Peak]:
        if self._peaks[0] != feature:
            peaks = self._reader.peaks(*self._at(feature), threshold, largest)
            self._peaks = (feature, peaks)
        return self._peaks[1]

    def contexts(self, feature: int, threshold: float, largest: float) -> list[dict[str, Any]]:
        """Kind, rank, value, place and number of each context of a feature."""
        return [
            {"kind": p.group, "rank": p.rank, "value": p.value, "place": p.place, "n": n}
            for n, p in enumerate(self._peaks_of(feature, threshold, largest))
        ]

    def window(self, place: int) -> dict[str, Any]:
        """Where the window around a place among the stored tokens is from."""
        return self._reader.contexts.window(place)

    def tokens(self, place: int) -> list[str]:
        """The tokens of the window around a place."""
        return self._reader.contexts.texts(place)

    def text(self, place: int) -> str:
        """The same as one text."""
        return self._reader.contexts.text(place)

    def token(self, place: int) -> str:
        """The token at a peak."""
        contexts = self._reader.contexts
        return contexts.texts(place)[contexts.window(place)["peak"]]

    def activations(self, feature: int, n: int, threshold: float, largest: float) -> list[float]:
        """The activation on each token of the nth context of a feature."""
        peak = self._peaks_of(feature, threshold, largest)[n]
        return self._reader.contexts.activations(
            peak.place, peak.positions, peak.levels, largest, peak.activation
        )

    def logits(self, feature: int) -> list[dict[str, Any]]:
        """What a feature raises and lowers."""
        page, at = self._at(feature)
        both = {"raises": self._reader.raises(page, at), "lowers": self._reader.lowers(page, at)}
        return [
            {
                "direction": direction,
                "rank": rank,
                "token": row["token"],
                "token_id": row["id"],
                "logit": row["logit"],
            }
            for direction, rows in both.items()
            for rank, row in enumerate(rows, 1)
        ]

    def bins(self, feature: int, threshold: float) -> list[dict[str, Any]]:
        """Both histograms of a feature."""
        page, at = self._at(feature)
        active = self._reader.activation_histogram(page, at, feature, threshold)
        every = self._reader.pre_activation_histogram(page, at, feature, threshold)
        edges: list[float | None] = [None, *every["edges"], None]
        kinds = {
            "activation": (active["edges"], active["counts"]),
            "pre_activation": (edges, [every["below"], *every["counts"], every["above"]]),
        }
        return [
            {"kind": kind, "bin": n + 1, "low": bounds[n], "high": bounds[n + 1], "count": count}
            for kind, (bounds, counts) in kinds.items()
            for n, count in enumerate(counts)
        ]

    def neighbours(self, feature: int) -> list[dict[str, Any]]:
        """The nearest features."""
        rows = self._reader.neighbours(*self._at(feature))
        return [
            {"rank": rank, "neighbour": row["feature"], "cosine": row["cosine"]}
            for rank, row in enumerate(rows, 1)
        ]

    def token_shares(self, feature: int, tokens: list[int], active: int) -> list[dict[str, Any]]:
        """The tokens that a feature fires on."""
        rows = self._reader.tokens(*self._at(feature), tokens, active)
        return [
            {
                "rank": rank,
                "token": row["token"],
                "token_id": row["id"],
                "share": row["share"],
                "lift": row["lift"],
            }
            for rank, row in enumerate(rows, 1)
        ]

    def source_shares(self, feature: int, active: int) -> list[dict[str, Any]]:
        """The sources that a feature fires in."""
        rows = self._reader.sources(*self._at(feature), active)
        return [{"rank": rank, **row} for rank, row in enumerate(rows, 1)]


def create_views(connection: duckdb.DuckDBPyConnection, meta: Mapping[str, Any]) -> None:
    """The views of the index attached as `index_file`, in a connection that has the functions."""
    scores = ", ".join(
        name if meta["schema_version"] >= 3 else f"NULL::FLOAT AS {name}" for name in SCORES
    )
    sources = ", ".join(_quoted(row["source"]) for row in meta["sources"])
    name_of_source = f"([{sources}]::VARCHAR[])[source + 1]"
    statements = {
        "features": (
            f"SELECT feature, signature, active_tokens / {max(int(meta['tokens']), 1)}::DOUBLE"
            " AS frequency, active_tokens, max_act, mean_act, threshold, concentration,"
            f" early_share, {scores}, tokens FROM {_FILE}.features"
        ),
        "documents": (
            f"SELECT document, number, title, {name_of_source} AS source, license"
            f" FROM {_FILE}.documents"
        ),
        "feature_contexts": (
            "SELECT feature, c.kind AS kind, c.rank AS rank,"
            " CASE c.kind WHEN 'near_miss' THEN 0 ELSE c.value END AS activation,"
            " CASE c.kind WHEN 'near_miss' THEN threshold - c.value END AS gap,"
            " token_at(c.place) AS token, text_at(c.place) AS text,"
            " window_at(c.place).document AS document,"
            " window_at(c.place).title AS title, window_at(c.place).source AS source,"
            " window_at(c.place).first_token AS first_token, window_at(c.place).peak AS peak,"
            " tokens_at(c.place) AS tokens,"
            " activations_at(feature, c.n, threshold, max_act) AS activations"
            " FROM (SELECT feature, threshold::DOUBLE AS threshold, max_act::DOUBLE AS max_act,"
            " unnest(contexts_of(feature, threshold, max_act)) AS c"
            f" FROM {_FILE}.features)"
        ),
    }
    for view, call in _PER_FEATURE.items():
        columns = [name for name in VIEWS[view].columns if name != "feature"]
        listed = ", ".join(f"row.{name} AS {name}" for name in columns)
        statements[view] = (
            f"SELECT feature, {listed} FROM (SELECT feature, unnest({call}) AS row"
            f" FROM {_FILE}.features)"
        )
    for view, statement in statements.items():
        connection.execute(f"CREATE TEMP VIEW {view} AS {statement}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
