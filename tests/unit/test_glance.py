"""A feature at a glance: what the index says, as text, and a sentence where there is none."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.engine.workbench import Workbench
from app.web.glance import CONTEXTS, add_glance, glance
from sae_core.bundle import Bundle
from tests.unit.page_support import assert_plain
from tests.unit.render_support import Document
from tests.unit.service_support import FIRING, SETTINGS


@pytest.fixture(scope="module")
def bench(tiny_bundle: Bundle) -> Workbench:
    return Workbench(SETTINGS, tiny_bundle)


def ask(bench: Workbench, query: str) -> httpx.Response:
    app = FastAPI()
    add_glance(app, bench)

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(f"/glance?{query}")

    return asyncio.run(get())


def test_it_has_the_strongest_contexts_and_leads_on(bench: Workbench) -> None:
    shown: dict[str, Any] = glance(bench, FIRING, "")
    assert 0 < len(shown["contexts"]) <= CONTEXTS
    values = [context["value"] for context in shown["contexts"]]
    assert values == sorted(values, reverse=True)
    html = ask(bench, f"feature={FIRING}").text
    page = Document(html)
    assert f"#{FIRING}" in page.text
    assert page.all("a", href=f"features?feature={FIRING}")
    assert page.all("a", href="steer?")
    assert_plain(page)


WRONG = ("", "feature=x", "feature=-1", "feature=999999", "feature=1&sae=no")


@pytest.mark.parametrize("query", WRONG)
def test_what_is_not_there_is_a_sentence(bench: Workbench, query: str) -> None:
    response = ask(bench, query)
    assert response.status_code == 404
    assert response.json()["detail"].endswith(".")
