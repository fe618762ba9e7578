"""Conversations and several SAEs through the service."""

from typing import Any

import pytest

from app.endpoints import Api
from app.service import overview
from app.settings import Settings
from sae_core.bundle import Bundle
from tests import tiny
from tests.tiny_chat import END, START
from tests.unit.service_support import FIRING, OTHER, api_of, as_json, text_of

USER = {"role": "user", "content": "Where does the river go?"}
SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [USER, {"role": "model", "content": "To the harbour."}, {"role": "user", "content": "Oh?"}]
EDIT = {"feature": FIRING, "mode": "set", "strength": 2, "sae": "early"}


@pytest.fixture(scope="module")
def api(chat_bundle: Bundle) -> Api:
    return api_of(chat_bundle)


@pytest.fixture(scope="module")
def textual(tiny_bundle: Bundle) -> Api:
    """A model without a chat template."""
    return api_of(tiny_bundle)


def test_the_model_says_whether_it_chats(api: Api, textual: Api) -> None:
    for each in (api, textual):
        each.workbench.load()
    assert overview.chat(api.workbench) == {"system": False, "end": END}
    assert overview.chat(textual.workbench) is None


def test_a_conversation_is_answered(api: Api) -> None:
    result = as_json(api.steer(edits=[EDIT], messages=TURNS, max_new_tokens=5, temperature=0))
    tokens = result["prompt_tokens"]
    assert text_of(tokens) == (
        f"<bos>{START}user\nWhere does the river go?{END}\n{START}model\nTo the harbour.{END}\n"
        f"{START}user\nOh?{END}\n{START}model\n"
    )
    assert result["turns"] == ["user", "model", "user", "model"]
    assert result["messages"] == TURNS
    assert "prompt" not in result
    own = [row for row in tokens if not row["template"]]
    assert [text_of([row for row in own if row["turn"] == n]) for n in range(4)] == [
        *(turn["content"] for turn in TURNS),
        "",
    ]
    assert all(row["template"] for row in tokens if row["special"])
    assert result["base"][0]["i"] == len(tokens)


def test_the_settings_of_a_conversation_repeat_it(api: Api) -> None:
    said = [{**SYSTEM, "in_user_turn": True}, *TURNS]
    result = as_json(api.steer(edits=[EDIT], messages=said, max_new_tokens=4, temperature=1))
    assert result["settings"]["messages"] == said
    assert "prompt" not in result["settings"]
    assert as_json(api.steer(**result["settings"])) == result


def test_an_answer_ends_with_its_turn(api: Api) -> None:
    engine = api.workbench.load()
    end = engine.lm.tokenizer.convert_tokens_to_ids(END)
    assert engine.ends == {1, end}
    head = engine.model.get_output_embeddings()
    before = head.weight[end].clone()
    options: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0}
    try:
        head.weight.data[end] *= 100
        chatted = api.steer(edits=[EDIT], messages=TURNS, **options)
        written = api.steer("The river", [EDIT], **options)
    finally:
        head.weight.data[end] = before
    assert len(chatted["base"]) < 8
    assert chatted["done"]
    assert END not in text_of(chatted["base"])
    assert len(written["base"]) < 8


def test_special_tokens_of_the_template_keep_their_activation(api: Api) -> None:
    result = as_json(api.prompt_features(messages=TURNS, sae="late"))
    special = [row for row in result["tokens"] if row["special"]]
    assert len(special) == 1 + 2 * 3 + 1
    assert all(row["active"] == 0 for row in special)
    assert result["totals"]["tokens"] == len(result["tokens"]) - len(special)
    # The template's ordinary words ("user") count as any others do.
    ordinary = [row for row in result["tokens"] if row["template"] and not row["special"]]
    assert text_of(ordinary) == "user\n\nmodel\n\nuser\n\nmodel\n"
    assert any(row["active"] for row in ordinary)


def test_delta_loss_agrees_with_prompt_features(api: Api) -> None:
    cost = as_json(api.delta_loss(messages=TURNS[:2]))
    whole = as_json(api.prompt_features(messages=TURNS[:2]))
    assert cost["totals"] == whole["totals"]
    assert cost["messages"] == whole["messages"] == TURNS[:2]
    assert cost["turns"] == ["user", "model"]
    assert text_of(cost["tokens"]).endswith(f"To the harbour.{END}\n")
    assert [row["turn"] for row in cost["tokens"]] == [row["turn"] for row in whole["tokens"]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"text": "x", "messages": TURNS}, "Both a text and a conversation are given"),
        ({"messages": [SYSTEM, USER]}, "no system turn: .*in_user_turn"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "user", "content": "y" * 100_000}]}, "The conversation is 100,000"),
        ({"messages": [{"role": "user", "content": "y " * 400}]}, "conversation has .* limit of 2"),
        ({"text": "", "messages": None}, "The prompt is empty"),
    ],
)
def test_a_mistake_is_one_sentence(api: Api, arguments: dict[str, Any], says: str) -> None:
    for ask in (api.prompt_features, api.delta_loss):
        with pytest.raises(ValueError, match=says) as caught:
            ask(**arguments)
        assert "\n" not in str(caught.value)


def test_only_a_user_is_answered(api: Api) -> None:
    with pytest.raises(ValueError, match="The last message must be the user's"):
        api.steer(edits=[EDIT], messages=TURNS[:2])
    with pytest.raises(ValueError, match="Both a text and a conversation"):
        api.steer("x", [EDIT], messages=TURNS)
    with pytest.raises(ValueError, match="at least one edit"):
        api.steer(messages=TURNS)


def test_a_model_without_a_template_reads_no_messages(textual: Api) -> None:
    with pytest.raises(ValueError, match="no chat template") as caught:
        textual.prompt_features(messages=[USER])
    assert "\n" not in str(caught.value)


# Several SAEs


def test_edits_of_two_sites_act_together(api: Api) -> None:
    early = {"feature": FIRING, "mode": "add", "strength": 4, "sae": "early"}
    late = {"feature": OTHER, "mode": "add", "strength": 4, "sae": "late"}
    options: dict[str, Any] = {"messages": [USER], "max_new_tokens": 4, "temperature": 0}
    both = api.steer(edits=[early, late], **options)
    alone = [api.steer(edits=[edit], **options) for edit in (early, late)]
    assert [edit["sae"] for edit in both["edits"]] == ["early", "late"]
    # The later site sees what the earlier one changed; the earlier is what it is alone.
    first, by_itself = both["steered"][0], [run["steered"][0] for run in alone]
    assert first["own"][0] == pytest.approx(by_itself[0]["own"][0], abs=1e-4)
    assert first["after"][0] > first["own"][0]
    assert first["after"][1] > first["own"][1]
    # An edit of both in either order is the same.
    swapped = api.steer(edits=[late, early], **options)
    assert text_of(swapped["steered"]) == text_of(both["steered"])


def test_saes_come_and_go_within_their_limit(chat_bundle: Bundle) -> None:
    one = 4 * (2 * tiny.D_MODEL * tiny.D_SAE + 2 * tiny.D_SAE + tiny.D_MODEL)
    limit = Settings(threads=1, device="cpu", max_sae_memory=1.5 * one / 1e9, cached_analyses=1)
    api = api_of(chat_bundle, limit)
    assert overview.memory(api.workbench) is None
    answers = []
    for sae in ("early", "late", "early"):
        answers.append(api.prompt_features("The river", sae)["totals"])
        memory = as_json(overview.memory(api.workbench))
        assert memory["saes"] == [{"name": sae, "bytes": one, "in_use": False}]
        assert api.workbench.load().lm.sae_names == [sae]
    assert answers[0] == answers[2]
    with pytest.raises(ValueError, match=r"^SAEs early, late need .* raise max_sae_memory"):
        api.steer("x", [EDIT, {**EDIT, "sae": "late"}])
    # The run did not begin, and everything else goes on.
    assert api.steer("x", [EDIT], max_new_tokens=2)["done"]


def test_one_sae_larger_than_the_limit_is_refused(chat_bundle: Bundle) -> None:
    small = api_of(chat_bundle, Settings(threads=1, device="cpu", max_sae_memory=1e-6))
    with pytest.raises(ValueError, match=r"^SAE early needs 17 kB, more than the 1 kB") as caught:
        small.prompt_features("The river")
    assert "\n" not in str(caught.value)
