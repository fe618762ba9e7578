"""Indexes that open and are wrong all the same: each is refused with one sentence that names it."""

import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from sae_core.index import Index
from sae_core.index.arrays import pack, unpack
from sae_core.index.feature_pages import Page, joined, packed
from sae_core.index.index_checks import page_shape
from sae_core.index.schema import ARRAYS, IndexBusyError, connect

Change = Callable[[duckdb.DuckDBPyConnection], object]


def sql(statement: str) -> Change:
    return lambda connection: connection.execute(statement)


def meta(key: str, value: Any) -> Change:
    """Another value of an entry of `meta`; text is put in as it is, to be no JSON."""
    written = value if isinstance(value, str) else json.dumps(value)
    return lambda c: c.execute("UPDATE meta SET value = ? WHERE key = ?", [written, key])


def array(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    def changed(connection: duckdb.DuckDBPyConnection) -> None:
        [(data,)] = connection.execute("SELECT data FROM arrays WHERE name = ?", [name]).fetchall()
        packed = pack(change(unpack(data, ARRAYS[name])[0].copy()), ARRAYS[name])
        connection.execute("UPDATE arrays SET data = ? WHERE name = ?", [packed, name])

    return changed


def page(name: str, value: Any, place: int = 0) -> Change:
    """Another number in an array of the first page."""

    def changed(connection: duckdb.DuckDBPyConnection) -> None:
        entries = connection.execute("SELECT key, value FROM meta").fetchall()
        shape = page_shape({key: json.loads(text) for key, text in entries}, 0)
        [(data,)] = connection.execute("SELECT data FROM pages WHERE page = 0").fetchall()
        read = Page.unpack(data, shape)
        getattr(read, name)[place] = value
        again = joined(packed(vars(read)))
        connection.execute("UPDATE pages SET data = ? WHERE page = 0", [again])

    return changed


def bomb(table: str, where: str) -> Change:
    """A blob that inflates to 256 MB, in the form that the table's blobs have."""
    zeros = bytes(2**28)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    plane = deflater.compress(zeros) + deflater.flush()
    packed = np.array([2**28, len(plane)], "<u4").tobytes() + plane
    data = zlib.compress(zeros) if table == "token_blocks" else packed
    return lambda c: c.execute(f"UPDATE {table} SET data = ? WHERE {where}", [data])


def reversed_blocks(connection: duckdb.DuckDBPyConnection) -> None:
    """The first block of tokens cut to half of its tokens."""
    from sae_core.index.tokencodec import decode_block, encode_block

    [(data,)] = connection.execute("SELECT data FROM token_blocks WHERE block = 0").fetchall()
    rank = decode_block(data)
    cut = encode_block(rank[: len(rank) // 2])
    connection.execute("UPDATE token_blocks SET data = ? WHERE block = 0", [cut])


WRONG: dict[str, Change] = {
    # Rows
    "half of the features": sql("DELETE FROM features WHERE feature % 2 = 1"),
    "no feature": sql("DELETE FROM features"),
    "a feature twice": sql("UPDATE features SET feature = 3 WHERE feature = 4"),
    "features from 1": sql("UPDATE features SET feature = feature + 1"),
    "no page": sql("DELETE FROM pages"),
    "another page": sql("UPDATE pages SET page = 1"),
    "no block of tokens": sql("DELETE FROM token_blocks WHERE block = 0"),
    "no documents": sql("DELETE FROM documents"),
    "half of the vocabulary": sql("DELETE FROM vocabulary WHERE token >= 192"),
    "a token twice": sql("UPDATE vocabulary SET token = 3 WHERE token = 4"),
    "one array less": sql("DELETE FROM arrays WHERE name = 'histogram_width'"),
    # Numbers of features
    "NaN in max_act": sql("UPDATE features SET max_act = 'nan' WHERE feature = 5"),
    "infinite max_act": sql("UPDATE features SET max_act = 'inf' WHERE feature = 5"),
    "negative max_act": sql("UPDATE features SET max_act = -max_act WHERE feature = 5"),
    "no max_act": sql("UPDATE features SET max_act = NULL WHERE feature = 5"),
    "NaN in mean_act": sql("UPDATE features SET mean_act = 'nan' WHERE feature = 5"),
    "mean above max": sql("UPDATE features SET mean_act = 2 * max_act WHERE feature = 5"),
    "NaN in threshold": sql("UPDATE features SET threshold = 'nan' WHERE feature = 5"),
    "NaN in concentration": sql("UPDATE features SET concentration = 'nan' WHERE feature = 5"),
    "negative count": sql("UPDATE features SET active_tokens = -1 WHERE feature = 5"),
    "active more than read": sql("UPDATE features SET active_tokens = 1e9 WHERE feature = 5"),
    "no count": sql("UPDATE features SET active_tokens = NULL WHERE feature = 5"),
    "unknown token": sql("UPDATE features SET tokens = [100000] WHERE feature = 5"),
    "no list of tokens": sql("UPDATE features SET tokens = NULL WHERE feature = 5"),
    "no signature": sql("UPDATE features SET signature = NULL WHERE feature = 5"),
    "document of no source": sql("UPDATE documents SET source = 100 WHERE document = 0"),
    # Meta
    "tokens 0": meta("tokens", 0),
    "tokens as text": meta("tokens", '"many"'),
    "too many tokens": meta("tokens", 10**9),
    "false d_sae": meta("d_sae", 128),
    "false d_model": meta("d_model", 64),
    "intervals 0": meta("intervals", 0),
    "false listed_logits": meta("listed_logits", 9),
    "false stored_tokens": meta("stored_tokens", 10),
    "negative before": meta("before", -1),
    "sources no list": meta("sources", 3),
    "totals no numbers": meta("totals", {"l0": "a", "fvu": 1, "dead": 0}),
    "no site": meta("site", '"somewhere"'),
    "no JSON": meta("tokens", "{"),
    "deep JSON": meta("sources", "[" * 100_000 + "]" * 100_000),
    "highlights of no feature": meta("worth_opening", [[64, "why"]]),
    # Arrays, pages, blocks
    "short token_counts": array("token_counts", lambda a: a[:-1]),
    "NaN in histogram_width": array("histogram_width", lambda a: a * np.float32("nan")),
    "huge histogram_exponent": array("histogram_exponent", lambda a: a + 30_000),
    "segments of no document": array("segment_document", lambda a: a + 10_000),
    "array that inflates": bomb("arrays", "name = 'token_counts'"),
    "page that inflates": bomb("pages", "page = 0"),
    "block that inflates": bomb("token_blocks", "block = 0"),
    "half a block": reversed_blocks,
    "peak beyond the tokens": page("place", 2**31),
    "unknown neighbour": page("neighbour", 64),
    "NaN logit": page("raises_logit", np.nan),
    "unknown raised token": page("raises", 2**20),
    "activation out of its window": page("position", 40),
    "histogram of other tokens": page("pre_activation_counts", 2**31),
    "more contexts than there are": page("contexts", 90),
}


def read_all(path: Path) -> None:
    """Open an index and read everything in it."""
    index = Index.open(path)
    try:
        index.search()
        index.highlights()
        for feature in range(len(index.frequencies())):
            index.feature(feature)
    finally:
        index.close()


@pytest.mark.parametrize("change", WRONG.values(), ids=list(WRONG))
def test_a_wrong_index_is_refused_with_one_sentence(
    change: Change, tiny_index: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copy(tiny_index, tmp_path / "copy.duckdb"))
    with duckdb.connect(str(copy)) as connection:
        change(connection)
    with pytest.raises(ValueError, match="is damaged: build it again with jumpscope index") as said:
        read_all(copy)
    assert str(said.value).startswith(str(copy))
    assert str(said.value).count(str(copy)) == 1
    assert "\n" not in str(said.value)
    assert len(str(said.value)) < len(str(copy)) + 160


def test_what_was_not_changed_is_read(tiny_index: Path) -> None:
    """Or the test above says nothing."""
    read_all(tiny_index)


def test_an_index_in_use_is_not_damaged(tiny_index: Path, tmp_path: Path) -> None:
    copy = shutil.copy(tiny_index, tmp_path / "copy.duckdb")
    program = (
        "import sys, duckdb; c = duckdb.connect(sys.argv[1]); print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(copy)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(IndexBusyError, match=rf"is in use: a program \(\S+, PID {holder.pid}"):
            Index.open(copy)
        holder.communicate("\n")
    Index.open(copy).close()


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "IO Error: Trying to read a database file with version number 99, but we can only read "
            "versions between 64 and 67.",
            r"was written by a newer DuckDB than the \S+ here: install a newer one",
        ),
        ('IO Error: Cannot open file "x": Permission denied', "cannot be read: this user has no"),
    ],
)
def test_what_duckdb_says_is_told_apart(
    said: str, sentence: str, tiny_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise duckdb.IOException(said)

    monkeypatch.setattr(duckdb, "connect", refuse)
    with pytest.raises(ValueError, match=sentence):
        connect(tiny_index)
