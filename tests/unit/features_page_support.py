"""The Features page of one feature or of a list, drawn from what an index answers."""

from typing import Any

from app.web.feature_view import feature_page
from app.web.features_view import list_page
from app.web.pages import PAGES
from app.web.templating import render
from tests.unit.page_support import frame
from tests.unit.render_support import Document, context, feature, result

NB = "\N{NO-BREAK SPACE}"
MISSING = {
    "reason": "SAE first has no index yet",
    "command": "jumpscope index --sae 'a b'",
    "does": "builds it from text of yours",
}
QUERY: dict[str, Any] = {
    "sae": "",
    "q": "",
    "sort": "frequency",
    "desc": True,
    "min": 0.0,
    "max": 1.0,
    "page": 2,
}
QUERY |= {"score": 0.0, "effect": None, "kept": ""}
[FEATURES] = [page for page in PAGES if page.name == "features"]


def drawn(shown: dict[str, Any]) -> str:
    return render("features.html", **frame("first", "first") | {"page": FEATURES}, **shown)


def feature_html(text: str = "", in_address: str = "", **changed: Any) -> str:
    return drawn(feature_page(feature(**changed), in_address=in_address, text=text))


def listed(data: dict[str, Any] | None = None, **changed: Any) -> Document:
    return Document(drawn(list_page(data or result(), QUERY | changed)))


def unindexed_feature(**changed: Any) -> dict[str, Any]:
    unknown = ("frequency", "max_act", "mean_act", "active_tokens", "tokens", "writes")
    return {
        **dict.fromkeys((*unknown, "activation_histogram", "pre_activation_histogram")),
        "missing": MISSING,
        "signature": "→ sea · ship",
        "groups": [],
        "fires_on": {"tokens": [], "sources": []},
        "norms": {"encoder": 0.92, "decoder": 1.0},
    } | changed


def unindexed_list(**changed: Any) -> dict[str, Any]:
    row = result()["features"][0] | {"frequency": None, "max_act": None, "mean_act": None}
    return result(features=[row], missing=MISSING, scored=False) | changed


def group(name: str, low: float, high: float, *contexts: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "title": name, "low": low, "high": high, "contexts": list(contexts)}


def dead_feature(**changed: Any) -> dict[str, Any]:
    near = context(activations=[0.0] * 5, value=0.8, peak=2)
    return {
        "signature": "never fires in 3,000,000 tokens",
        "frequency": 0.0,
        "active_tokens": 0,
        "max_act": 0.0,
        "groups": [group("near_miss", 0.7, 0.831, near)],
        "activation_histogram": {"edges": [], "counts": []},
        "fires_on": {"tokens": [], "sources": []},
    } | changed
