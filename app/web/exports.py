"""What a file or picture taken from a page says about itself: the app's version, model and SAE."""

from functools import partial
from importlib.metadata import version

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.engine.workbench import Workbench
from app.sentences import without_paths


def about(workbench: Workbench, sae: str) -> dict[str, str]:
    """Of an SAE, "" meaning the bundle's first: `jumpscope` (the version), `bundle`, `model`, the
    SAE's `name`, `site` and `content_hash` (SHA-256 of its weights), which is "" where they cannot
    be read. RequestError if there is no such SAE.
    """
    name = workbench.sae_name(sae)
    bundle = workbench.bundle
    try:
        site, digest = bundle.sae_config(name).site, bundle.content_hash(name)
    except ValueError:
        # Its own page says why.
        site, digest = None, ""
    return {
        "jumpscope": version("jumpscope"),
        "bundle": bundle.name,
        # A folder's path would say nothing elsewhere.
        "model": bundle.name if (bundle.path / bundle.model).is_dir() else bundle.model,
        "name": name,
        "site": "" if site is None else str(site),
        "content_hash": digest,
    }


def add_about(app: FastAPI, workbench: Workbench) -> None:
    """Its route."""
    app.add_api_route("/about", partial(_answer, workbench), methods=["GET"])


def _answer(workbench: Workbench, request: Request) -> Response:
    try:
        answer = about(workbench, request.query_params.get("sae", ""))
    except ValueError as error:
        return JSONResponse({"detail": without_paths(str(error))}, 404)
    return JSONResponse(answer, headers={"cache-control": "no-store"})
