"""Text corpora as documents, rows of tokens, and batches; the one reader for all of Jumpscope.

Parquet, JSONL (also gzipped) and plain text, local, behind a URL or of a data set on the hub, read
by DuckDB as a stream.
"""

import glob
import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae_core.chat_template import ChatTemplate
from sae_core.conversations import Turn, conversation_ids, is_conversations, turns
from sae_core.hub.datasets import SCHEME, DataSetId, data_set_files, fetch_file, parse_data_set
from sae_core.marked_json import without_mark
from sae_core.marker_warning import WATCHED, warn_of_markers
from sae_core.plain_text import normalised, passages
from sae_core.text_options import TextOptions
from sae_core.tokens import ordinary_ids, special_ids

_READERS = {
    ".parquet": "read_parquet(?, union_by_name=true)",
    ".jsonl": "read_json(?, format='newline_delimited', union_by_name=true)",
    ".ndjson": "read_json(?, format='newline_delimited', union_by_name=true)",
    ".json": "read_json(?, union_by_name=true)",
    ".txt": "(SELECT content AS text, filename AS title FROM read_text(?))",
    ".md": "(SELECT content AS text, filename AS title FROM read_text(?))",
}
_FACTS = ("title", "source", "license")
_TEXT_FILES = (".txt", ".md")
_TEXT, _MESSAGES = "text", "messages"
_FIRST_DOCUMENTS, _DOCUMENTS_AT_ONCE = 8, 256
"""Documents tokenised together: few at first, so that the first rows do not wait for many."""
_CHARACTERS_AT_ONCE = 2**18
"""Characters beyond which no more documents are tokenised together: whoever needs so many tokens
and no more does without the rest."""


@dataclass(frozen=True)
class Document:
    """A passage of text; `number` is its place in the corpus."""

    number: int
    text: str
    title: str
    source: str
    license: str
    messages: Sequence[Turn] = field(default=(), compare=False)
    """Of a conversation its turns, which the model's chat template writes; `text` holds what they
    say."""


@dataclass(frozen=True)
class TokenRow:
    """BOS and a stretch of one document: `ids` int32; `offset` counts the document's own tokens."""

    document: Document
    offset: int
    ids: np.ndarray


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded rows. `mask` is True at tokens that count: neither special nor padding."""

    input_ids: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    rows: list[TokenRow]


def _suffix(path: str) -> str:
    name = path.split("?")[0]
    return Path(name.removesuffix(".gz")).suffix.lower()


def expand(paths: Sequence[str]) -> list[str]:
    """Files and URLs named by `paths` (globs, folders and data sets of the hub allowed), in order.

    Raises ValueError naming the first path that matches nothing or is of an unknown kind.
    """
    files: list[str] = []
    for path in paths:
        if Path(path).is_dir():
            inside = [str(p) for p in sorted(Path(path).iterdir()) if _suffix(p.name) in _READERS]
        elif "://" in path and not path.startswith(SCHEME):
            inside = [path]
        else:
            inside = sorted(glob.glob(path, recursive=True)) or _on_the_hub(path)
        if not inside:
            raise ValueError(f"no corpus file matches {path}: check the path.")
        files.extend(inside)
    for path in files:
        if _suffix(path) not in _READERS:
            raise ValueError(
                f"corpus file {path} is of an unknown kind: use Parquet, JSONL, .txt or .md."
            )
    if not files:
        raise ValueError("no corpus given: name at least one Parquet, JSONL or text file.")
    return files


def _on_the_hub(path: str) -> list[str]:
    data_set = data_set_of(path)
    return [] if data_set is None else list(data_set_files(data_set))


def data_set_of(path: str) -> DataSetId | None:
    """The data set of the hub that a corpus's path means; None for files here, also missing ones,
    and for URLs.
    """
    if path.startswith(SCHEME):
        return parse_data_set(path)
    if "://" in path or _suffix(path) in _READERS or Path(path).exists():
        return None
    return parse_data_set(path)


def documents(
    paths: Sequence[str], *, skip: int = 0, options: TextOptions | None = None
) -> Generator[Document, None, int]:
    """Stream the documents of a corpus in file and row order, leaving out the first `skip`; returns
    how many there are, those without text too.

    Texts are `normalised`. `title`, `source` and `license` are "" where a file has no such column.
    Raises ValueError with one sentence for a missing, unreadable or text-less file.
    """
    options = options or TextOptions()
    number = 0
    for path in expand(paths):
        for text, messages, (title, source, licence) in _passages(path, options):
            if number >= skip and text:
                yield Document(number, text, title, source, licence, messages)
            number += 1
    return number


_Passage = tuple[str, Sequence[Turn], Sequence[str]]


def _passages(path: str, options: TextOptions) -> Iterator[_Passage]:
    """Text, messages, and title, source and licence of each document of one file."""
    reader, local = _READERS[_suffix(path)], path
    if path.startswith(SCHEME):
        local = str(fetch_file(path))
    with ExitStack() as held:
        if "json" in reader:
            local = held.enter_context(without_mark(local))
        connection = held.enter_context(duckdb.connect())
        connection.execute("SET preserve_insertion_order = true")
        try:
            described = connection.execute(f"DESCRIBE SELECT * FROM {reader}", [local]).fetchall()
            columns = {name: str(kind) for name, kind, *_ in described}
            column = _text_column(path, columns, options)
            spoken = is_conversations(columns[column])
            quoted = '"' + column.replace('"', '""') + '"'
            fields = [quoted if spoken else f"CAST({quoted} AS VARCHAR)"]
            fields += [f"CAST({c} AS VARCHAR)" if c in columns else f"'' AS {c}" for c in _FACTS]
            result = connection.execute(f"SELECT {', '.join(fields)} FROM {reader}", [local])
            while rows := result.fetchmany(_DOCUMENTS_AT_ONCE):
                for content, *facts in rows:
                    facts = [fact or "" for fact in facts]
                    if spoken:
                        messages = _messages(path, content)
                        yield "\n\n".join(turn["content"] for turn in messages), messages, facts
                        continue
                    text = normalised(content or "")
                    by_passage = options.split == "blank-lines" and _suffix(path) in _TEXT_FILES
                    for passage in passages(text) if by_passage else [text]:
                        yield passage, (), facts
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"corpus file {path} cannot be read: {reason}") from error


def _text_column(path: str, columns: dict[str, str], options: TextOptions) -> str:
    """The column with the text or the conversations; ValueError naming those there are."""
    if _suffix(path) in _TEXT_FILES:
        return _TEXT
    wanted = (options.text_column,) if options.text_column else (_TEXT, _MESSAGES)
    for column in wanted:
        if column in columns:
            return column
    raise ValueError(
        f"corpus file {path} has no column {wanted[0]!r}, only {', '.join(sorted(columns))}: name "
        "the one with the text (--text-column)."
    )


def _messages(path: str, content: Any) -> list[Turn]:
    try:
        return turns(content)
    except ValueError as error:
        raise ValueError(f"a conversation of corpus file {path} cannot be read: {error}") from error


def token_rows(docs: Iterable[Document], tokenizer: Any, context_size: int) -> Iterator[TokenRow]:
    """Cut documents into rows of BOS and up to `context_size - 1` tokens of one document.

    Documents are tokenised many at a time, in parallel where the tokenizer can; conversations are
    written by its chat template. A tokenizer without BOS gives rows without one. ValueError for a
    conversation that the template cannot hold.
    """
    if context_size < 2:
        raise ValueError(f"context_size is {context_size} but must be 2 or more.")
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    body = context_size - len(bos)
    template = _Template(tokenizer)
    for chunk in _together(docs):
        plain = [d for d in chunk if not d.messages]
        warn_of_markers([d.text for d in plain if d.number < WATCHED], tokenizer)
        encoded = iter(ordinary_ids(tokenizer, [d.text for d in plain]))
        for document in chunk:
            ids = template.ids(document)[len(bos) :] if document.messages else next(encoded)
            for offset in range(0, len(ids), body):
                row = np.asarray(bos + ids[offset : offset + body], dtype=np.int32)
                yield TokenRow(document, offset, row)


def _together(docs: Iterable[Document]) -> Iterator[list[Document]]:
    """The documents in lists of those that are tokenised together."""
    most, size = _FIRST_DOCUMENTS, 0
    chunk: list[Document] = []
    for document in docs:
        chunk.append(document)
        size += len(document.text)
        if len(chunk) == most or size >= _CHARACTERS_AT_ONCE:
            yield chunk
            most, size, chunk = min(2 * most, _DOCUMENTS_AT_ONCE), 0, []
    if chunk:
        yield chunk


class _Template:
    """A tokenizer's chat template, made when the first conversation comes."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._template: ChatTemplate | None = None

    def ids(self, document: Document) -> list[int]:
        """The token ids of a conversation, after BOS; ValueError naming it."""
        self._template = self._template or ChatTemplate.of(self._tokenizer)
        if self._template is None:
            raise ValueError(
                "the corpus holds conversations, but the model's tokenizer has no chat template "
                "that could write them: use an instruction-tuned model, or name a column with "
                "text (--text-column)."
            )
        try:
            return conversation_ids(self._template, document.messages)
        except ValueError as error:
            raise ValueError(
                f"conversation {document.number} of the corpus cannot be written: {error}"
            ) from error


def batches(rows: Iterable[TokenRow], tokenizer: Any, rows_per_batch: int) -> Iterator[TokenBatch]:
    """Group rows in order, padded on the right to the longest of each batch."""
    specials = torch.tensor(sorted(special_ids(tokenizer)), dtype=torch.long)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, rows_per_batch)):
        longest = max(len(row.ids) for row in chunk)
        ids = torch.full((len(chunk), longest), pad, dtype=torch.long)
        real = torch.zeros((len(chunk), longest), dtype=torch.bool)
        for i, row in enumerate(chunk):
            ids[i, : len(row.ids)] = torch.from_numpy(row.ids)
            real[i, : len(row.ids)] = True
        yield TokenBatch(ids, real & ~torch.isin(ids, specials), chunk)
