"""A bundle's predictions as addresses, and what is left out of them."""

from types import SimpleNamespace
from typing import Any

from app.commands.shared import open_bundle
from app.web.ready_predictions import ready_predictions

WHOLE = {
    "title": "A title",
    "sae": "first",
    "text": "The river & I",
    "token": 3,
    "target": 17,
    "order": "change",
    "earlier": True,
    "together": [{"position": 2, "feature": 5}, {"position": 3, "feature": 6}],
}


def shown(*written: Any) -> list[dict[str, str]]:
    workbench: Any = SimpleNamespace(bundle=SimpleNamespace(examples={"predictions": written}))
    return ready_predictions(workbench)


def test_an_address_says_all_that_is_chosen() -> None:
    assert shown(WHOLE) == [
        {
            "title": "A title",
            "text": "The river & I",
            "address": "prompt?sae=first&text=The+river+%26+I&token=3&next=3.17&by=change"
            "&earlier=1&off=3-2.5-3.6",
        }
    ]
    assert shown({"text": "x", "token": 0}) == [
        {"title": "x", "text": "x", "address": "prompt?text=x&token=0"}
    ]


def test_what_is_none_is_left_out() -> None:
    wrong = ["text", 3, None, {}, {"text": "x"}, {"text": 3, "token": 1}]
    pairs = [7, [7], [{"position": 1}]]
    assert shown(*wrong, *({**WHOLE, "together": each} for each in pairs)) == []


def test_the_demo_has_three() -> None:
    bundle = open_bundle("demo")
    workbench: Any = SimpleNamespace(bundle=bundle)
    assert len(ready_predictions(workbench)) == 3
    assert {each["sae"] for each in bundle.examples["predictions"]} <= set(bundle.sae_names)
