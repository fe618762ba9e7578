"""The app's pages: ordinary routes that return whole HTML, made from templates.

Addresses say everything; all pages are one level deep and every link is relative, so that the app
may stand under any path. Nothing here needs the model: a page is there while it loads.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from app.endpoints import ENDPOINTS
from app.engine.workbench import Workbench
from app.gate import ASGIApp, route_path
from app.sentences import without_paths
from app.web import assets
from app.web.api_view import api
from app.web.blind_view import blind
from app.web.catalog_view import catalog
from app.web.exports import add_about
from app.web.features_view import features
from app.web.find_view import find
from app.web.glance import add_glance
from app.web.list_files import add_list_files
from app.web.lists_view import lists
from app.web.map_view import map_page
from app.web.overview_view import overview
from app.web.prompt_view import prompt
from app.web.revision import NOTHING_READ, revision_of
from app.web.run_view import run, run_revision
from app.web.sql_files import add_sql_files
from app.web.sql_view import sql
from app.web.state import state
from app.web.steer_view import steer
from app.web.templating import render
from app.web.tour_view import tour

PATHS: Final = (
    r"/|/(features|prompt|steer|sql|api|blind|catalog|find|map|run|state|revision|progress|about|glance)"
    r"|/sql\.(csv|parquet)|/lists(\.(json|html))?|/static/.*"
)
"""Paths of everything that is routed here."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page's place in the navigation, and what it loads."""

    name: str
    title: str
    path: str
    """Relative to the app's root."""
    script: str
    """The module that makes it live."""
    modules: tuple[str, ...] = ()
    """What that module imports, so that the browser loads all at once."""
    sheet: bool = True
    """Whether it has a style sheet of its own."""
    needs_model: bool = False
    """Whether it says that the model is still being loaded."""
    view: Callable[[Workbench, Mapping[str, str]], dict[str, Any]] = lambda workbench, query: {}
    """What the template shows, from the address's query; ValueError for a query that is wrong.
    `{"redirect": address}` leads to another address, relative to the app's root."""


_SHARED: Final = ("frame", "server", "dom", "steps")

PAGES: Final = (
    Page(
        name="overview",
        title="Overview",
        path="./",
        script="overview",
        modules=(*_SHARED, "navigate"),
        view=overview,
    ),
    Page(
        name="features",
        title="Features",
        path="features",
        script="features",
        modules=(*_SHARED, "navigate", "numbers"),
        view=features,
    ),
    Page(
        name="prompt",
        title="Prompt",
        path="prompt",
        script="prompt",
        modules=(*_SHARED, "given", "prompt-beside"),
        needs_model=True,
        view=prompt,
    ),
    Page(
        name="steer",
        title="Steer",
        path="steer",
        script="steer",
        modules=(*_SHARED, "given", "edits", "numbers", "steer-settings"),
        needs_model=True,
        view=steer,
    ),
    Page(
        name="sql",
        title="SQL",
        path="sql",
        script="sql",
        modules=_SHARED,
        view=sql,
    ),
)
API_PAGE: Final = Page(
    name="api",
    title="API",
    path="api",
    script="api",
    modules=_SHARED,
    view=api,
)
BLIND_PAGE: Final = Page(
    name="blind",
    title="Blind test",
    path="blind",
    script="blind",
    modules=_SHARED,
    view=blind,
)
CATALOG_PAGE: Final = Page(
    name="catalog",
    title="Catalog",
    path="catalog",
    script="catalog",
    modules=_SHARED,
    view=catalog,
)
FIND_PAGE: Final = Page(
    name="find",
    title="Find by example",
    path="find",
    script="find",
    modules=(*_SHARED, "numbers"),
    needs_model=True,
    view=find,
)
"""Led to from Features and from Prompt."""
LISTS_PAGE: Final = Page(
    name="lists",
    title="Lists",
    path="lists",
    script="lists",
    modules=(*_SHARED, "navigate"),
    view=lists,
)
"""At the foot: on a phone the navigation has room for no further tab."""
MAP_PAGE: Final = Page(
    name="map",
    title="Map",
    path="map",
    script="map",
    modules=(*_SHARED, "numbers", "map-view", "map-plot"),
    view=map_page,
)
"""Led to from Features and from each feature."""
RUN_PAGE: Final = Page(
    name="run",
    title="Run",
    path="run",
    script="run",
    modules=_SHARED,
    view=run,
)
"""In the navigation where what is served lies in a training run's folder."""
_MISSING: Final = Page(
    name="missing", title="Not found", path="", script="missing", modules=_SHARED, sheet=False
)


def add_routes(app: FastAPI, workbench: Workbench) -> None:
    """Pages, what they ask again for, and static files."""
    others = (RUN_PAGE, API_PAGE, BLIND_PAGE, CATALOG_PAGE, FIND_PAGE, LISTS_PAGE, MAP_PAGE)
    for page in (*PAGES, *others):
        path = "/" if page.path == "./" else f"/{page.path}"
        app.add_api_route(path, partial(_answer, workbench, page), methods=["GET", "HEAD"])
    add_sql_files(app, workbench)
    add_list_files(app, workbench)
    add_about(app, workbench)
    add_glance(app, workbench)
    app.add_api_route("/state", partial(_state, workbench), methods=["GET"])
    app.add_api_route("/revision", partial(_revision, workbench), methods=["GET"])
    app.add_api_route("/progress", partial(_progress, workbench), methods=["GET"])
    app.add_api_route("/static/{version}/{path:path}", assets.answer, methods=["GET"])


def _answer(workbench: Workbench, page: Page, request: Request) -> Response:
    query = dict(request.query_params)
    # Before anything is read: what is renewed meanwhile, the page will hear of.
    reads = revision_of(workbench, query.get("sae", ""))
    try:
        shown, status = page.view(workbench, query), 200
    except ValueError as error:
        shown, status = {"problem": without_paths(str(error))}, 404
    headers = {"cache-control": "no-store"}
    if "redirect" in shown:
        return RedirectResponse(shown["redirect"], 303, headers)
    html = page_html(workbench, page, query, shown, theme=_theme(request), reads=reads)
    return HTMLResponse(html, status, headers)


def _theme(request: Request) -> str:
    """The colours that were chosen in the browser (js/frame.js)."""
    theme = request.cookies.get("jumpscope-theme", "")
    return theme if theme in ("light", "dark") else "system"


def page_html(
    workbench: Workbench,
    page: Page,
    query: Mapping[str, str],
    shown: Mapping[str, Any],
    *,
    root: str = "",
    theme: str = "system",
    reads: Mapping[str, str] = NOTHING_READ,
) -> str:
    """A page whose template is shown `shown`; `root` leads from its address to the app's root, and
    `reads` says which index it shows.
    """
    first = workbench.sae_name()
    named = query.get("sae", "")
    sae = named if named in workbench.bundle.sae_names else first
    now = state(workbench, [sae], root=root)
    template = "problem.html" if "problem" in shown else f"{page.name}.html"
    return render(
        template,
        page=page,
        pages=PAGES if workbench.run is None else (*PAGES, RUN_PAGE),
        api_page=API_PAGE,
        catalog_page=CATALOG_PAGE,
        root=root,
        theme=theme,
        revision=reads["revision"],
        index_note=reads["note"],
        bundle=workbench.bundle,
        saes=workbench.saes(),
        first_sae=first,
        sae=sae,
        sae_in_address="" if sae == first else sae,
        settings=workbench.settings,
        tour=None if "problem" in shown else tour(workbench, page.name, query),
        state=now,
        state_of_script=_for_script(now),
        endpoints={
            endpoint.name: {"index": index, "parameters": list(endpoint.request.model_fields)}
            for index, endpoint in enumerate(ENDPOINTS)
        },
        **shown,
    )


def _for_script(now: Mapping[str, Any]) -> dict[str, Any]:
    """The state without the markup that stands in the page already."""
    return {
        **{name: value for name, value in now.items() if name != "memory"},
        "checks": {
            name: {key: value for key, value in check.items() if key != "panel"}
            for name, check in now["checks"].items()
        },
    }


def _state(workbench: Workbench, request: Request) -> Response:
    """What a page asks for again while something is being loaded or checked."""
    query = request.query_params
    try:
        now = state(workbench, query.getlist("sae"), again=query.get("again") == "1")
    except ValueError as error:
        return JSONResponse({"detail": without_paths(str(error))}, 404)
    return JSONResponse(now, headers={"cache-control": "no-store"})


def _revision(workbench: Workbench, request: Request) -> Response:
    """What an open page asks for now and then, to hear of an index that was renewed."""
    answer = revision_of(workbench, request.query_params.get("sae", ""))
    return JSONResponse(answer, headers={"cache-control": "no-store"})


def _progress(workbench: Workbench) -> Response:
    """What the page of a run asks for now and then, to hear that there is more to show."""
    answer = {"revision": run_revision(workbench)}
    return JSONResponse(answer, headers={"cache-control": "no-store"})


def not_found(workbench: Workbench) -> ASGIApp:
    """The app's answer to a path that it does not have: a page in its frame, or a sentence."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        if "text/html" in request.headers.get("accept", ""):
            depth = route_path(scope).count("/") - 1
            root, theme = "../" * depth, _theme(request)
            html = await run_in_threadpool(
                page_html, workbench, _MISSING, {}, {}, root=root, theme=theme
            )
            response: Response = HTMLResponse(html, 404)
        else:
            response = JSONResponse({"detail": "The app has no such address."}, 404)
        await response(scope, receive, send)

    return answer
