"""What the tests of the service share: settings, counting forwards, the JSON a client sees."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from app.settings import Settings

SETTINGS = Settings(threads=1, device="cpu", dtype="float32")
FIRING, OTHER = 5, 6
"""Two features of the tiny SAE that fire on 8 % of the tokens each."""


@contextmanager
def counted_forwards(model: Any) -> Iterator[list[int]]:
    """A list that grows by the batch's tokens with every forward of the model."""
    seen: list[int] = []

    def count(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["input_ids"].numel())

    # Analyses run the decoder without its head.
    handle = model.base_model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def as_json(value: object) -> Any:
    """The value after a trip through strict JSON, as a client sees it."""
    return json.loads(json.dumps(value, allow_nan=False))


def text_of(rows: list[dict[str, Any]]) -> str:
    """The text of rows of tokens."""
    return "".join(row["text"] for row in rows)
