"""Texts in parts, and whether two index files say the same."""

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from sae_core.index.arrays import unpack
from sae_core.index.schema import TABLES
from tests import tiny

SIZES = (17, 5, 11)


def make_parts(folder: Path) -> list[Path]:
    """Three corpora of unlike sizes; the second has a source of its own, and the third brings a
    document of the first once more. The first two end with documents without text, which count
    among the numbers of documents.
    """
    paths = []
    texts = [tiny.tiny_documents(count, seed) for seed, count in enumerate(SIZES)]
    texts[1][2]["source"] = "diaries"
    texts[2].append(texts[0][3])
    for documents in texts[:2]:
        documents += 2 * [documents[0] | {"text": ""}]
    for n, documents in enumerate(texts):
        paths.append(folder / f"part{n}.jsonl")
        paths[-1].write_text("".join(json.dumps(each) + "\n" for each in documents))
    return paths


def rows_of(path: Path, table: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchall()


def assert_same(path: Path, expected: Path) -> None:
    """Column by column; only what is a sum of floats may differ in its last bits."""
    for table in TABLES:
        mine, theirs = rows_of(path, table), rows_of(expected, table)
        assert len(mine) == len(theirs), table
        if table == "meta":
            compare_meta(dict(mine), dict(theirs))
        elif table == "arrays":
            compare_arrays(dict(mine), dict(theirs))
        elif table == "features":
            # mean_act is the fifth column.
            assert [(*r[:4], *r[5:]) for r in mine] == [(*r[:4], *r[5:]) for r in theirs]
            assert [r[4] for r in mine] == pytest.approx([r[4] for r in theirs], rel=1e-6)
        else:
            assert mine == theirs, table


def compare_meta(mine: dict[str, str], theirs: dict[str, str]) -> None:
    assert mine.keys() == theirs.keys()
    for key in mine.keys() - {"built", "totals", "state_mark"}:
        assert mine[key] == theirs[key], key
    assert json.loads(mine["totals"]) == pytest.approx(json.loads(theirs["totals"]), rel=1e-6)


def compare_arrays(mine: dict[str, bytes], theirs: dict[str, bytes]) -> None:
    assert mine.keys() == theirs.keys()
    for name in mine.keys() - {"mean_activation"}:
        assert mine[name] == theirs[name], name
    means = [unpack(each["mean_activation"], "<f4")[0] for each in (mine, theirs)]
    np.testing.assert_allclose(*means, rtol=1e-5, atol=1e-7)
