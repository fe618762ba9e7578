"""How a corpus is read from its files: `TextOptions`."""

from dataclasses import dataclass
from typing import Literal, get_args

Split = Literal["document", "blank-lines"]


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How documents are read from a corpus's files."""

    text_column: str = ""
    """Column of Parquet and JSONL with the text, or with conversations (lists of role and content),
    which the model's chat template writes; empty: `text`, or else `messages`."""
    split: Split = "document"
    """What a document is in a text file: the whole file, or each passage between blank lines."""

    def __post_init__(self) -> None:
        if self.split not in get_args(Split):
            raise ValueError(
                f"split is {self.split!r} but must be one of {', '.join(get_args(Split))}."
            )
