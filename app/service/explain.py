"""Explanations of a feature by a language model, their scores, and what another one costs."""

import logging
import math
import threading
from collections.abc import Callable, Generator
from dataclasses import asdict
from queue import SimpleQueue
from typing import Any, Final
from urllib.parse import urlsplit

from app.engine.background import StoppedError
from app.engine.workbench import Workbench
from app.requests import ExplainRequest, RequestError
from app.service.explain_turns import ExplainTurns, turns_of
from sae_core.definitions import EXPLANATION_DEFINITIONS
from sae_core.explain import (
    ChatClient,
    Cost,
    ExcerptChoice,
    Explanation,
    ExplanationRecords,
    NoExplanationError,
    choose_excerpts,
    expected_cost,
    explained,
)
from sae_core.explain.chat_client import EndpointError, key_of_environment
from sae_core.explain.explain_prompts import Messages

log = logging.getLogger(__name__)

NO_ENDPOINT: Final = (
    "No model for explanations is set: start with --explain-endpoint http://127.0.0.1:8000/v1 and "
    "--explain-model NAME."
)


def explain(workbench: Workbench, request: ExplainRequest) -> Generator[dict[str, Any]]:
    """A feature's explanations by language models with their scores on held-out contexts, and with
    `ask` another one by the model that the app was started with, unless it has given one already.

    Answers grow: `done` of the cost's requests. What a model has answered is kept, so that asking
    again after breaking off goes on, and what it has explained costs nothing more.
    """
    name = workbench.sae_name(request.sae)
    number = workbench.feature_number(name, request.feature)
    settings = workbench.settings
    kept = records_of(workbench, name)
    answer = {
        "sae": name,
        "feature": number,
        "model": settings.explain_model,
        "host": host_of(settings.explain_endpoint),
        "cost": None,
        "done": 0,
        "explanations": _answered(kept.of(number)),
        "definitions": EXPLANATION_DEFINITIONS,
    }
    if not settings.explain_endpoint:
        if request.ask:
            raise RequestError(NO_ENDPOINT, "ask")
        yield answer
        return
    if not workbench.notes.kept:
        raise RequestError("An explanation would be lost, since notes are off.", "ask")
    if number in kept.done(settings.explain_model, 0):
        yield answer | {"cost": asdict(Cost())}
        return
    choice = chosen_excerpts(workbench, name, number)
    cost = expected_cost(choice)
    answer["cost"] = asdict(cost)
    yield answer
    if request.ask:
        for done in asked(workbench, name, choice):
            yield answer | {"done": min(done, cost.requests)}
        rows = _answered(kept.of(number))
        yield answer | {"done": cost.requests, "explanations": rows}


def records_of(workbench: Workbench, name: str) -> ExplanationRecords:
    """What is kept of explanations of an SAE's features."""
    return ExplanationRecords(workbench.notes.file, workbench.bundle.content_hash(name))


def host_of(endpoint: str) -> str:
    """Whose endpoint it is, as a person reads it: host and port."""
    return urlsplit(endpoint).netloc


def chosen_excerpts(workbench: Workbench, name: str, feature: int, seed: int = 0) -> ExcerptChoice:
    """The contexts that explain and score a feature; the model says where it is silent."""
    engine = workbench.load()

    def fires(text: str) -> bool:
        if not text.strip():
            return True  # nothing to read: not a text that could show anything
        ids = engine.token_ids(text)
        _, acts, _ = engine.pre_activations(ids, name, feature)
        return bool((acts > 0).any())

    return choose_excerpts(workbench.index(name), feature, fires, seed)


def asked(workbench: Workbench, name: str, choice: ExcerptChoice) -> Generator[int]:
    """The model asked in a thread of its own, so that whoever leaves ends it: how many requests are
    answered, after each; the explanation is kept.

    RequestError if too many are asking, or what the endpoint says, which the log has in full.
    """
    settings, turns = workbench.settings, turns_of(workbench)
    left = threading.Event()
    answered: SimpleQueue[int | Exception | None] = SimpleQueue()

    def go_on() -> None:
        workbench.background.go_on()
        if left.is_set():
            raise StoppedError

    def sleep(seconds: float) -> None:
        left.wait(seconds)
        go_on()

    client = ChatClient(
        endpoint=settings.explain_endpoint,
        model=settings.explain_model,
        key=key_of_environment(),
        sleep=sleep,
    )

    def work() -> None:
        try:
            with turns.turn(name, choice.feature):
                go_on()
                # Somebody else may have had it explained while this one came here.
                if choice.feature not in records_of(workbench, name).done(client.model, 0):
                    told = _Told(client, turns, go_on, answered.put)
                    keep_explained(workbench, name, choice, client.model, told)
            answered.put(None)
        except Exception as error:  # raised again by whoever waits for the answers
            answered.put(error)

    workbench.background.start("explain a feature", work)
    try:
        while (said := answered.get()) is not None:
            if isinstance(said, EndpointError):
                log.warning("%s", said)
                raise RequestError(said.public, "ask") from said
            if isinstance(said, Exception):
                raise said
            yield said
    finally:
        left.set()


class _Told:
    """A client that tells how many requests it has had answered."""

    def __init__(
        self,
        client: ChatClient,
        turns: ExplainTurns,
        go_on: Callable[[], None],
        tell: Callable[[int], None],
    ) -> None:
        self._client, self._turns, self._go_on, self._tell = client, turns, go_on, tell
        self._done = 0

    def __call__(self, messages: Messages, max_tokens: int) -> str:
        self._go_on()
        self._turns.spend()
        answer = self._client.complete(messages, max_tokens)
        self._done += 1
        self._tell(self._done)
        return answer


def keep_explained(
    workbench: Workbench,
    name: str,
    choice: ExcerptChoice,
    model: str,
    ask: Callable[[Messages, int], str],
    seed: int = 0,
) -> Explanation:
    """Explain, score and keep; the explanation is a label too, below one of the user's own.

    NoExplanationError where the model says nothing, which is asked again the next time.
    """
    kept, feature = records_of(workbench, name), choice.feature
    try:
        explanation = explained(choice, model, kept.remembered(feature, model, ask, seed), seed)
    except NoExplanationError:
        kept.forget_answers(feature, model, seed)
        raise
    kept.keep(explanation)
    sae_hash = workbench.bundle.content_hash(name)
    workbench.notes.set_label(sae_hash, feature, explanation.text[:200], "explanation", model)
    return explanation


def total_cost(choices: list[ExcerptChoice], seed: int = 0) -> Cost:
    """Of several features."""
    return sum((expected_cost(choice, seed) for choice in choices), start=Cost())


def _answered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Numbers that JSON has not become null."""
    return [
        {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        for row in rows
    ]
