"""Text before it is tokenised: the same whatever its line ends, and in bounded pieces."""

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from sae_core import plain_text
from sae_core.check import check_sae
from sae_core.corpus import documents, token_rows
from sae_core.plain_text import normalised, passages, pieces
from sae_core.splice import SplicedLM
from sae_core.text_options import TextOptions
from sae_core.tokens import encode_text, ordinary_ids
from tests import tiny, tiny_chat

LINES = "\n\n\n".join(row["text"].replace(". ", ".\n") for row in tiny.tiny_documents(12))
ODD = "\ufeff" + LINES.replace("\n", "\r\n").replace("\r\n", "\r", 3)
"""The same text from a Mac and Windows, with a byte order mark."""


def test_line_ends_and_the_mark_are_what_text_mode_makes_of_them(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(ODD.encode())
    assert normalised(ODD) == path.read_text(encoding="utf-8-sig") == LINES
    assert normalised(LINES) == normalised(normalised(ODD)) == LINES
    # Other white space, and marks within a text, are the author's.
    kept = "a\u2028b\x0bc\x85d\ufeffe \t\n"
    assert normalised(kept) == kept


def written(folder: Path, kind: str, text: str) -> str:
    path = folder / f"text.{kind}"
    if kind in ("txt", "md"):
        path.write_bytes(text.encode())
    elif kind == "parquet":
        with duckdb.connect() as connection:
            connection.execute("CREATE TABLE t AS SELECT ? AS text", [text])
            connection.execute("COPY t TO ? (FORMAT parquet)", [str(path)])
    else:
        row = {"text": text}
        content = json.dumps([row] if kind == "json" else row, ensure_ascii=False)
        content = ("\ufeff" + content + "\r\n").encode()
        path.write_bytes(gzip.compress(content) if kind.endswith(".gz") else content)
    return str(path)


@pytest.mark.parametrize("kind", ["txt", "md", "parquet", "jsonl", "jsonl.gz", "ndjson", "json"])
def test_every_reader_normalises(kind: str, tmp_path: Path) -> None:
    (document,) = documents([written(tmp_path, kind, ODD)])
    assert document.text == LINES


def test_whoever_is_given_a_text_normalises_it(
    tiny_model: Any, tiny_tokenizer: Any, tiny_sae: Any
) -> None:
    assert encode_text(tiny_tokenizer, ODD) == encode_text(tiny_tokenizer, LINES)
    lm = SplicedLM(tiny_model, tiny_tokenizer, {})
    odd, plain = (check_sae(lm, tiny_sae, text=text) for text in (ODD, LINES))
    assert odd == plain
    chat = tiny_chat.make_tokenizer()
    template = tiny_chat_template(chat)
    ids = [template.encode([{"role": "user", "content": text}]).ids for text in (ODD, LINES)]
    assert ids[0] == ids[1]


def tiny_chat_template(tokenizer: Any) -> Any:
    from sae_core.chat_template import ChatTemplate

    template = ChatTemplate.of(tokenizer)
    assert template is not None
    return template


def test_a_text_file_is_split_at_blank_lines_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "poems.txt"
    path.write_bytes(b"\xef\xbb\xbfOne,\r\ntwo.\r\n \r\n\r\n  Three.\r\n\r\nFour.\r\n")
    (whole,) = documents([str(path)])
    assert whole.text == "One,\ntwo.\n \n\n  Three.\n\nFour.\n"
    split = TextOptions(split="blank-lines")
    parts = list(documents([str(path)], options=split))
    assert [part.text for part in parts] == ["One,\ntwo.", "  Three.", "Four."]
    assert [part.number for part in parts] == [0, 1, 2]
    assert [part.number for part in documents([str(path)], skip=1, options=split)] == [1, 2]
    # Rows of other files are documents already.
    (row,) = documents([written(tmp_path, "jsonl", "a\n\nb")], options=split)
    assert row.text == "a\n\nb"
    assert passages("\n\n \n") == []


def prefixing_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 2's: every text begins with a space of the tokenizer's own."""
    vocab = {c: i for i, c in enumerate(["<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz.,\n"])}
    bpe = Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>")


@pytest.mark.parametrize("make", [tiny.make_tokenizer, prefixing_tokenizer])
def test_cutting_a_long_text_changes_no_token(make: Any, monkeypatch: Any) -> None:
    tokenizer = make()
    text = " ".join(row["text"].lower() for row in tiny.tiny_documents(40)) + "  and \n the  end"
    (whole,) = ordinary_ids(tokenizer, [text])
    monkeypatch.setattr(plain_text, "PIECE", 300)

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        return tokenizer(list(texts), add_special_tokens=False)["input_ids"]

    parts = list(pieces(text, tokenize))
    assert len(parts) > 10
    assert max(map(len, parts)) <= 300
    assert ordinary_ids(tokenizer, ["first", text, "last"])[1] == whole


def test_a_single_word_is_tokenised_in_pieces(tiny_tokenizer: Any) -> None:
    """No call gets more than a piece, whatever the text; nothing of it is lost."""
    random_letters = random.Random(0)
    word = "".join(random_letters.choice("abcdefgh") for _ in range(200_000))
    longest = 0

    class Watched:
        def __call__(self, texts: list[str], **options: Any) -> Any:
            nonlocal longest
            longest = max(longest, *map(len, texts))
            return tiny_tokenizer(texts, **options)

    (ids,) = ordinary_ids(Watched(), [word])
    assert longest <= plain_text.PIECE
    assert tiny_tokenizer.decode(ids) == word
    # A word that is not longer than a piece stays whole, wherever it stands.
    text = f"a {word[:60_000]} b {word[:60_000]} c"
    (cut,) = ordinary_ids(tiny_tokenizer, [text])
    assert cut == tiny_tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_corpus_with_such_a_word_becomes_rows(tiny_tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "word.txt"
    path.write_text("x" * 150_000)
    rows = list(token_rows(documents([str(path)]), tiny_tokenizer, 1024))
    ids = [i for row in rows for i in row.ids[1:].tolist()]
    assert tiny_tokenizer.decode(ids) == "x" * 150_000
