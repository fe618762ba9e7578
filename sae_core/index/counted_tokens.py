"""What statistics are counted of: rows of the stream, and the tokens of these that count."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.index.index_config import EARLY


@dataclass(frozen=True)
class Chunk:
    """Rows of the stream as tensors on the SAE's device; the first `skip` tokens are BOS."""

    x: Float[Tensor, "rows pos d_model"]
    """What the SAE reads, and what it reconstructs."""
    y: Float[Tensor, "rows pos d_out"]
    ids: Int[Tensor, "rows pos"]
    valid: Bool[Tensor, "rows pos"]
    skip: int
    row: Int[Tensor, " rows"]
    """Number of each row in the stream."""
    key: Int[Tensor, " rows"]
    """Of each row's first token after BOS; its next tokens have the next numbers (`Spool`)."""
    document: Int[Tensor, " rows"]
    source: Int[Tensor, " rows"]


@dataclass(frozen=True)
class Tokens:
    """Tokens that count, row after row; columns of equal length."""

    x: Float[Tensor, "n d_model"]
    y: Float[Tensor, "n d_out"]
    ids: Int[Tensor, " n"]
    row: Int[Tensor, " n"]
    """Number of the row in the stream."""
    position: Int[Tensor, " n"]
    """Token of the row, BOS not counted."""
    key: Int[Tensor, " n"]
    early: Bool[Tensor, " n"]
    document: Int[Tensor, " n"]
    source: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.x)

    @classmethod
    def of(cls, chunk: Chunk) -> "Tokens":
        """Those of some rows."""
        row, column = chunk.valid.nonzero(as_tuple=True)
        position, x = column - chunk.skip, chunk.x[row, column]
        return cls(
            x=x,
            y=x if chunk.y is chunk.x else chunk.y[row, column],
            ids=chunk.ids[row, column],
            row=chunk.row[row],
            position=position,
            key=chunk.key[row] + position,
            early=column < chunk.skip + EARLY,
            document=chunk.document[row],
            source=chunk.source[row],
        )

    @classmethod
    def cat(cls, parts: "list[Tokens]") -> "Tokens":
        """All parts, in order."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))
