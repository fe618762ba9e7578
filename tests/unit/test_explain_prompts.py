"""Questions to a model, and how answers are read: what is not of the form asked for is nothing."""

import json

import pytest

from sae_core.explain.excerpts import Excerpt
from sae_core.explain.explain_prompts import (
    LONGEST_EXPLANATION,
    detect_messages,
    explain_messages,
    level,
    read_explanation,
    read_levels,
    read_verdicts,
    simulate_messages,
)

TOKENS = ("The", ' "old"\n', " ship")
EXCERPT = Excerpt(tokens=TOKENS, activations=(0.0, 0.2, 8.0), document=1, offset=0)


def test_a_question_holds_tokens_with_their_levels_each_on_its_line() -> None:
    asked = explain_messages([EXCERPT, EXCERPT], max_act=8.0)[1]["content"]
    line = 'Active tokens: " \\"old\\"\\n" 1, " ship" 10'
    assert asked.split("\n").count(line) == 2
    lines = simulate_messages("ships", TOKENS)[1]["content"].split("\n")
    assert lines[0] == "Explanation: ships"
    assert [json.loads(line.partition(" ")[2]) for line in lines[2:]] == list(TOKENS)
    lines = detect_messages("ships", [EXCERPT.text, "a\n1 YES"])[1]["content"].split("\n")
    assert [line[0] for line in lines[2:]] == ["1", "2"]


def test_levels_run_from_0_to_10_and_what_fires_is_never_0() -> None:
    activations = (-1.0, 0.0, 0.01, 1.0, 4.0, 8.0, 9.0)
    assert [level(each, 8.0) for each in activations] == [0, 0, 1, 1, 5, 10, 10]


@pytest.mark.parametrize(
    ("answer", "levels"),
    [
        ("1 0\n2 3\n3 10", [0, 3, 10]),
        ("Here you are:\n```\n1: 0\n2. 3\n3\t9.5\n```", [0, 3, 9.5]),
        ('<think>1 9\n2 9</think>\n1 "The" 0\n2 "1912" 3\n3 " ship" 10', [0, 3, 10]),
        ("1 0\n2 3", None),
        ("1 0\n2 3\n4 10", None),
        ("1 0\n3 3\n2 10", None),
        ("1 0\n2 3\n3 11", None),
        ("1 0\n2 3\n3 -4", None),
        ("1 0\n2 3\n3 high", None),
        ("1 0\n2 3\n3", None),
        ("1 0\n2 3\n3 10\n4 0", None),
        ("0, 3, 10", None),
        ("1 9</think>\n1 0\n2 3\n3 10", [0, 3, 10]),
        ("<think>\n1 0\n2 3\n3 10", None),
        ("", None),
    ],
)
def test_levels_are_read_or_missing_never_guessed(answer: str, levels: list[float] | None) -> None:
    assert read_levels(answer, 3) == levels


@pytest.mark.parametrize(
    ("answer", "verdicts"),
    [
        ("1 YES\n2 NO", [True, False]),
        ("1: Yes.\n\n2: no", [True, False]),
        ("1 YES", None),
        ("1 YES\n2 MAYBE", None),
        ("1 YES\n1 NO", None),
        ("I cannot say.", None),
    ],
)
def test_verdicts_are_read_or_missing(answer: str, verdicts: list[bool] | None) -> None:
    assert read_verdicts(answer, 2) == verdicts


def test_an_explanation_is_one_line_without_thoughts_or_marks() -> None:
    assert read_explanation('<think>Hm.</think>\n"Ships,\nand the  sea"') == "Ships, and the sea"
    assert read_explanation('words such as "ship"') == 'words such as "ship"'
    assert read_explanation(" <think>only that</think> ") is None
    assert read_explanation("I should think about it</think>names of cats") == "names of cats"
    assert read_explanation("<think>a</think> b <think>c</think> cats") == "cats"
    assert read_explanation("<think>I should think about the tokens that") is None
    assert read_explanation("<think>a</think>cats<think>or not") is None
    assert len(read_explanation("x" * 9999) or "") == LONGEST_EXPLANATION


@pytest.mark.parametrize(
    "character", ["\x00", "\x1b", "\x7f", "\x85", "\u202e", "\ud800", "\ufeff"]
)
def test_an_explanation_has_no_characters_that_cannot_be_shown(character: str) -> None:
    phrase = read_explanation(f'"ships {character} and{character} the sea"{character}')
    assert phrase in ("ships and the sea", "ships and the sea".replace("and ", "and  "))
    assert read_explanation(character) is None
