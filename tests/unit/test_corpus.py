"""Corpora: every format gives the same documents; rows hold every token once."""

import gzip
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from sae_core.corpus import batches, documents, token_rows
from sae_core.tokens import ordinary_ids
from tests.tiny import tiny_documents


def written(folder: Path, kind: str) -> str:
    """The tiny corpus in a file of this kind."""
    rows = tiny_documents(20)
    path = folder / f"corpus.{kind}"
    if kind == "parquet":
        jsonl = written(folder, "jsonl")
        duckdb.sql(f"COPY (FROM read_json('{jsonl}')) TO '{path}' (FORMAT parquet)")
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    else:
        folder = folder / "texts"
        folder.mkdir()
        for i, row in enumerate(rows):
            (folder / f"{i:02}.txt").write_text(row["text"])
        return str(folder)
    return str(path)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "jsonl.gz", "txt"])
def test_every_format_gives_the_same_documents(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, kind)
    found, expected = list(documents([path])), tiny_documents(20)
    assert [d.text for d in found] == [row["text"] for row in expected]
    assert [d.number for d in found] == list(range(20))
    if kind != "txt":
        assert [(d.title, d.source, d.license) for d in found] == [
            (row["title"], row["source"], row["license"]) for row in expected
        ]
    assert [d.number for d in documents([path], skip=15)] == [15, 16, 17, 18, 19]


def test_rows_hold_every_token_once(tiny_corpus: Path, tiny_tokenizer: Any) -> None:
    docs = list(documents([str(tiny_corpus)]))
    rows = list(token_rows(docs, tiny_tokenizer, 17))
    for document, ids in zip(
        docs, ordinary_ids(tiny_tokenizer, [d.text for d in docs]), strict=True
    ):
        own = [row for row in rows if row.document.number == document.number]
        assert np.concatenate([row.ids[1:] for row in own]).tolist() == ids
        assert [row.offset for row in own] == list(range(0, len(ids), 16))
        assert all(row.ids[0] == tiny_tokenizer.bos_token_id for row in own)
        assert all(len(row.ids) <= 17 for row in own)


def test_batches_pad_on_the_right_and_mask_specials(tiny_corpus: Path, tiny_tokenizer: Any) -> None:
    rows = list(token_rows(documents([str(tiny_corpus)]), tiny_tokenizer, 17))
    seen = 0
    for batch in batches(rows, tiny_tokenizer, 5):
        for i, row in enumerate(batch.rows):
            assert row is rows[seen]
            seen += 1
            length = len(row.ids)
            assert batch.input_ids[i, :length].tolist() == row.ids.tolist()
            assert (batch.input_ids[i, length:] == tiny_tokenizer.pad_token_id).all()
            assert batch.mask[i].tolist() == [0 < t < length for t in range(batch.mask.shape[1])]
    assert seen == len(rows)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no corpus file matches .*nowhere"):
        list(documents([str(tmp_path / "nowhere*.parquet")]))
    (tmp_path / "data.xyz").write_text("x")
    with pytest.raises(ValueError, match="unknown kind"):
        list(documents([str(tmp_path / "data.xyz")]))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match=r"broken\.parquet cannot be read"):
        list(documents([str(tmp_path / "broken.parquet")]))
    (tmp_path / "other.jsonl").write_text('{"body": "x"}\n')
    with pytest.raises(ValueError, match="no column 'text', only body"):
        list(documents([str(tmp_path / "other.jsonl")]))
    with pytest.raises(ValueError, match="no corpus given"):
        list(documents([]))
