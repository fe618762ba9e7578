"""A feature explained and its explanation scored, request by request.

    explain     one request with the contexts that explain
    simulate    one request for each held-out context: activations from 0 to 10, a token each
    detect      one request for every few held-out texts: YES or NO, a text each

Whoever asks (`Ask`) may know an answer already: an unfinished run that is begun again asks for
nothing twice, since the same seed leads to the same requests.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sae_core.explain.excerpts import Excerpt, ExcerptChoice
from sae_core.explain.explain_prompts import (
    PROMPT_VERSION,
    Messages,
    detect_messages,
    explain_messages,
    read_explanation,
    read_levels,
    read_verdicts,
    simulate_messages,
)
from sae_core.explain.explanation_scores import balanced_accuracy, correlation

TEXTS_AT_ONCE: Final = 5
"""Texts of one request that detects."""
CHARACTERS_A_TOKEN: Final = 4
"""Of English text, by which tokens are estimated before anything is asked."""
_TOKENS_OF_PHRASE: Final = 30
_TOKENS_OF_LINE: Final = 4
_ROOM: Final = 300
"""Tokens that an answer may take beyond what it needs."""

Ask = Callable[[Messages, int], str]
"""Messages and the most tokens of the answer, to the answer."""


class NoExplanationError(ValueError):
    """A model said nothing about a feature; the endpoint itself is well."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What a model says that a feature is about, and how far that holds."""

    feature: int
    model: str
    prompt_version: int
    seed: int
    text: str
    correlation: float
    """Of simulated and true activations over all tokens of held-out contexts; NaN if undefined."""
    simulated: int
    """Contexts whose activations were simulated."""
    unread_simulations: int
    """Contexts that were answered in another form, and count in nothing."""
    detection: float
    """Balanced accuracy on held-out texts; NaN without texts of both kinds."""
    detection_low: float
    detection_high: float
    """Its interval of 95 %."""
    positives: int
    negatives: int
    """Texts with and without the feature that were told apart."""
    unread_texts: int
    """Texts about which the answer was of another form, and that count in nothing."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run will ask for; tokens are estimates."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        """Both."""
        return Cost(
            requests=self.requests + other.requests,
            tokens_in=self.tokens_in + other.tokens_in,
            tokens_out=self.tokens_out + other.tokens_out,
        )

    def money(self, price_in: float, price_out: float) -> float:
        """In the unit of prices that are given for a million tokens."""
        return (self.tokens_in * price_in + self.tokens_out * price_out) / 1e6


def expected_cost(choice: ExcerptChoice, seed: int = 0) -> Cost:
    """What explaining and scoring one feature takes, where no answer is known yet."""
    phrase = "x" * _TOKENS_OF_PHRASE * CHARACTERS_A_TOKEN
    cost = _cost(explain_messages(choice.explaining, choice.max_act), _TOKENS_OF_PHRASE)
    for excerpt in choice.simulated:
        messages = simulate_messages(phrase, excerpt.tokens)
        cost += _cost(messages, _TOKENS_OF_LINE * len(excerpt.tokens))
    for batch in _batches(choice.detected(seed)):
        messages = detect_messages(phrase, [excerpt.text for excerpt, _ in batch])
        cost += _cost(messages, _TOKENS_OF_LINE * len(batch))
    return cost


def _cost(messages: Messages, tokens_out: int) -> Cost:
    characters = sum(len(message["content"]) for message in messages)
    tokens_in = math.ceil(characters / CHARACTERS_A_TOKEN)
    return Cost(requests=1, tokens_in=tokens_in, tokens_out=tokens_out)


def explained(choice: ExcerptChoice, model: str, ask: Ask, seed: int = 0) -> Explanation:
    """The feature's explanation by a model, scored.

    NoExplanationError where the model says nothing; what `ask` raises goes on.
    """
    messages = explain_messages(choice.explaining, choice.max_act)
    text = read_explanation(ask(messages, _TOKENS_OF_PHRASE + _ROOM))
    if text is None:
        raise NoExplanationError(f"{model} gives no explanation of feature {choice.feature}.")
    return scored(choice, model, text, ask, seed)


def scored(choice: ExcerptChoice, model: str, text: str, ask: Ask, seed: int = 0) -> Explanation:
    """An explanation with its scores on the held-out contexts."""
    levels, true, simulated = _simulated(choice.simulated, text, ask)
    told, unread = _detected(choice.detected(seed), text, ask)
    right = [sum(said for said, has in told if has), sum(not said for said, has in told if not has)]
    counts = [sum(has for _, has in told), sum(not has for _, has in told)]
    accuracy, low, high = balanced_accuracy(right[0], counts[0], right[1], counts[1])
    return Explanation(
        feature=choice.feature,
        model=model,
        prompt_version=PROMPT_VERSION,
        seed=seed,
        text=text,
        correlation=correlation(levels, true),
        simulated=simulated,
        unread_simulations=len(choice.simulated) - simulated,
        detection=accuracy,
        detection_low=low,
        detection_high=high,
        positives=counts[0],
        negatives=counts[1],
        unread_texts=unread,
    )


def _simulated(
    excerpts: Sequence[Excerpt], text: str, ask: Ask
) -> tuple[list[float], list[float], int]:
    """Simulated and true activations over all tokens that were answered, and of how many contexts
    those are.
    """
    levels: list[float] = []
    true: list[float] = []
    read = 0
    for excerpt in excerpts:
        count = len(excerpt.tokens)
        room = 2 * _TOKENS_OF_LINE * count + _ROOM
        answer = read_levels(ask(simulate_messages(text, excerpt.tokens), room), count)
        if answer is not None:
            levels += answer
            true += excerpt.activations
            read += 1
    return levels, true, read


def _detected(
    rows: Sequence[tuple[Excerpt, bool]], text: str, ask: Ask
) -> tuple[list[tuple[bool, bool]], int]:
    """For each text what was said and what is true, and of how many nothing could be read."""
    told: list[tuple[bool, bool]] = []
    for batch in _batches(rows):
        room = 2 * _TOKENS_OF_LINE * len(batch) + _ROOM
        messages = detect_messages(text, [excerpt.text for excerpt, _ in batch])
        answer = read_verdicts(ask(messages, room), len(batch))
        if answer is not None:
            told += zip(answer, (has for _, has in batch), strict=True)
    return told, len(rows) - len(told)


def _batches(
    rows: Sequence[tuple[Excerpt, bool]],
) -> Iterator[Sequence[tuple[Excerpt, bool]]]:
    for start in range(0, len(rows), TEXTS_AT_ONCE):
        yield rows[start : start + TEXTS_AT_ONCE]
