"""The catalog's page, without a browser: every pair with its sizes, license and commands."""

from app.web.catalog_view import catalog_page
from app.web.pages import CATALOG_PAGE
from app.web.templating import render
from sae_core.hub.known_pairs import known_pairs
from tests.unit.page_support import assert_plain, frame
from tests.unit.render_support import Document


def catalog_html(model: str = "") -> str:
    return render(
        "catalog.html", **{**frame("first", "first"), "page": CATALOG_PAGE}, **catalog_page(model)
    )


def test_every_pair_is_there_with_both_commands_to_copy() -> None:
    page = Document(catalog_html())
    assert_plain(page)
    copied = [button["data-copy"] for button in page.all("button") if "data-copy" in button]
    expected = {text for pair in known_pairs() for text in (pair.command, pair.list_command)}
    assert set(copied) == expected
    assert len(copied) == 2 * len(known_pairs())
    names = [button["aria-label"] for button in page.all("button") if "data-copy" in button]
    assert all(name.startswith("Copy the command: ") for name in names)


def test_models_stand_once_the_smallest_first() -> None:
    models = catalog_page("")["models"]
    names = [each["name"] for each in models]
    assert len(names) == len(set(names)) == len({pair.model for pair in known_pairs()})
    sizes = [each["pairs"][0].model_gb for each in models]
    known = [size for size in sizes if size is not None]
    assert known == sorted(known)
    assert sizes[: len(known)] == known
    html = catalog_html()
    assert "5.2 GB to download, with a login, Gemma terms of use" in html
    assert "trained on prompts of 1,024 tokens, CC BY 4.0" in html
    assert "license: see its page" in html


def test_the_model_that_is_open_is_marked() -> None:
    assert catalog_html("google/gemma-2-2b@main").count("open now") == 1
    assert "open now" not in catalog_html("/models/mine")
