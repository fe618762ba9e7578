"""The page of features by example, and what leads to it and to neighbours, without a browser."""

from typing import Any
from urllib.parse import quote

import pytest

from app.engine.workbench import Workbench
from app.settings import Settings
from app.web.templating import part
from sae_core.bundle import Bundle
from tests.tiny import ALWAYS, HOSTILE
from tests.unit.render_support import Document
from tests.unit.test_pages import ask


@pytest.fixture(scope="module")
def workbench(tiny_bundle: Bundle) -> Workbench:
    return Workbench(Settings(device="cpu", check_tokens=0), tiny_bundle)


def test_the_boxes_hold_what_the_address_does_and_no_markup(workbench: Workbench) -> None:
    address = f"/find?positives={quote(HOSTILE)}&negatives={quote('One.' + chr(10) + 'Two.')}"
    answer = ask(workbench, address)
    assert answer.status_code == 200
    page = Document(answer.text)
    assert f"\n{HOSTILE}" in page.text
    assert "\nOne.\nTwo." in page.text
    assert not page.all("img")
    boxes = page.all("textarea")
    assert [box["name"] for box in boxes] == ["positives", "negatives"]
    for box in boxes:
        assert page.all("label", **{"for": box["id"]})
        assert page.all("p", id=box["aria-describedby"])


@pytest.mark.parametrize("path", ["/features", "/prompt"])
def test_features_and_prompt_lead_to_it(workbench: Workbench, path: str) -> None:
    assert Document(ask(workbench, path).text).all("a", href="find")


def test_a_feature_s_page_asks_for_its_neighbours(workbench: Workbench) -> None:
    page = Document(ask(workbench, f"/features?feature={ALWAYS}").text)
    assert len([a for _, a in page.elements if "data-together-ask" in a]) == 1
    assert "Fires together with" in page.text


def choices(*names: str, problem: str | None = None) -> list[dict[str, Any]]:
    rows = [{"name": name, "label": f"{name} here", "problem": None} for name in names]
    return [*rows, {"name": "broken", "label": "broken", "problem": problem}][
        : len(names) + bool(problem)
    ]


def options(saes: list[dict[str, Any]]) -> list[str]:
    page = Document(str(part("neighbours.html", "together", saes, "one")))
    return [option["value"] for option in page.all("option")]


def test_another_sae_is_chosen_only_where_there_are_several() -> None:
    assert options(choices("one")) == []
    assert options(choices("one", "two")) == []
    assert options(choices("one", "two", "three")) == ["two", "three"]
    assert options(choices("one", "two", problem="It cannot be read.")) == []
