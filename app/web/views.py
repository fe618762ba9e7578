"""What each page's template shows, from the query of its address."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from app.engine.workbench import Workbench
from app.render import feature_html, list_html, memory_html, overview_html
from app.render.badge import badge_html, doubt_html, panel_html
from app.requests import FeatureRequest, SearchRequest, parsed
from app.service import features as service
from app.service import overview as about
from app.web.query import share, whole

Query = Mapping[str, str]
Shown = dict[str, Any]

PAGE_SIZE = 50


def overview(workbench: Workbench, query: Query) -> Shown:
    """The model and its SAEs, what was measured, a dozen features to begin with."""
    data = about.overview(workbench, query.get("sae", ""))
    return {"body": Markup(overview_html(data, default_sae=workbench.sae_name()))}


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


def prompt(workbench: Workbench, query: Query) -> Shown:
    """What fires on a text or a conversation, and what the SAE costs there."""
    return {"examples": about.example_prompts(workbench)}


def steer(workbench: Workbench, query: Query) -> Shown:
    """A prompt continued as it is and with features edited, side by side."""
    return {"examples": about.example_runs(workbench)}


def api(workbench: Workbench, query: Query) -> Shown:
    """Every endpoint with its parameters."""
    return {}


def state(workbench: Workbench, query: Query) -> Shown:
    """What a page asks again for: whether something is loading, chat, memory, checks."""
    names = [workbench.sae_name(name) for name in query.get("saes", "").split(",")]
    loading = workbench.is_loading()
    checks = {}
    for name in dict.fromkeys(names):
        found = workbench.checker.begin(name, again=query.get("again") == "1")
        label = "" if name == names[0] else name
        sae = "" if name == workbench.sae_name() else name
        checks[name] = {
            "state": found["state"],
            "badge": badge_html(found, sae=sae),
            "doubt": doubt_html(found, sae=sae, label=label),
            "panel": panel_html(found),
        }
    return {
        "loading": loading,
        "loaded": workbench.engine is not None,
        "chat": about.chat(workbench),
        "memory": memory_html(about.memory(workbench), workbench.saes()),
        "checks": checks,
    }
