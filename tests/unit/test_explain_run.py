"""Explaining the demo's features by an endpoint that answers by rule: right and wrong explanations
score apart, what explained never scores, and a run that was broken off asks for nothing twice.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.commands.shared import DEMO
from sae_core.explain import (
    ChatClient,
    ExcerptChoice,
    ExplanationRecords,
    choose_excerpts,
    expected_cost,
    explained,
    scored,
)
from sae_core.explain.excerpts import DETECTED, EXPLAINING, SIMULATED, Excerpt
from sae_core.explain.explain_prompts import PROMPT_VERSION, Messages
from sae_core.explain.explain_run import _TOKENS_OF_PHRASE
from sae_core.index import Index
from sae_core.notes import NotesFile
from tests.chat_endpoint import by_rule, endpoint
from tests.demo_features import of_ships

FEATURE = of_ships()
WORDS = ("ship", "vessel", "craft")


def fires(text: str) -> bool:
    """In place of the model: as what the feature is about."""
    return any(word in text.lower() for word in WORDS)


@pytest.fixture(scope="module")
def index() -> Iterator[Index]:
    opened = Index.open(DEMO / "saes" / "resid_post-layer_4-l0_32" / "index.duckdb")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def choice(index: Index) -> ExcerptChoice:
    return choose_excerpts(index, FEATURE, fires)


def ask(messages: Messages, _max_tokens: int) -> str:
    return by_rule(messages)


def test_contexts_that_explain_never_score_and_both_kinds_do(choice: ExcerptChoice) -> None:
    assert len(choice.explaining) == EXPLAINING
    held_out = [*choice.positives, *choice.negatives]
    for one in choice.explaining:
        assert not any(map(one.overlaps, held_out))
    for n, one in enumerate(held_out):
        assert not any(map(one.overlaps, held_out[n + 1 :]))
    assert len(choice.positives) >= SIMULATED
    assert len(choice.negatives) == DETECTED
    assert all(any(each.activations) for each in (*choice.explaining, *choice.positives))
    assert not any(any(each.activations) for each in choice.negatives)
    rows = choice.detected(0)
    assert sum(has for _, has in rows) == DETECTED == len(rows) / 2
    kinds = [has for _, has in rows]
    assert kinds != sorted(kinds)
    assert kinds != sorted(kinds, reverse=True)
    # Weak firing explains and scores too.
    for part in (choice.explaining, choice.positives[:DETECTED]):
        assert min(max(each.activations) for each in part) < 0.5 * choice.max_act


def test_the_same_seed_chooses_the_same(index: Index, choice: ExcerptChoice) -> None:
    assert choose_excerpts(index, FEATURE, fires) == choice
    assert choose_excerpts(index, FEATURE, fires, seed=1) != choice


def test_texts_of_others_on_which_it_fires_are_no_negatives(index: Index) -> None:
    looked: list[str] = []

    def always(text: str) -> bool:
        looked.append(text)
        return True

    choice = choose_excerpts(index, FEATURE, always)
    assert looked
    assert not {each.text for each in choice.negatives} & set(looked)


def test_a_dead_feature_has_too_few_contexts(index: Index) -> None:
    dead = int((index.frequencies() == 0).argmax())
    with pytest.raises(ValueError, match=f"feature {dead} has 0 distinct contexts"):
        choose_excerpts(index, dead, fires)


def test_overlap_is_of_place_or_of_text() -> None:
    one = Excerpt(tokens=("a", "b"), activations=(0.0, 0.0), document=1, offset=10)
    assert one.overlaps(replace(one, tokens=("b", "c"), offset=11))
    assert not one.overlaps(replace(one, tokens=("c", "d"), offset=12))
    assert not one.overlaps(replace(one, tokens=("b", "c"), offset=11, document=2))
    assert one.overlaps(replace(one, tokens=(" a", "b"), offset=99, document=7))


def test_a_right_explanation_scores_above_wrong_ones(choice: ExcerptChoice) -> None:
    with endpoint() as state:
        client = ChatClient(endpoint=state.url, model="rule")
        right = explained(choice, "rule", client.complete)
        wrong = scored(choice, "rule", 'tokens: " return" " if" " the"', client.complete)
        empty = scored(choice, "rule", "tokens: none", client.complete)
    assert right.text.startswith("tokens: ")
    # The feature has few words, and the rule names them.
    assert right.correlation > 0.8
    assert right.detection > 0.8
    assert right.correlation > wrong.correlation + 0.4
    assert right.detection > wrong.detection + 0.1
    assert right.detection_low > 0.5
    assert right.detection_low < right.detection <= right.detection_high
    assert (right.positives, right.negatives) == (DETECTED, DETECTED)
    assert math.isnan(empty.correlation)
    assert empty.detection == 0.5


def test_answers_of_another_form_count_in_nothing_and_are_said(choice: ExcerptChoice) -> None:
    def spoiled(messages: Messages, max_tokens: int) -> str:
        system, question = (each["content"] for each in messages)
        if "YES or NO" in system:
            return "I would rather not."
        if choice.positives[0].tokens[0] in question and "each token" in system:
            lines = by_rule(messages).split("\n")
            return "\n".join(lines[:-1])  # one token is not answered
        return ask(messages, max_tokens)

    result = explained(choice, "rule", spoiled)
    whole = explained(choice, "rule", ask)
    assert 0 < result.unread_simulations < 2 * SIMULATED
    assert result.simulated + result.unread_simulations == whole.simulated == 2 * SIMULATED
    assert math.isnan(result.detection)
    assert (result.positives, result.negatives) == (0, 0)
    assert result.unread_texts == 2 * DETECTED

    with pytest.raises(ValueError, match=f"gives no explanation of feature {FEATURE}"):
        explained(choice, "rule", lambda _messages, _most: " ")


def test_costs_are_those_of_the_requests(choice: ExcerptChoice) -> None:
    cost = expected_cost(choice)
    with endpoint() as state:
        result = explained(choice, "rule", ChatClient(endpoint=state.url, model="rule").complete)
    assert cost.requests == len(state.requests) == 1 + 2 * SIMULATED + 4
    sent = sum(len(each["content"]) for asked in state.requests for each in asked["messages"])
    # An explanation's length is not known before it is there; every request but the first has it.
    sent += (cost.requests - 1) * (4 * _TOKENS_OF_PHRASE - len(result.text))
    assert sent / 4 <= cost.tokens_in < sent / 4 + cost.requests
    assert cost.money(2.0, 8.0) == (2 * cost.tokens_in + 8 * cost.tokens_out) / 1e6
    assert (cost + cost).requests == 2 * cost.requests


def test_a_run_that_was_broken_off_asks_for_nothing_twice(
    choice: ExcerptChoice, tmp_path: Path
) -> None:
    def records() -> ExplanationRecords:
        return ExplanationRecords(NotesFile(tmp_path / "notes.duckdb"), "hash")

    asked: list[Messages] = []

    def counted(messages: Messages, max_tokens: int) -> str:
        if len(asked) == 7:
            raise KeyboardInterrupt
        asked.append(messages)
        return ask(messages, max_tokens)

    with pytest.raises(KeyboardInterrupt):
        explained(choice, "rule", records().remembered(FEATURE, "rule", counted))
    assert records().answered([FEATURE], "rule") == 7
    assert not records().of(FEATURE)
    rest: list[Messages] = []

    def more(messages: Messages, max_tokens: int) -> str:
        rest.append(messages)
        return ask(messages, max_tokens)

    result = explained(choice, "rule", records().remembered(FEATURE, "rule", more))
    assert len(asked) + len(rest) == expected_cost(choice).requests
    assert not [each for each in rest if each in asked]
    assert result == explained(choice, "rule", ask)
    records().keep(result)
    [kept] = records().of(FEATURE)
    assert kept["text"] == result.text
    assert kept["correlation"] == result.correlation
    assert kept["made"].endswith("+00:00")
    assert records().answered([FEATURE], "rule") == 0
    assert records().done("rule", 0) == {FEATURE}
    assert records().done("another", 0) == records().done("rule", 1) == set()
    assert ExplanationRecords(NotesFile(tmp_path / "notes.duckdb"), "other").of(FEATURE) == []


def test_runs_of_other_seeds_and_prompts_are_other_runs(
    choice: ExcerptChoice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = ExplanationRecords(NotesFile(tmp_path / "notes.duckdb"), "hash")
    asked: list[Messages] = []

    def counted(messages: Messages, max_tokens: int) -> str:
        asked.append(messages)
        return ask(messages, max_tokens)

    for seed in (1, 11):
        records.remembered(FEATURE, "rule", counted, seed)([{"content": "Explanation: \n\n"}], 1)
    assert [records.answered([FEATURE], "rule", seed) for seed in (0, 1, 11)] == [0, 1, 1]
    records.keep(replace(explained(choice, "rule", ask), seed=1))
    assert [records.answered([FEATURE], "rule", seed) for seed in (0, 1, 11)] == [0, 0, 1]
    monkeypatch.setattr("sae_core.explain.explanation_records.PROMPT_VERSION", PROMPT_VERSION + 1)
    assert records.answered([FEATURE], "rule", 11) == 0
    records.remembered(FEATURE, "rule", counted, 11)([{"content": "Explanation: \n\n"}], 1)
    assert len(asked) == 3


def test_an_empty_answer_is_not_kept(tmp_path: Path) -> None:
    records = ExplanationRecords(NotesFile(tmp_path / "notes.duckdb"), "hash")
    answers = iter(["", " \n", "cats", "dogs"])
    message: Messages = [{"content": "What?"}]
    said = [
        records.remembered(FEATURE, "rule", lambda *_: next(answers))(message, 1) for _ in range(4)
    ]
    assert said == ["", " \n", "cats", "cats"]
    assert records.answered([FEATURE], "rule") == 1
    records.forget_answers(FEATURE, "rule")
    assert records.answered([FEATURE], "rule") == 0


def test_near_misses_that_overlap_what_fires_are_no_negatives(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = index.feature(FEATURE)
    groups = {group["name"]: group["contexts"] for group in data["groups"]}
    fired = groups["top"][0]
    # The end of a passage on which the feature fires, where it is silent.
    shifted = {
        **fired,
        "tokens": [*fired["tokens"][1:], " on"],
        "activations": [0.0] * len(fired["tokens"]),
        "offset": fired["offset"] + 1,
    }
    groups["near_miss"][:0] = [shifted]
    original = index.feature
    monkeypatch.setattr(index, "feature", lambda n: data if n == FEATURE else original(n))
    choice = choose_excerpts(index, FEATURE, fires)
    for negative in choice.negatives:
        assert not any(map(negative.overlaps, (*choice.explaining, *choice.positives)))


def test_what_is_kept_again_takes_the_place_of_what_was(
    choice: ExcerptChoice, tmp_path: Path
) -> None:
    records = ExplanationRecords(NotesFile(tmp_path / "notes.duckdb"), "hash")
    result = replace(explained(choice, "rule", ask), correlation=math.nan)
    for text in ("one", "two"):
        records.keep(replace(result, text=text))
    records.keep(replace(result, model="another"))
    rows = records.of(FEATURE)
    assert sorted((row["model"], row["text"]) for row in rows) == [
        ("another", result.text),
        ("rule", "two"),
    ]
    assert all(math.isnan(row["correlation"]) for row in rows)
