"""Contexts put together again from stored tokens."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from jaxtyping import Int

from sae_core.index import tokencodec
from sae_core.index.schema import rows_of
from sae_core.tokens import partial_bytes, token_texts

CACHED_BLOCKS = 2048
"""Decoded blocks kept in memory, 16 KB each."""
WINDOW = 128
"""More tokens than a window has on either side of its peak."""


class ContextReader:
    """Reads windows of tokens around peaks; safe to use from several threads."""

    def __init__(
        self,
        *,
        read_blocks: Callable[[Sequence[int]], list[tuple[int, bytes]]],
        arrays: Mapping[str, np.ndarray],
        vocab: Sequence[bytes],
        documents: Sequence[tuple[Any, ...]],
        sources: Sequence[str],
        before: int,
        after: int,
    ) -> None:
        """`documents`: number, title, source, licence of each; the rest as in docs/format.md."""
        self._read_blocks = read_blocks
        # The id of every rank: the inverse of tokencodec.ranks.
        order = np.argsort(tokencodec.ranks(arrays["token_counts"]))
        self._id_of_rank = order.astype(np.int32)
        self._vocab = vocab
        length = arrays["segment_length"].astype(np.int64)
        self._segment_end = np.cumsum(length)
        self._stored = int(length.sum())
        self._segment_start = self._segment_end - length
        self._segment_document = arrays["segment_document"].astype(np.int64)
        self._segment_offset = _offsets(arrays["segment_skip"], length, self._segment_document)
        self._documents, self._sources = documents, sources
        self._before, self._after = before, after
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def read(
        self,
        blocks: dict[int, np.ndarray],
        places: np.ndarray,
        positions: Sequence[np.ndarray],
        levels: Sequence[np.ndarray],
        values: np.ndarray,
        largest: float,
        near_miss: bool,
    ) -> list[dict[str, Any]]:
        """The contexts around these places, as JSON values; `blocks` holds their tokens.

        `positions` and `levels`: active tokens besides the peak, in the window and in 255ths of
        `largest`. `values` are the numbers at the peaks: activations, or for a `near_miss` the
        pre-activations.
        """
        segment, first, last = self._windows(places)
        offset = self._segment_offset[segment] + first - self._segment_start[segment]
        contexts = []
        for n, place in enumerate(places.tolist()):
            start, end = int(first[n]), int(last[n])
            at_peak = 0.0 if near_miss else float(values[n])
            activations = self._activations(
                end - start, place - start, positions[n], levels[n], largest, at_peak
            )
            number, title, source, license_ = self._documents[
                int(self._segment_document[segment[n]])
            ]
            ids = self._ids(blocks, start, end)
            texts = token_texts(ids, self._vocab)
            contexts.append(
                {
                    "tokens": texts,
                    "bytes": partial_bytes(ids, texts, self._vocab),
                    "activations": activations,
                    "peak": place - start,
                    "value": float(values[n]),
                    "title": title,
                    "source": self._sources[source],
                    "license": license_,
                    "document": int(number),
                    "offset": int(offset[n]),
                }
            )
        return contexts

    def window(self, place: int) -> dict[str, Any]:
        """Where the window around one peak is from: the row of its `document`, that one's title and
        source, the token of it at which the window begins, and the peak's place in the window.
        """
        segment, first, _ = self._window(place)
        document = int(self._segment_document[segment])
        _, title, source, _ = self._documents[document]
        return {
            "document": document,
            "title": title,
            "source": self._sources[source],
            "first_token": int(
                self._segment_offset[segment] + first - self._segment_start[segment]
            ),
            "peak": place - first,
        }

    def sources(self, places: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The source, by its number, of the document that each of these places is in."""
        if len(places) and int(places.max()) >= self._stored:
            raise ValueError(f"there is no stored token {int(places.max())}")
        of_documents = np.array([source for _, _, source, _ in self._documents], np.int64)
        segment = np.searchsorted(self._segment_end, places, side="right")
        return of_documents[self._segment_document[segment]]

    def around(
        self, places: Mapping[int, int], before: int, after: int
    ) -> dict[int, tuple[list[int], int]]:
        """For each key of `places` the tokens around that peak, at most so many before and after
        it, and the peak's place among them; the blocks of all are read at once.
        """
        windows = {}
        for key, place in places.items():
            _, first, last = self._window(place)
            windows[key] = (max(first, place - before), min(last, place + after + 1), place)
        size = tokencodec.BLOCK
        blocks = self._decoded(
            {b for first, last, _ in windows.values() for b in (first // size, (last - 1) // size)}
        )
        return {
            key: (self._ids(blocks, first, last), place - first)
            for key, (first, last, place) in windows.items()
        }

    def ids(self, place: int) -> list[int]:
        """The tokens of the window around one peak."""
        _, first, last = self._window(place)
        return self._ids(self._blocks_of(first, last), first, last)

    def activations(
        self, place: int, positions: np.ndarray, levels: np.ndarray, largest: float, at_peak: float
    ) -> list[float]:
        """The activation on each of these tokens, as `read` has it."""
        _, first, last = self._window(place)
        return self._activations(last - first, place - first, positions, levels, largest, at_peak)

    def _activations(
        self,
        length: int,
        peak: int,
        positions: np.ndarray,
        levels: np.ndarray,
        largest: float,
        at_peak: float,
    ) -> list[float]:
        activations = [0.0] * length
        shift = peak - self._before
        if len(positions) and not (
            0 <= int(positions.min()) + shift <= int(positions.max()) + shift < length
        ):
            raise ValueError("a context has activations outside its tokens")
        for position, level in zip(positions.tolist(), levels.tolist(), strict=True):
            activations[position + shift] = level / 255 * largest
        if at_peak:
            activations[peak] = at_peak
        return activations

    def texts(self, place: int) -> list[str]:
        """The same, one string a token."""
        return token_texts(self.ids(place), self._vocab)

    def text(self, place: int) -> str:
        """The same as one text."""
        return b"".join(self._vocab[i] for i in self.ids(place)).decode(errors="replace")

    def _ids(self, blocks: dict[int, np.ndarray], start: int, end: int) -> list[int]:
        size = tokencodec.BLOCK
        block, at = divmod(start, size)
        ids = blocks[block][at : at + end - start]
        if len(ids) < end - start:  # a window is shorter than a block, so it touches two at most
            ids = np.concatenate([ids, blocks[block + 1][: end - start - len(ids)]])
        return ids.tolist()

    def _windows(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Segment, first token and end of the window around each place."""
        places = places.astype(np.int64)
        segment = np.searchsorted(self._segment_end, places, side="right")
        first = np.maximum(places - self._before, self._segment_start[segment])
        last = np.minimum(places + self._after + 1, self._segment_end[segment])
        return segment, first, last

    def blocks(self, places: np.ndarray) -> dict[int, np.ndarray]:
        """The blocks of tokens that the windows around these places touch."""
        _, first, last = self._windows(places)
        size = tokencodec.BLOCK
        wanted = set((first // size).tolist()) | set(((last - 1) // size).tolist())
        return self._decoded(wanted)

    def _window(self, place: int) -> tuple[int, int, int]:
        """`_windows` of one place, in a tenth of the time; ValueError if there is none."""
        if not 0 <= place < self._stored:
            raise ValueError(f"there is no stored token {place}: they run to {self._stored - 1}")
        segment = int(np.searchsorted(self._segment_end, place, side="right"))
        first = max(place - self._before, int(self._segment_start[segment]))
        return segment, first, min(place + self._after + 1, int(self._segment_end[segment]))

    def _blocks_of(self, first: int, last: int) -> dict[int, np.ndarray]:
        size = tokencodec.BLOCK
        return self._decoded(set(range(first // size, (last - 1) // size + 1)))

    def _decoded(self, wanted: set[int]) -> dict[int, np.ndarray]:
        """Blocks of tokens by their numbers."""
        size = tokencodec.BLOCK
        decoded: dict[int, np.ndarray] = {}
        with self._lock:
            for block in wanted & self._cache.keys():
                self._cache.move_to_end(block)
                decoded[block] = self._cache[block]
        if missing := sorted(wanted - decoded.keys()):
            for block, data in self._read_blocks(missing):
                rank = tokencodec.decode_block(data)
                if len(rank) != min(size, self._stored - block * size):
                    raise ValueError(f"block {block:,} of its tokens is not whole")
                decoded[block] = self._id_of_rank[rank]
            with self._lock:
                self._cache.update({block: decoded[block] for block in missing})
                while len(self._cache) > CACHED_BLOCKS:
                    self._cache.popitem(last=False)
        return decoded


def _offsets(skip: np.ndarray, length: np.ndarray, document: np.ndarray) -> np.ndarray:
    """Token of its document at which each segment begins."""
    begin = np.cumsum(skip.astype(np.int64) + length) - length
    if not len(begin):
        return begin
    # Counted from the first segment of the document, which begins after what it skips.
    first = np.searchsorted(document, document)
    return begin - begin[first] + skip[first]


def read_blocks(
    connection: duckdb.DuckDBPyConnection, path: Path, blocks: Sequence[int]
) -> list[tuple[int, bytes]]:
    """Blocks of stored tokens. No method: an index that nobody holds any more is closed at once,
    which no part of it that refers back to it may delay.
    """
    statement = "SELECT block, data FROM token_blocks WHERE list_contains(?, block)"
    return [(i, data) for i, data in rows_of(connection, path, statement, [list(blocks)])]
