"""A feature at a glance, for the card beside its number (js/glance.js): its name, how often it
fires, its strongest contexts, its histogram, and where to go on.
"""

from functools import partial
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from app.engine.workbench import Workbench
from app.requests import FeatureRequest, parsed
from app.sentences import without_paths
from app.service.features import feature
from app.service.labels import with_labels
from app.web.feature_view import feature_page
from app.web.templating import address, render

CONTEXTS: Final = 3
NEAR: Final = (7, 4)
"""Tokens before and after the peak of a context."""


def glance(workbench: Workbench, number: object, sae: str) -> dict[str, Any]:
    """The template's values; ValueError if there is no such feature or SAE."""
    request = parsed(FeatureRequest, {"feature": number, "sae": sae}, workbench.settings)
    data = with_labels(workbench, feature(workbench, request))
    in_address = "" if data["sae"] == workbench.sae_name() else data["sae"]
    page = feature_page(data, in_address=in_address)
    contexts = [context for group in page["groups"] for context in group["contexts"]]
    return {
        "data": data,
        "facts": page["facts"],
        "activations": page["activations"],
        "contexts": contexts[:CONTEXTS],
        "near": NEAR,
        "open": address("features", sae=in_address, feature=data["feature"]),
        "steer": page["steer"],
    }


def add_glance(app: FastAPI, workbench: Workbench) -> None:
    """Its route."""
    app.add_api_route("/glance", partial(_answer, workbench), methods=["GET"])


def _answer(workbench: Workbench, request: Request) -> Response:
    query, headers = request.query_params, {"cache-control": "no-store"}
    written = query.get("feature", "")
    number = int(written) if written.isascii() and written.isdecimal() else written
    try:
        shown = glance(workbench, number, query.get("sae", ""))
    except ValueError as error:
        return JSONResponse({"detail": without_paths(str(error))}, 404)
    return HTMLResponse(render("glance.html", **shown), headers=headers)
