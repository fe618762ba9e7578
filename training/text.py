"""An endless, shuffled and seekable stream of token batches, made ahead in a background thread.

The corpus is read in windows of some hundred documents; the rows of a window are shuffled. When it
is used up it is read again with its files and rows in another order. All of this follows from the
seed, so that a `Cursor` of three numbers says where a run stands.
"""

import itertools
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sae_core.attention_sink import without_first
from sae_core.corpus import TokenRow, batches, documents, expand, token_rows
from sae_core.text_options import TextOptions

WINDOW_DOCUMENTS = 256
"""Documents whose rows are shuffled together."""


class Cursor(NamedTuple):
    """A place in the stream: the next row to come."""

    reading: int = 0
    """Times the corpus was read before."""
    window: int = 0
    """Windows of this reading that are used up."""
    row: int = 0
    """Rows of this window that are used up."""


@dataclass(frozen=True)
class Prompts:
    """A right-padded batch of rows; `counted` indexes the flattened tokens that are not special."""

    cursor: Cursor
    input_ids: Int[Tensor, "batch pos"]
    counted: Int[Tensor, " tokens"]


@dataclass(frozen=True, kw_only=True)
class Text:
    """A corpus as prompts of `context_size` tokens, `rows` a batch, in an order made by `seed`."""

    corpus: Sequence[str]
    tokenizer: Any
    context_size: int
    rows: int
    seed: int
    options: TextOptions = field(default_factory=TextOptions)
    leave_first: bool = False
    """Whether the first token of a row is an attention sink and does not count."""

    def stream(self, start: Cursor) -> Iterator[Prompts]:
        """Batches from `start` on, without end; ValueError if the corpus holds no text."""
        rows = self._rows(start)
        while True:
            taken = list(itertools.islice(rows, self.rows))
            batch = next(batches([row for _, row in taken], self.tokenizer, self.rows))
            if self.leave_first:
                batch = without_first(batch)
            counted = batch.mask.flatten().nonzero()[:, 0]
            yield Prompts(taken[0][0], batch.input_ids, counted)

    def _rows(self, start: Cursor) -> Iterator[tuple[Cursor, TokenRow]]:
        files = expand(self.corpus)
        for reading in itertools.count(start.reading):
            first = start.window if reading == start.reading else 0
            order = np.random.default_rng([self.seed, reading]).permutation(len(files))
            texts = documents(
                [files[i] for i in order], skip=first * WINDOW_DOCUMENTS, options=self.options
            )
            empty = first == 0
            for window, together in itertools.groupby(
                # By number: empty documents are numbered but not given.
                texts,
                key=lambda document: document.number // WINDOW_DOCUMENTS,
            ):
                rows = list(token_rows(together, self.tokenizer, self.context_size))
                shuffled = np.random.default_rng([self.seed, reading, window]).permutation(
                    len(rows)
                )
                used = start.row if (reading, window) == start[:2] else 0
                empty = empty and not rows
                for place in range(used, len(rows)):
                    yield Cursor(reading, window, place), rows[shuffled[place]]
            if empty:
                raise ValueError("the corpus holds no text: check its files, and the column.")


class Ahead:
    """The stream, made ahead by a thread; a context manager that ends the thread.

    Errors of the thread are raised where the next batch is asked for.
    """

    def __init__(self, text: Text, start: Cursor, depth: int, pin: bool) -> None:
        """`depth` batches wait at most; `pin` puts them into page-locked memory."""
        self._text = text
        self._pin = pin
        self._device = torch.cuda.current_device() if pin else None
        self._queue: queue.Queue[Prompts | Exception] = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(start,), name="tokens", daemon=True
        )
        self._thread.start()

    def _work(self, start: Cursor) -> None:
        try:
            if self._device is not None:
                torch.cuda.set_device(self._device)  # each thread has one of its own
            for prompts in self._text.stream(start):
                if self._pin:
                    prompts = Prompts(
                        prompts.cursor, prompts.input_ids.pin_memory(), prompts.counted.pin_memory()
                    )
                if not self._put(prompts):
                    return
        except Exception as error:  # raised again where the next prompts are asked for
            self._put(error)

    def _put(self, item: Prompts | Exception) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __next__(self) -> Prompts:
        item = self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
