"""What an endpoint is, and the kinds of work that endpoints do, each with places of its own."""

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from app.engine.workbench import SQL_AT_ONCE, Workbench
from app.requests import Request
from app.settings import Settings

Answer = dict[str, Any]


class Work(StrEnum):
    """Kinds of work. Each has places and a queue of its own, so that none waits for another's."""

    INDEX = "index"
    ANALYSE = "analyse"
    GENERATE = "generate"
    SERIES = "series"
    CHECK = "check"
    SQL = "sql"
    EXPLAIN = "explain"

    @property
    def sentence(self) -> str:
        """What is done."""
        return {
            Work.INDEX: "Reads an index",
            Work.ANALYSE: "Runs a text through the model",
            Work.GENERATE: "Generates with the model, beside others as one batch",
            Work.SERIES: "Generates or measures many texts with the model",
            Work.CHECK: "Waits for a check, which is done beside all requests",
            Work.SQL: "Answers a query in SQL, in a process of its own",
            Work.EXPLAIN: "Asks a language model elsewhere",
        }[self]


_PLACES: Final[dict[Work, int | None]] = {
    Work.INDEX: 4,
    Work.ANALYSE: 1,
    Work.SERIES: 1,
    Work.CHECK: None,
    Work.SQL: SQL_AT_ONCE,
    Work.EXPLAIN: 2,
}


def places(work: Work, settings: Settings) -> int | None:
    """How many requests of a kind run at once; the others wait. None is any number: waiting for a
    check holds no thread.
    """
    return settings.max_generations if work is Work.GENERATE else _PLACES[work]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One question that the app answers."""

    name: str
    request: type[Request]
    answer: Callable[[Workbench, Any], Answer | Iterator[Answer] | Awaitable[Answer]]
    """Its docstring is the endpoint's; a generator's answers are whole, each longer than the one
    before, and the last is the endpoint's."""
    work: Work
    returns: str
    """What the answer holds."""
    example: Mapping[str, Any]
    """Arguments that any bundle can answer."""

    @property
    def streams(self) -> bool:
        """Whether its answer grows."""
        return inspect.isgeneratorfunction(self.answer)

    @property
    def waits(self) -> bool:
        """Whether it waits for something, holding no thread."""
        return inspect.iscoroutinefunction(self.answer)

    @property
    def summary(self) -> str:
        """What it answers: its docstring's first paragraph, on one line."""
        text = inspect.getdoc(self.answer) or ""
        return " ".join(text.partition("\n\n")[0].split())
