"""The overview's line about memory in a browser: it follows what is loaded and released."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from app.engine import engine as engine_module
from app.engine.engine import Engine
from sae_core.bundle import Bundle
from tests.browser.conftest import served

Opened = Callable[..., Page]
LOOK_AGAIN = "window.dispatchEvent(new Event('focus'))"


def test_the_line_follows_the_model_and_its_saes(
    chat_bundle: Bundle, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def later(*args: Any) -> Engine:
        assert go.wait(60)
        return Engine(*args)

    monkeypatch.setattr(engine_module, "Engine", later)
    with served(chat_bundle, check_tokens=200) as site:
        page = opened(site.url)
        line = page.locator("#memory")
        expect(line).to_have_text("Memory: the model is not loaded yet.")
        go.set()
        expect(line.locator("summary")).to_contain_text("1 SAE ")
        page.get_by_label("SAE", exact=True).select_option("late")
        expect(line.locator("summary")).to_contain_text("2 SAEs")
        # A check uses its SAE, and the page asks on meanwhile.
        for name in ("early", "late"):
            site.api.check(sae=name)
        # What is unfolded stays so, and the focus where it is.
        line.locator("summary").click()
        engine = site.workbench.load()
        engine.sae_cache.limit = engine.memory()["saes"][0]["bytes"]
        with engine.spliced(["early"]):
            page.evaluate(LOOK_AGAIN)
            expect(line.locator("summary")).to_contain_text("1 SAE ")
            expect(line.locator(".panel")).to_contain_text("in use now")
        expect(line.locator("summary")).to_be_focused()
