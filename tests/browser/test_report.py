"""A run's page in Chromium: nothing is fetched, nothing sticks out, in every size and scheme."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from app.web.run_report import page
from tests.unit.test_run_report import make_run
from training.run_folder import read_run


@pytest.mark.parametrize("phone", [False, True])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_opens_from_its_file(
    opened: Callable[..., Page], tmp_path: Path, phone: bool, scheme: str
) -> None:
    file = tmp_path / "report.html"
    file.write_text(page(read_run(make_run(tmp_path / "run"))), encoding="utf-8")
    shown = opened(file.as_uri(), phone=phone, scheme=scheme)
    expect(shown.get_by_role("heading", name="Curves")).to_be_visible()
    width = shown.evaluate("document.documentElement.scrollWidth")
    assert width <= shown.evaluate("window.innerWidth")
    charts = shown.locator("figure svg")
    assert charts.count() >= 8
    box = charts.first.bounding_box()
    assert box is not None
    assert box["height"] > 100
    # "7.5e-4" would break after its e-.
    expect(shown.locator(".y span").first).to_have_css("text-wrap-mode", "nowrap")
    dark = "rgb(18, 20, 22)" if scheme == "dark" else "rgb(251, 251, 250)"
    expect(shown.locator("body")).to_have_css("background-color", dark)
