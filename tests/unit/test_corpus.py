"""Corpora: every format gives the same documents; rows hold every token once."""

import gzip
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch

from sae_core import marker_warning
from sae_core.corpus import Document, batches, documents, token_rows
from sae_core.text_options import TextOptions
from sae_core.tokens import ordinary_ids, special_ids
from tests import tiny, tiny_chat
from tests.tiny import tiny_documents
from tests.tiny_chat import CHATML, END, GEMMA_2, START


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
    result, expected = list(documents([path])), tiny_documents(20)
    assert [d.text for d in result] == [row["text"] for row in expected]
    assert [d.number for d in result] == list(range(20))
    if kind != "txt":
        assert [(d.title, d.source, d.license) for d in result] == [
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


@pytest.mark.parametrize(("length", "ahead"), [(200_000, (2, 2)), (90_000, (3, 3)), (30, (8, 16))])
def test_few_long_documents_are_tokenised_ahead(
    length: int, ahead: tuple[int, int], tiny_tokenizer: Any
) -> None:
    """Whoever stops reading, early or later on, has not waited for text that nobody needs."""
    begun = []

    def endless() -> Iterator[Document]:
        for number in itertools.count():
            begun.append(number)
            yield Document(number, "cat " * (length // 4), "", "", "")

    rows = token_rows(endless(), tiny_tokenizer, 512)
    for wanted, most in zip((0, 40), ahead, strict=True):
        assert any(row.document.number == wanted for row in rows)
        assert begun == list(range(len(begun)))
        assert len(begun) <= wanted + most


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


def column_file(folder: Path, kind: str, column: str, values: list[Any]) -> str:
    """A file of these values in one column, beside a title."""
    jsonl = folder / "column.jsonl"
    jsonl.write_text(
        "".join(json.dumps({column: v, "title": str(i)}) + "\n" for i, v in enumerate(values))
    )
    if kind == "jsonl":
        return str(jsonl)
    path = folder / "column.parquet"
    duckdb.sql(f"COPY (FROM read_json('{jsonl}')) TO '{path}' (FORMAT parquet)")
    return str(path)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("column", ["content", "the body", 'a "quoted" name'])
def test_the_text_may_stand_in_any_column(kind: str, column: str, tmp_path: Path) -> None:
    path = column_file(tmp_path, kind, column, ["One.", "Two."])
    with pytest.raises(ValueError, match=r"no column 'text', only .*--text-column"):
        list(documents([path]))
    read = list(documents([path], options=TextOptions(text_column=column)))
    assert [(d.text, d.title) for d in read] == [("One.", "0"), ("Two.", "1")]
    with pytest.raises(ValueError, match="no column 'body', only"):
        list(documents([path], options=TextOptions(text_column="body")))


SPOKEN = [
    [
        {"role": "user", "content": "Where does\r\nthe river go?"},
        {"role": "assistant", "content": f"To the harbour, {END} it says."},
    ],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "And the ship?"},
        {"role": "assistant", "content": "Away."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "For no reason."},
    ],
]


def transformers_ids(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    return ids if ids[0] == bos else [bos, *ids]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("template", [GEMMA_2, CHATML])
def test_conversations_are_written_by_the_chat_template(
    kind: str, template: str, tmp_path: Path
) -> None:
    tokenizer = tiny_chat.make_tokenizer(template)
    path = column_file(tmp_path, kind, "messages", [*SPOKEN, []])
    rows = list(token_rows(documents([path]), tokenizer, 512))
    assert [row.document.number for row in rows] == [0, 1]
    bos, start, end = map(tokenizer.convert_tokens_to_ids, (tiny.BOS, START, END))
    for row, messages in zip(rows, SPOKEN, strict=True):
        ids = row.ids.tolist()
        assert ids[0] == bos
        assert ids.count(bos) == 1
        turns = len(messages) - (template == GEMMA_2 and messages[0]["role"] == "system")
        # The marker that a text spells is text; those of turns are special, and count nowhere.
        assert (ids.count(start), ids.count(end)) == (turns, turns)
        (batch,) = batches([row], tokenizer, 1)
        assert not batch.mask[0][torch.isin(batch.input_ids[0], torch.tensor([start, end]))].any()
    spoken = SPOKEN[1]
    if template == GEMMA_2:  # which has no system turn
        first = {"role": "user", "content": f"{spoken[0]['content']}\n\n{spoken[1]['content']}"}
        spoken = [first, *spoken[2:]]
    assert rows[1].ids.tolist() == transformers_ids(tokenizer, spoken)


def test_long_conversations_are_cut_into_rows_with_one_bos_each(tmp_path: Path) -> None:
    tokenizer = tiny_chat.make_tokenizer()
    path = column_file(tmp_path, "jsonl", "messages", SPOKEN)
    whole = [row.ids.tolist() for row in token_rows(documents([path]), tokenizer, 512)]
    rows = list(token_rows(documents([path]), tokenizer, 16))
    assert all(row.ids[0] == 2 and 2 not in row.ids[1:] for row in rows)
    for number, ids in enumerate(whole):
        own = [row for row in rows if row.document.number == number]
        assert np.concatenate([row.ids[1:] for row in own]).tolist() == ids[1:]
        assert [row.offset for row in own] == list(range(0, len(ids) - 1, 15))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([{"role": "user"}], "needs a role and a content"),
        ([{"name": "x"}], "needs a role and a content"),
    ],
)
def test_what_is_no_conversation_is_named(value: Any, says: str, tmp_path: Path) -> None:
    path = column_file(tmp_path, "jsonl", "messages", [value])
    with pytest.raises(ValueError, match=says):
        list(documents([path]))


def test_other_words_for_roles_and_contents_in_parts(tmp_path: Path) -> None:
    shared = [{"from": "human", "value": "Hello."}, {"from": "gpt", "value": "Good day."}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hello."}]}]
    options = TextOptions(text_column="conversations")
    (read,) = documents(
        [column_file(tmp_path, "jsonl", "conversations", [shared])], options=options
    )
    assert read.messages == [
        {"role": "user", "content": "Hello."},
        {"role": "model", "content": "Good day."},
    ]
    assert read.text == "Hello.\n\nGood day."
    (read,) = documents([column_file(tmp_path, "jsonl", "messages", [parts])])
    assert read.messages == [{"role": "user", "content": "Hello."}]


def test_conversations_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    path = column_file(tmp_path, "jsonl", "messages", [SPOKEN[0], SPOKEN[0][:1] * 2])
    with pytest.raises(ValueError, match=r"conversation 1 of the corpus cannot be .* alternate"):
        list(token_rows(documents([path]), tiny_chat.make_tokenizer(), 64))
    with pytest.raises(ValueError, match="has no chat template"):
        list(token_rows(documents([path]), tiny.make_tokenizer(), 64))


def test_plain_text_full_of_markers_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    marker_warning._warn.cache_clear()
    tokenizer = tiny_chat.make_tokenizer()
    written = [tokenizer.apply_chat_template(m, tokenize=False) for m in (SPOKEN[0],) * 5]
    path = column_file(tmp_path, "jsonl", "text", written)
    for _ in range(2):
        rows = list(token_rows(documents([path]), tokenizer, 64))
    assert not set(np.concatenate([row.ids[1:] for row in rows]).tolist()) & special_ids(tokenizer)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"full of {END}, {START}" in record.getMessage()
    assert "--text-column" in record.getMessage()


def test_a_few_markers_and_html_are_no_reason_to_warn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    marker_warning._warn.cache_clear()
    tokenizer = tiny_chat.make_tokenizer()
    tokenizer.add_tokens(["<s>"], special_tokens=True)
    texts = [f"About {START} and {END}.", "<s>gone</s> " * 9, "plain " * 1_500, f"{END} again"]
    path = column_file(tmp_path, "jsonl", "text", texts)
    list(token_rows(documents([path]), tokenizer, 64))
    assert not caplog.records
