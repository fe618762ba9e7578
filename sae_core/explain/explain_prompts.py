"""What a language model is asked, and how its answers are read.

Three questions: what a feature is about (explain), how active it is on each token if that were so
(simulate), and which texts have it if that were so (detect). Explaining and simulating follow
S. Bills et al., *Language models can explain neurons in language models* (2023), with activations
as whole numbers from 0 to 10. An answer that is not of the form asked for is None, never guessed.
"""

import json
import re
from collections.abc import Sequence
from typing import Final

from sae_core.explain.excerpts import Excerpt

PROMPT_VERSION: Final = 2
"""Raised with every change of a prompt or of how its answer is read: scores of different versions
cannot be compared."""
LEVELS: Final = 10
"""The largest activation as a level."""
LONGEST_EXPLANATION: Final = 400
"""Characters of an explanation that are kept."""

Messages = list[dict[str, str]]

_EXPLAIN: Final = (
    "You study one feature of a sparse autoencoder inside a language model. You are shown texts "
    "on which it is active, and for each the tokens on which it is, with its activation from 1 to "
    f"{LEVELS}. Say in one short phrase what the feature is active on: what its tokens have in "
    "common that other tokens do not. Do not list examples, and answer with the phrase alone."
)
_SIMULATE: Final = (
    "A feature of a sparse autoencoder inside a language model is explained in a phrase. You are "
    "shown a text's tokens, each with its number. Say how active the feature is on each token, a "
    f"whole number from 0 (not active) to {LEVELS}. Most features are 0 on most tokens. Answer "
    "with one line for each token, its number and the activation, as `3 0`, and nothing else."
)
_DETECT: Final = (
    "A feature of a sparse autoencoder inside a language model is explained in a phrase. You are "
    "shown numbered texts. Say for each whether the feature is active on at least one of its "
    "tokens. Answer with one line for each text, its number and YES or NO, as `3 NO`, and nothing "
    "else."
)
_LEVEL: Final = re.compile(r"(\d+)\b.*[\s:=](\d+(?:\.\d+)?)")
_VERDICT: Final = re.compile(r"(\d+)\b.*\b(YES|NO)\W*", re.IGNORECASE)


def explain_messages(excerpts: Sequence[Excerpt], max_act: float) -> Messages:
    """The question what a feature with these contexts is about."""
    parts = []
    for number, excerpt in enumerate(excerpts, 1):
        active = [
            f"{_quoted(token)} {level(activation, max_act)}"
            for token, activation in zip(excerpt.tokens, excerpt.activations, strict=True)
            if activation > 0
        ]
        parts.append(f"Text {number}: {_quoted(excerpt.text)}\nActive tokens: {', '.join(active)}")
    return _messages(_EXPLAIN, "\n\n".join(parts))


def simulate_messages(explanation: str, tokens: Sequence[str]) -> Messages:
    """The question how active a feature of this explanation is on each of the tokens."""
    lines = [f"{number} {_quoted(token)}" for number, token in enumerate(tokens, 1)]
    return _messages(_SIMULATE, f"Explanation: {explanation}\n\n" + "\n".join(lines))


def detect_messages(explanation: str, texts: Sequence[str]) -> Messages:
    """The question which of the texts have a feature of this explanation."""
    lines = [f"{number} {_quoted(text)}" for number, text in enumerate(texts, 1)]
    return _messages(_DETECT, f"Explanation: {explanation}\n\n" + "\n".join(lines))


def level(activation: float, max_act: float) -> int:
    """An activation as a whole number from 1 to `LEVELS`, 0 for none."""
    if activation <= 0:
        return 0
    return min(LEVELS, max(1, round(LEVELS * activation / max_act)))


def read_explanation(answer: str) -> str | None:
    """The phrase of an answer, on one line and without characters that cannot be shown."""
    line = " ".join(_said(answer).split())
    phrase = " ".join("".join(each for each in line if each.isprintable()).split())
    for left, right in ('""', "“”", "``", "**"):
        if len(phrase) > 1 and phrase[0] == left and phrase[-1] == right:
            phrase = phrase[1:-1].strip()
    return phrase[:LONGEST_EXPLANATION] or None


def read_levels(answer: str, count: int) -> list[float] | None:
    """The simulated activation of each of `count` tokens."""
    rows = _numbered(answer, _LEVEL, count)
    levels = None if rows is None else [float(value) for value in rows]
    return None if levels is None or max(levels) > LEVELS else levels


def read_verdicts(answer: str, count: int) -> list[bool] | None:
    """Whether each of `count` texts is said to have the feature."""
    rows = _numbered(answer, _VERDICT, count)
    return None if rows is None else [value.upper() == "YES" for value in rows]


def _numbered(answer: str, line: re.Pattern[str], count: int) -> list[str] | None:
    """The values of the lines numbered 1 to `count`; None unless all are there, once, in order.

    Lines that begin with no number are talk, and left out.
    """
    rows = [row.strip() for row in _said(answer).splitlines()]
    matches = [line.fullmatch(row) for row in rows if row[:1].isdigit()]
    if not all(matches) or len(matches) != count:
        return None
    pairs = [(int(match[1]), match[2]) for match in matches if match]
    return (
        [value for _, value in pairs] if [n for n, _ in pairs] == [*range(1, count + 1)] else None
    )


def _said(answer: str) -> str:
    """An answer without what the model thought aloud; "" of one that ends in a thought.

    Some endpoints leave out the thought's beginning: all up to the last end of one is thought.
    """
    said = answer.rpartition("</think>")[2]
    return "" if "<think>" in said else said


def _quoted(text: str) -> str:
    """A text on one line, in quotation marks."""
    return json.dumps(text, ensure_ascii=False)


def _messages(system: str, user: str) -> Messages:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]
