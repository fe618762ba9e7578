"""Every card's script, run, prints the number that the app shows."""

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import pytest

from app.reproduce import QUANTITIES, TOTAL_QUANTITIES
from app.service import Service
from app.settings import Settings
from sae_core.bundle import Bundle
from tests.tiny import ALWAYS, DEAD
from tests.unit.service_support import FIRING

TEXT = "The river remembers two letters in the winter of 1912."


@pytest.fixture(scope="module")
def service(tiny_bundle: Bundle) -> Service:
    return Service(Settings(max_new_tokens=8, threads=1), tiny_bundle)


def printed(script: str) -> float:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(script, "card", "exec"), {})
    return float(said.getvalue())


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_a_number_of_a_prompt(service: Service, quantity: str) -> None:
    shown = service.prompt_features(TEXT)
    token, feature = 5, ALWAYS
    row = shown["tokens"][token]
    if quantity == "activation":
        feature, expected = row["active_features"][0]
    elif quantity in TOTAL_QUANTITIES:
        expected = shown["totals"][quantity.removesuffix("_mean")]
    else:
        expected = row[quantity]
    card = service.reproduce(
        {"quantity": quantity, "text": TEXT, "token": token, "feature": feature}
    )
    assert card["value"] == pytest.approx(expected, rel=1e-6)
    assert printed(card["script"]) == card["value"]


def test_a_card_says_what_the_number_came_from(service: Service, tiny_bundle: Bundle) -> None:
    name = tiny_bundle.sae_names[0]
    card = service.reproduce({"quantity": "loss", "text": TEXT, "token": 3})
    assert card["token_ids"] == [t["id"] for t in service.prompt_features(TEXT)["tokens"]]
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


def test_a_script_refuses_other_weights(service: Service, tiny_bundle: Bundle) -> None:
    card = service.reproduce({"quantity": "loss", "text": TEXT, "token": 3})
    digest = card["saes"][0]["content_hash"]
    with pytest.raises(AssertionError):
        printed(card["script"].replace(digest, "0" * 64))


@pytest.mark.parametrize(
    ("arm", "when"), [("base", "own"), ("steered", "own"), ("steered", "after")]
)
def test_an_activation_on_a_generated_token(service: Service, arm: str, when: str) -> None:
    edits = [
        {"feature": ALWAYS, "mode": "set", "strength": 2.0, "positions": "generated"},
        {"feature": 3, "mode": "add", "value": 1.5, "positions": [2, 4]},
    ]
    run = service.steer(TEXT, edits, max_new_tokens=5, temperature=0.7, seed=3)
    # A token on which the feature is active: 0 would prove little.
    step = max(range(5), key=lambda n: run[arm][n][when][0])
    expected = run[arm][step][when][0]
    assert expected > 0
    card = service.reproduce(
        {"settings": run["settings"], "arm": arm, "step": step, "edit": 0, "when": when}
    )
    assert printed(card["script"]) == pytest.approx(expected, rel=1e-5)
    assert card["edits"][1]["value"] == 1.5


@pytest.mark.parametrize("group", ["top", "interval_1", "near_miss"])
def test_a_number_of_the_index(
    service: Service, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    contexts = {g["name"]: g["contexts"] for g in service.feature(None, FIRING)["groups"]}[group]
    # The last of a group: not in the first row of a document, as the strongest may be.
    number = max(range(len(contexts)), key=lambda n: contexts[n]["offset"])
    asked = {"feature": FIRING, "group": group, "context": number}
    card = service.reproduce(asked)
    assert card["value"] == contexts[number]["value"]
    assert (card["document"], card["title"]) == tuple(
        contexts[number][key] for key in ("document", "title")
    )
    assert card["row"] > 0
    assert 0 < card["within"] < 1e-3 * service.feature(None, FIRING)["max_act"]
    monkeypatch.setattr(sys, "argv", ["card", str(tiny_corpus)])
    assert printed(card["script"]) == pytest.approx(card["value"], abs=card["within"] + 1e-5)


def test_a_script_refuses_another_corpus(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = service.reproduce({"feature": FIRING, "group": "top", "context": 0})
    (tmp_path / "other.txt").write_text("Another text.\n" * 50)
    monkeypatch.setattr(sys, "argv", ["card", *[str(tmp_path / "other.txt")] * 60])
    with pytest.raises(AssertionError):
        printed(card["script"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("loss", "Say which number"),
        ({"quantity": "beauty", "text": TEXT}, "The quantity must be one of"),
        ({"quantity": "loss", "text": TEXT, "token": 0}, "The token must be a whole number from 1"),
        ({"quantity": "activation", "text": TEXT, "token": 1, "feature": 64}, "The feature must"),
        ({"feature": FIRING, "group": "strong"}, "The group must be one of top, interval_5"),
        ({"feature": FIRING, "group": "top", "context": 99}, "The context must be a whole number"),
        ({"feature": DEAD, "group": "top", "context": 0}, "The group must be one of near_miss"),
        ({"settings": 3}, "The settings must be those"),
        ({"settings": {"prompt": TEXT, "edits": [], "colour": 1}}, "unknown entry 'colour'"),
    ],
)
def test_mistakes_are_named(service: Service, asked: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        service.reproduce(asked)
