"""The tour's panel, without a browser."""

import pytest

from app.engine.workbench import Workbench
from app.settings import Settings
from app.web.tour_view import STEPS
from sae_core.bundle import Bundle
from tests.unit.test_pages import ask


@pytest.fixture(scope="module")
def workbench(tiny_bundle: Bundle) -> Workbench:
    return Workbench(Settings(device="cpu", check_tokens=0, notes="off"), tiny_bundle)


@pytest.mark.parametrize("page", sorted({step.page for step in STEPS}))
@pytest.mark.parametrize("number", [*range(len(STEPS) + 2), 99])
def test_an_address_of_another_sae_answers_as_it_does_without_the_tour(
    workbench: Workbench, page: str, number: int
) -> None:
    path = "/" if page == "overview" else f"/{page}"
    plain = ask(workbench, f"{path}?sae=none")
    toured = ask(workbench, f"{path}?sae=none&tour={number}")
    assert toured.status_code == plain.status_code
    assert 'id="tour"' not in toured.text


@pytest.mark.parametrize("number", range(1, len(STEPS) + 1))
def test_every_step_is_there_for_an_sae_of_ones_own(workbench: Workbench, number: int) -> None:
    step = STEPS[number - 1]
    path = "/" if step.page == "overview" else f"/{step.page}"
    text = ask(workbench, f"{path}?feature=1&tour={number}").text
    assert f"step {number} of {len(STEPS)}" in text
    assert step.title in text
