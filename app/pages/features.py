"""Features: the searchable list, and one feature's page; which of them the address says."""

import math
from typing import Any, Final

from app import api
from app.pages.cards import add_cards
from app.pages.channel import Ask, add_channel
from app.pages.layout import FEATURES, add_frame
from app.pages.query import parsed, share, whole
from app.render import address, feature_html, list_html, own_text_html
from app.service import Service
from app.unindexed import SORTS

PAGE_SIZE: Final = 50


def build(service: Service) -> None:
    """Add the page to the Blocks that is being built."""

    def show(ask: Ask) -> dict[str, Any]:
        query = parsed(ask["search"])
        return _feature(service, query) if "feature" in query else _list(service, query)

    def test(ask: Ask) -> dict[str, Any]:
        tested = service.test_text(ask["text"], ask["sae"], ask["feature"])
        return {"html": own_text_html(tested, ask["text"])}

    add_frame(FEATURES, service, "")
    add_channel("show", show)
    add_channel("test", test, group=api.ANALYSE)
    add_cards(service)


def _feature(service: Service, query: dict[str, str]) -> dict[str, Any]:
    sae, text = service.sae_name(query.get("sae")), query.get("text", "")
    default = service.sae_name()
    answer: dict[str, Any] = {"sae": sae}
    if query["feature"] == "random":
        feature = service.random_feature(sae)
        shown = "" if sae == default else sae
        answer["address"] = address("features", sae=shown, feature=feature, text=text)
    else:
        feature = whole(query, "feature", 0)
    data = service.feature(sae, feature)
    return answer | {
        "html": feature_html(data, default_sae=default, text=text),
        "title": f"#{feature} {data['signature']}",
    }


def _list(service: Service, query: dict[str, str]) -> dict[str, Any]:
    wanted: dict[str, Any] = {
        "q": query.get("q", ""),
        "sort": query.get("sort", ""),
        "desc": query.get("desc") != "0",
        "min": share(query, "min", 0.0),
        "max": share(query, "max", 1.0),
        "page": whole(query, "page", 1),
    }
    sae = service.sae_name(query.get("sae"))
    if service.known.missing(sae) and _needs_an_index(wanted):
        # From another SAE, whose list has them; this one says what is missing.
        wanted |= {"sort": "", "desc": True, "min": 0.0, "max": 1.0}
    if wanted["page"] < 1:
        raise ValueError("Pages are counted from 1.")
    found = service.search_features(
        sae,
        wanted["q"],
        wanted["sort"],
        wanted["desc"],
        wanted["min"],
        wanted["max"],
        PAGE_SIZE,
        (wanted["page"] - 1) * PAGE_SIZE,
    )
    pages = max(1, math.ceil(found["total"] / PAGE_SIZE))
    if wanted["page"] > pages:
        raise ValueError(f"There is no page {wanted['page']:,}: the list has {pages:,}.")
    return {
        "sae": found["sae"],
        "html": list_html(found, wanted, default_sae=service.sae_name(), page_size=PAGE_SIZE),
        "title": f"Features: {wanted['q']}" if wanted["q"] else "Features",
    }


def _needs_an_index(wanted: dict[str, Any]) -> bool:
    return wanted["sort"] not in ("", *SORTS) or wanted["min"] > 0 or wanted["max"] < 1
