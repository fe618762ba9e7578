"""What the tests of the service share: settings, counting forwards, the JSON a client sees."""

import json
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from torch import nn

from app.endpoints import Api
from app.engine.workbench import Workbench
from app.requests import RequestError, SteerRequest, parsed
from app.service import steer
from app.settings import Settings
from sae_core.bundle import Bundle

SETTINGS = Settings(threads=1, device="cpu", dtype="float32", max_seconds=600)
FIRING, OTHER = 5, 6
"""Two features of the tiny SAE that fire on 8 % of the tokens each."""


def api_of(bundle: Bundle, settings: Settings = SETTINGS) -> Api:
    """A bundle's endpoints, called with plain values."""
    return Api(Workbench(settings, bundle))


def steer_stream(api: Api, *args: Any, **options: Any) -> Generator[dict[str, Any]]:
    """A steering run's answers, one a token, at whatever rate they come."""
    given = dict(zip(SteerRequest.model_fields, args, strict=False)) | options
    run = parsed(SteerRequest, given, api.workbench.settings)
    return steer.stream(api.workbench, steer.planned_run(api.workbench, run))


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


NO_PLAIN_WORDS: Final = re.compile(
    r"\b(None|NoneType|null|NaN|inf|True|False|true|false|dict|dictionary|a list|tuple|array|"
    r"object|"
    r"string|str|int|integer|float|bool|boolean|JSON|json|schema|valid|input|pydantic)\b|[{}\[\]]"
)
"""Words and marks of programming languages, which say nothing to a person."""


@contextmanager
def one_sentence(field: str | None = None) -> Iterator[None]:
    """The block must raise ValueError with one short sentence in plain words, about `field`."""
    with pytest.raises(ValueError, match=r".") as caught:
        yield
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said
    assert len(said) < 160
    assert not re.search(r"[.:!?] [A-Z]", said), f"more than one sentence: {said}"
    assert not NO_PLAIN_WORDS.search(said), said
    if field is not None:
        assert isinstance(caught.value, RequestError)
        assert caught.value.field == field


def as_json(value: object) -> Any:
    """The value after a trip through strict JSON, as a client sees it."""
    return json.loads(json.dumps(value, allow_nan=False))


def text_of(rows: list[dict[str, Any]]) -> str:
    """The text of rows of tokens."""
    return "".join(row["text"] for row in rows)
