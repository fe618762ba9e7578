"""What each page's template shows, from the query of its address."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from app.engine.workbench import Workbench
from app.render import feature_html, list_html
from app.requests import FeatureRequest, SearchRequest, parsed
from app.service import features as service
from app.web.query import share, whole
from app.web.steer_view import steer

__all__ = ["api", "features", "steer"]

Query = Mapping[str, str]
Shown = dict[str, Any]

PAGE_SIZE = 50


def features(workbench: Workbench, query: Query) -> Shown:
    """The searchable list, or one feature's page."""
    sae = workbench.sae_name(query.get("sae"))
    if "feature" in query:
        if query["feature"] == "random":
            number = service.random_feature(workbench, sae)
        else:
            number = whole(dict(query), "feature", 0)
        data = service.feature(
            workbench,
            parsed(FeatureRequest, {"feature": number, "sae": sae}, workbench.settings),
        )
        html = feature_html(data, default_sae=workbench.sae_name(), text=query.get("text", ""))
        return {"body": Markup(html)}
    wanted: dict[str, Any] = {
        "q": query.get("q", ""),
        "sort": query.get("sort", ""),
        "desc": query.get("desc") != "0",
        "min": share(dict(query), "min", 0.0),
        "max": share(dict(query), "max", 1.0),
        "page": whole(dict(query), "page", 1),
    }
    request = {
        "query": wanted["q"],
        "sae": sae,
        "sort": wanted["sort"],
        "descending": wanted["desc"],
        "min_frequency": wanted["min"],
        "max_frequency": wanted["max"],
        "limit": PAGE_SIZE,
        "offset": (wanted["page"] - 1) * PAGE_SIZE,
    }
    matches = service.search_features(workbench, parsed(SearchRequest, request, workbench.settings))
    html = list_html(matches, wanted, default_sae=workbench.sae_name(), page_size=PAGE_SIZE)
    return {"body": Markup(html)}


def api(workbench: Workbench, query: Query) -> Shown:
    """Every endpoint with its parameters."""
    return {}
