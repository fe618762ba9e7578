"""Whole pages from plain values, without a workbench: a frame, and the overview in it."""

from types import SimpleNamespace
from typing import Any

from app.web import assets
from app.web.overview_view import overview_page
from app.web.pages import API_PAGE, PAGES
from app.web.templating import render
from tests.unit.render_support import Document, overview

NOTHING = {"badge": "", "doubt": ""}
SENTENCE: dict[str, Any] = {"text": "The sea", "token": 1, "run": None}


def frame(sae: str, first: str, saes: Any = None) -> dict[str, Any]:
    """What base.html asks for, of a bundle of these SAEs, or of first and second."""
    return {
        "page": PAGES[0],
        "pages": PAGES,
        "api_page": API_PAGE,
        "root": "",
        "theme": "system",
        "revision": "",
        "index_note": "",
        "bundle": SimpleNamespace(name="demo"),
        "saes": overview()["saes"] if saes is None else saes,
        "first_sae": first,
        "sae": sae,
        "sae_in_address": "" if sae == first else sae,
        "settings": None,
        "state": {"checks": {sae: NOTHING}, "loading": False, "loaded": True},
        "state_of_script": {},
        "endpoints": {},
    }


def overview_html(data: dict[str, Any], first: str = "first") -> str:
    """The overview of the service's answer."""
    shown = overview_page(data, first, SENTENCE)
    return render("overview.html", **frame(data["sae"], first, data["saes"]), **shown)


def overview_document(first: str = "first", **changed: Any) -> Document:
    """The overview of `render_support.overview`, changed."""
    return Document(overview_html(overview(**changed), first))


def assert_plain(page: Document) -> None:
    """Nothing of what was shown became an element or an attribute that acts."""
    assert not page.all("img")
    assert set(page.code) <= {str(assets.inline("js/early.js"))}
    loaded = [script["src"] for script in page.all("script") if "src" in script]
    assert all(address.startswith("static/") for address in loaded)
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
