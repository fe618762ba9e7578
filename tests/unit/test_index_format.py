"""docs/format.md against the code, and a reader that knows nothing but the document."""

import os
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from sae_core.bundle import Bundle
from sae_core.index import Index
from sae_core.index.feature_pages import Page
from sae_core.index.schema import ARRAYS, GATHERED, SCHEMA_VERSION, TABLES, create
from sae_core.index.vocabulary_reader import read_vocabulary
from sae_core.index.write import _write_vocabulary
from tests import tiny

FLOATS = (
    "max_act", "mean_act", "threshold", "concentration", "early_share", "output_score",
    "side_effect",
)  # fmt: skip
DOCUMENT = (Path(__file__).parents[2] / "docs" / "format.md").read_text()


@pytest.fixture(scope="module")
def path(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: DuckDB refuses a file that is open elsewhere in the process with other settings."""
    copied = tmp_path_factory.mktemp("format") / "index.duckdb"
    return Path(shutil.copy(tiny_bundle.index_path(tiny.SAE_NAME), copied))


def test_the_document_names_everything_in_the_file(path: Path) -> None:
    assert f"Schema version {SCHEMA_VERSION}." in DOCUMENT
    named = set(re.findall(r"`([a-z_]+)[^`]*`", DOCUMENT))
    assert set(TABLES) <= named
    assert {*ARRAYS, *GATHERED} <= named
    assert set(Page.__dataclass_fields__) <= named
    with duckdb.connect(str(path), read_only=True) as connection:
        keys = {key for (key,) in connection.execute("SELECT key FROM meta").fetchall()}
        columns = connection.execute(
            "SELECT column_name FROM duckdb_columns() WHERE NOT internal"
        ).fetchall()
    assert keys <= named
    written = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`]*)`", DOCUMENT))))
    assert {name for (name,) in columns} <= written


def test_an_index_is_readable_from_the_document_alone(path: Path) -> None:
    """Written from docs/format.md: decodes one feature's contexts without Jumpscope's reader."""

    def packed(data: bytes, dtype: str, at: int = 0) -> tuple[np.ndarray, int]:
        size = np.dtype(dtype).itemsize
        count, *lengths = np.frombuffer(data, "<u4", 1 + size, at).tolist()
        at += 4 + 4 * size
        elements = np.zeros((count, size), np.uint8)
        for byte, length in enumerate(lengths):
            elements[:, byte] = list(zlib.decompress(data[at : at + length], -15))
            at += length
        return np.frombuffer(elements.tobytes(), dtype), at

    with duckdb.connect(str(path), read_only=True) as connection:
        arrays = dict(connection.execute("SELECT name, data FROM arrays").fetchall())
        [(page,)] = connection.execute("SELECT data FROM pages WHERE page = 0").fetchall()
        blocks = connection.execute("SELECT data FROM token_blocks ORDER BY block").fetchall()
        texts = dict(connection.execute("SELECT token, text FROM vocabulary").fetchall())
        [(largest,)] = connection.execute(
            "SELECT max_act FROM features WHERE feature = 0"
        ).fetchall()
    counts = packed(arrays["token_counts"], "<u8")[0].astype(np.int64).tolist()
    id_of_rank = sorted(range(len(counts)), key=lambda token: (-counts[token], token))
    stored: list[int] = []
    for (data,) in blocks:
        raw = zlib.decompress(data)
        n = int.from_bytes(raw[:4], "little")
        at = 8 + 4 * int.from_bytes(raw[4:8], "little")
        for _ in range(n):
            rank, at = raw[at], at + 1
            if rank >= 192:
                rank, at = 192 + (rank - 192) * 256 + raw[at], at + 1
            stored.append(id_of_rank[rank])
    contexts, at = packed(page, "u1")
    place, at = packed(page, "<u4", at)
    value, at = packed(page, "<u2", at)
    lengths = packed(arrays["segment_length"], "<u4")[0].astype(np.int64)
    ends = np.cumsum(lengths)

    result: dict[str, Any] = Index.open(path).feature(0)["groups"][0]
    assert len(result["contexts"]) == contexts[0] > 10
    before = 65535
    for n, context in enumerate(result["contexts"]):
        before -= int(value[n])
        assert context["value"] == pytest.approx(before / 65535 * largest)
        peak = int(place[n])
        segment = int(np.searchsorted(ends, peak, side="right"))
        first = max(int(ends[segment] - lengths[segment]), peak - 24)
        last = min(int(ends[segment]), peak + 9)
        if "".join(context["tokens"]).isascii():  # else one character may be several tokens
            assert context["tokens"] == [texts[token] for token in stored[first:last]]
        assert context["peak"] == peak - first


def test_a_page_is_stored_by_itself(tmp_path: Path) -> None:
    """DuckDB would put pages together wherever that saves anything, and read many to show one."""
    path = tmp_path / "index.duckdb"
    tables = ("arrays", "pages", "token_blocks")
    with create(path) as writer:
        for table in tables:
            names = [str(i) if table == "arrays" else i for i in range(64)]
            writer.insert(table, names, [bytes([i]) * 40_000 for i in range(64)])
    with duckdb.connect(str(path), read_only=True) as connection:
        for table in tables:
            stored = connection.execute(
                f"SELECT DISTINCT compression FROM pragma_storage_info('{table}')"
                " WHERE segment_type = 'BLOB'"
            ).fetchall()
            assert stored == [("Uncompressed",)], table


def test_tables_filled_part_by_part_hold_all_in_order(tmp_path: Path) -> None:
    path, count, part = tmp_path / "index.duckdb", 4000, 1000
    lines = np.array([f"line {n}" for n in range(count)], object)
    tokens = [np.arange(n % 4) for n in range(count)]
    with create(path) as writer:
        for first in range(0, count, part):
            number = np.arange(first, first + part)
            columns = {"feature": number, "signature": lines[number], "active_tokens": number}
            columns |= dict.fromkeys(FLOATS, np.full(part, np.nan, np.float32))
            owner = np.repeat(number, [len(tokens[n]) for n in number])
            elements = np.concatenate([tokens[n] for n in number])
            writer.insert_arrays("features", columns, {"tokens": (owner, elements)})
    with duckdb.connect(str(path), read_only=True) as connection:
        rows = connection.execute("SELECT signature, tokens, max_act FROM features").fetchall()
    expected = zip(lines, tokens, strict=True)
    assert rows == [(line, listed.tolist(), None) for line, listed in expected]


def test_what_a_killed_build_left_is_no_part_of_the_next(tmp_path: Path) -> None:
    """Whole, under the name that this process takes: as in containers, whose processes have the
    same numbers again and again.
    """
    path = tmp_path / "index.duckdb"
    for key in ("first", "second"):
        with create(path) as writer:
            writer.insert("meta", [key], ["1"])
        if key == "first":
            path.rename(tmp_path / f".index.duckdb.{os.getpid()}.tmp")
            (tmp_path / ".index.duckdb.1.tmp.rest").mkdir()
    assert list(tmp_path.iterdir()) == [path]
    with duckdb.connect(str(path), read_only=True) as connection:
        assert connection.execute("SELECT key FROM meta").fetchall() == [("second",)]


def test_a_vocabulary_comes_back_as_it_was(tmp_path: Path) -> None:
    texts, odd = ["\0", "a\0b", "", "é", "\ufffd", "x"], [*[None] * 4, b"\xc3", None]
    with create(tmp_path / "index.duckdb") as writer:
        _write_vocabulary(writer, odd, texts)
    with duckdb.connect(str(tmp_path / "index.duckdb"), read_only=True) as connection:
        read, raw = read_vocabulary(connection, tmp_path)
        given = connection.execute("SELECT bytes FROM vocabulary ORDER BY token").fetchall()
    assert list(read) == texts
    assert list(raw) == [word or text.encode() for word, text in zip(odd, texts, strict=True)]
    assert [word for (word,) in given] == odd
