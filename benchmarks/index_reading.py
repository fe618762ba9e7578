"""How long an index takes to open, to search, to list and to read, at any number of features.

    python -m benchmarks.index_reading --d-sae 131072 1048576 --out reading.json

The index is the demo's with its first 4,096 features repeated and 32 times its vocabulary, about as
many tokens as Gemma's. Beside each search stands DuckDB's own for its text: a scan of all
signatures, and of all features joined with the tokens that have it. Prints JSON; the first search,
which makes what the others need, stands apart.
"""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from app.commands.shared import DEMO
from benchmarks.app_latency import machine
from benchmarks.compact_json import compact_json
from sae_core.index import Index
from sae_core.index.arrays import pack, unpack
from sae_core.index.described_words import from_pages
from sae_core.index.feature_pages import FEATURES
from sae_core.index.index_checks import MANY_PAGES, pages_of
from sae_core.index.schema import ARRAYS, GATHERED, MAP, connect, create

QUERIES = (
    "a", "the", "sailor", "said replied", '"raise ValueError"', "zzzzqqqq", "77",
    "\N{GRINNING FACE}",
)  # fmt: skip
VOCABULARIES = 32
OWN = 4096
"""Features of the demo's that are repeated."""
SCAN = """
    SELECT count(*) FROM features WHERE contains(lower(signature), lower($q)) OR feature IN (
        SELECT feature FROM (SELECT feature, unnest(tokens) AS token FROM features) WHERE token IN (
            SELECT token FROM vocabulary WHERE contains(lower(text), lower($q))))
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    d_sae: tuple[int, ...] = (131_072, 1_048_576)
    """Numbers of features, multiples of 4,096."""
    repeats: int = 50
    """Times that each question is asked; DuckDB's scan a tenth of that."""
    out: Path | None = None
    """Also write the JSON to this file."""


def write_large(path: Path, d_sae: int) -> None:
    """An index of `d_sae` features made of the demo's."""
    if d_sae % OWN:
        raise ValueError(f"{d_sae} features are no multiple of {OWN}: give one that is.")
    old = next(DEMO.glob("saes/resid_post*/index.duckdb"))
    with create(path) as writer:
        run = writer._connection.execute
        run(f"ATTACH '{old}' AS old (READ_ONLY)")
        [(tokens,)] = run("SELECT count(*) FROM old.vocabulary").fetchall()
        times = d_sae // OWN
        run(
            "INSERT INTO new.meta SELECT key, CASE WHEN key = 'd_sae' THEN ? ELSE value END"
            " FROM old.meta WHERE key != ?",
            [str(d_sae), MAP],
        )
        run("INSERT INTO new.documents SELECT * FROM old.documents")
        run("INSERT INTO new.token_blocks SELECT * FROM old.token_blocks")
        run(
            "INSERT INTO new.vocabulary SELECT token + $tokens * r, CASE WHEN r = 0 THEN text ELSE"
            " text || chr((97 + r % 26)::INT) || chr((97 + token % 26)::INT) END, CASE WHEN r = 0"
            " THEN bytes END FROM old.vocabulary, range($times) t(r) ORDER BY r, token",
            {"tokens": tokens, "times": VOCABULARIES},
        )
        run(
            "INSERT INTO new.features SELECT f.* REPLACE (feature + $own * r AS feature,"
            " least(active_tokens, greatest(1, active_tokens - r % 97)) AS active_tokens,"
            " max_act * (1 + r / 1000.0) AS max_act, list_transform(tokens, lambda x: x + $tokens *"
            " ((feature + r) % $vocabularies)) AS tokens) FROM old.features f, range($times) t(r)"
            " WHERE feature < $own ORDER BY r, feature",
            {"own": OWN, "tokens": tokens, "vocabularies": VOCABULARIES, "times": times},
        )
        run(
            "INSERT INTO new.pages SELECT page + $pages * r, data FROM old.pages, range($times)"
            " t(r) WHERE page < $pages ORDER BY r, page",
            {"pages": OWN // FEATURES, "times": times},
        )
        rows = run("SELECT name, data FROM old.arrays WHERE name != ?", [MAP]).fetchall()
        arrays = {name: unpack(data, ARRAYS[name])[0] for name, data in rows}
        more = np.maximum(1, np.tile(arrays["token_counts"] // 50, VOCABULARIES - 1))
        arrays["token_counts"] = np.concatenate([arrays["token_counts"], more])
        for name in ("histogram_exponent", "histogram_width"):
            arrays[name] = np.tile(arrays[name][:OWN], times)
        writer.insert("arrays", list(ARRAYS), [pack(arrays[name], ARRAYS[name]) for name in ARRAYS])
        if pages_of(d_sae) > MANY_PAGES:
            sql = "SELECT len(tokens) FROM old.features ORDER BY feature"
            lengths = np.array([length for (length,) in run(sql).fetchall()])
            meta = {key: json.loads(value) for key, value in run("FROM old.meta").fetchall()}
            with connect(old) as pages:
                counts, strongest = from_pages(pages, old, meta, lengths)
            repeated = counts[: lengths[:OWN].sum()], strongest[:OWN] + 1
            for values, (name, dtype) in zip(repeated, GATHERED.items(), strict=True):
                writer.insert("arrays", [name], [pack(np.tile(values, times), dtype)])


def seconds(ask: Callable[[], Any]) -> float:
    """How long it takes once."""
    start = time.perf_counter()
    ask()
    return time.perf_counter() - start


def milliseconds(ask: Callable[[], Any], repeats: int) -> dict[str, float]:
    """p50 and p99 of as many times."""
    times = 1e3 * np.array([seconds(ask) for _ in range(repeats)])
    return {
        "p50": round(float(np.median(times)), 2),
        "p99": round(float(np.quantile(times, 0.99)), 2),
    }


def measured(path: Path, repeats: int) -> dict[str, Any]:
    """All questions to one index."""
    opened: list[Index] = []
    opening = seconds(lambda: opened.append(Index.open(path)))
    [index] = opened
    first_search = seconds(lambda: index.search("a"))
    connection = connect(path)
    rng = np.random.default_rng(0)
    d_sae = index.meta["d_sae"]

    def any_feature() -> dict[str, Any]:
        return index.feature(int(rng.integers(d_sae)))

    shown = [row["feature"] for row in index.search("the")["features"]]
    lists = {
        "most frequent": {},
        "rare": {"max_frequency": 1e-3},
        "by what they write": {"sort": "output_score"},
        "far down": {"offset": d_sae // 2},
    }
    return {
        "d_sae": d_sae,
        "bytes": path.stat().st_size,
        "open_seconds": round(opening, 3),
        "first_search_seconds": round(first_search, 3),
        "search_ms": {
            query: {
                "matches": index.search(query)["total"],
                **milliseconds(lambda query=query: index.search(query), repeats),
                "scan": milliseconds(
                    lambda query=query: connection.execute(SCAN, {"q": query}).fetchall(),
                    max(repeats // 10, 1),
                ),
            }
            for query in QUERIES
        },
        "list_ms": {
            name: milliseconds(lambda given=given: index.search(**given), repeats)
            for name, given in lists.items()
        },
        "fifty_contexts_ms": milliseconds(lambda: index.glimpses(shown), repeats),
        "feature_ms": milliseconds(any_feature, repeats),
    }


def main(options: Options) -> None:
    """Make each index, measure it, and print what came out."""
    result: dict[str, Any] = {"machine": machine(), "indexes": []}
    for d_sae in options.d_sae:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "large.duckdb"
            write_large(path, d_sae)
            result["indexes"].append(measured(path, options.repeats))
    text = compact_json(result)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
