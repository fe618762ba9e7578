"""Every card's script, run, prints the number that the app shows."""

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import pytest

from app.endpoints import Api
from app.service.scripts import EFFECTS, QUANTITIES, TOTAL_QUANTITIES
from app.settings import Settings
from sae_core.bundle import Bundle
from tests.tiny import ALWAYS, DEAD
from tests.unit.service_support import FIRING, api_of, one_sentence

RUN = {"arm": "base", "step": 0, "edit": 0}
TEXT = "The river remembers two letters in the winter of 1912."

EFFECT = {"effect": "kl", "text": TEXT, "token": 3, "position": 1, "feature": 1, "target": 9}


@pytest.fixture(scope="module")
def api(tiny_bundle: Bundle) -> Api:
    return api_of(tiny_bundle, Settings(max_new_tokens=8, threads=1))


def printed(script: str) -> float:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(script, "card", "exec"), {})
    return float(said.getvalue())


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_a_number_of_a_prompt(api: Api, quantity: str) -> None:
    shown = api.prompt_features(TEXT)
    token, feature = 5, ALWAYS
    row = shown["tokens"][token]
    if quantity == "activation":
        feature, expected = row["active_features"][0]
    elif quantity in TOTAL_QUANTITIES:
        expected = shown["totals"][quantity.removesuffix("_mean")]
    else:
        expected = row[quantity]
    card = api.reproduce({"quantity": quantity, "text": TEXT, "token": token, "feature": feature})
    assert card["value"] == pytest.approx(expected, rel=1e-6)
    assert printed(card["script"]) == card["value"]


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_number_of_an_effect(api: Api, effect: str) -> None:
    answer = api.effects(TEXT, token=7, earlier=True, target=17)
    row = next(row for row in answer["effects"] if row["position"] < 7 and row["exact"])
    pair = {"position": row["position"], "feature": row["feature"]}
    card = api.reproduce({"effect": effect, "text": TEXT, "token": 7, "target": 17, **pair})
    assert card["value"] == pytest.approx(row[effect], rel=1e-3, abs=1e-6)
    assert card["quantity"] == f"effect_{effect}"
    assert card["target_text"] == answer["target"]["text"]
    assert printed(card["script"]) == card["value"]


def test_the_uniformity_of_a_prompt(api: Api) -> None:
    card = api.reproduce({"quantity": "uniformity", "text": TEXT})
    totals = api.prompt_features(TEXT, uniformity=True)["totals"]
    assert card["value"] == pytest.approx(totals["uniformity"])
    assert printed(card["script"]) == card["value"]


def test_a_card_says_what_the_number_came_from(api: Api, tiny_bundle: Bundle) -> None:
    name = tiny_bundle.sae_names[0]
    card = api.reproduce({"quantity": "loss", "text": TEXT, "token": 3})
    assert card["token_ids"] == [t["id"] for t in api.prompt_features(TEXT)["tokens"]]
    assert card["model"] == str((tiny_bundle.path / "model").resolve())
    assert (card["dtype"], card["device"]) == ("float32", "cpu")
    assert card["saes"] == [
        {
            "name": name,
            "source": str(tiny_bundle.sae_path(name).resolve()),
            "content_hash": tiny_bundle.sae_config(name).metadata["content_hash"],
            "site": "resid_post/1",
            "site_out": None,
        }
    ]
    assert len(card["script"].splitlines()) <= 12


def test_a_script_refuses_other_weights(api: Api, tiny_bundle: Bundle) -> None:
    card = api.reproduce({"quantity": "loss", "text": TEXT, "token": 3})
    digest = card["saes"][0]["content_hash"]
    with pytest.raises(AssertionError):
        printed(card["script"].replace(digest, "0" * 64))


@pytest.mark.parametrize(
    ("arm", "when"), [("base", "own"), ("steered", "own"), ("steered", "after")]
)
def test_an_activation_on_a_generated_token(api: Api, arm: str, when: str) -> None:
    edits = [
        {"feature": ALWAYS, "mode": "set", "strength": 2.0, "positions": "generated"},
        {"feature": 3, "mode": "add", "value": 1.5, "positions": [2, 4]},
        {"feature": 4, "mode": "add", "value": 9, "condition_feature": ALWAYS, "fade": 7},
    ]
    run = api.steer(TEXT, edits, max_new_tokens=5, temperature=0.7, seed=3)
    # A token on which the feature is active: 0 would prove little.
    step = max(range(5), key=lambda n: run[arm][n][when][0])
    expected = run[arm][step][when][0]
    assert expected > 0
    card = api.reproduce(
        {"settings": run["settings"], "arm": arm, "step": step, "edit": 0, "when": when}
    )
    assert printed(card["script"]) == pytest.approx(expected, rel=1e-5)
    assert card["edits"][1]["value"] == 1.5


@pytest.mark.parametrize("group", ["top", "interval_1", "near_miss"])
def test_a_number_of_the_index(
    api: Api, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    contexts = {g["name"]: g["contexts"] for g in api.feature(FIRING)["groups"]}[group]
    # The last of a group: not in the first row of a document, as the strongest may be.
    number = max(range(len(contexts)), key=lambda n: contexts[n]["offset"])
    asked = {"feature": FIRING, "group": group, "context": number}
    card = api.reproduce(asked)
    assert card["value"] == contexts[number]["value"]
    assert (card["document"], card["title"]) == tuple(
        contexts[number][key] for key in ("document", "title")
    )
    assert card["row"] > 0
    assert 0 < card["within"] < 1e-3 * api.feature(FIRING)["max_act"]
    monkeypatch.setattr(sys, "argv", ["card", str(tiny_corpus)])
    assert printed(card["script"]) == pytest.approx(card["value"], abs=card["within"] + 1e-5)


def test_a_script_refuses_another_corpus(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = api.reproduce({"feature": FIRING, "group": "top", "context": 0})
    (tmp_path / "other.txt").write_text("Another text.\n" * 50)
    monkeypatch.setattr(sys, "argv", ["card", *[str(tmp_path / "other.txt")] * 60])
    with pytest.raises(AssertionError):
        printed(card["script"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("loss", "Say which number"),
        ({"quantity": "beauty", "text": TEXT}, "Quantity must be one of"),
        ({"quantity": "loss", "text": TEXT, "token": 0}, "Token must be a whole number from 1"),
        (
            {"quantity": "activation", "text": TEXT, "token": 1, "feature": 64},
            "There is no feature 64",
        ),
        (
            {"feature": FIRING, "group": "strong", "context": 0},
            "Group must be one of top, interval_5",
        ),
        ({"feature": FIRING, "group": "top", "context": 99}, "Context must be a whole number"),
        ({"feature": DEAD, "group": "top", "context": 0}, "Group must be one of near_miss"),
        ({**EFFECT, "effect": "size"}, "Effect must be one of kl, dlogp, estimate"),
        ({**EFFECT, "position": 4}, "Position must be a whole number from 0 to 3"),
        ({**EFFECT, "position": 0}, "Token 0 is special"),
        ({**EFFECT, "feature": DEAD}, "is not active on token 1"),
        ({**EFFECT, "token": 99}, "Token must be a whole number from 0 to"),
        ({"settings": 3}, "Give the settings"),
        ({"settings": {"prompt": TEXT, "edits": [], "colour": 1}, **RUN}, "no parameter “colour”"),
    ],
)
def test_mistakes_are_named(api: Api, asked: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        api.reproduce(asked)
    with one_sentence():
        api.reproduce(asked)
