"""The web app: four pages and the API on one `gr.Blocks`, and how it is served."""

import os
from pathlib import Path
from typing import Any, Final

# Gradio reads this once, when it is imported: no request may leave this machine.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from gradio.themes import Base
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from app import api
from app.pages import features, overview, prompt, steer
from app.service import Service
from app.settings import Settings
from sae_core.bundle import Bundle

STATIC: Final = Path(__file__).parent / "static"
STYLES: Final = (
    "base",
    "frame",
    "forms",
    "parts",
    "overview",
    "features",
    "prompt",
    "steer",
    "badge",
    "card",
)
SCRIPTS: Final = (
    "core",
    "badge",
    "card",
    "steps",
    "turns",
    "given",
    "memory",
    "documents",
    "prompt-colours",
    "prompt-tables",
    "prompt",
    "edits",
    "steer-run",
    "steer",
)


def build_app(settings: Settings, service: Service) -> gr.Blocks:
    """Pages and endpoints, ready to be launched."""
    with gr.Blocks(title="Jumpscope", analytics_enabled=False) as demo:
        overview.build(service)
        api.add_endpoints(service)
    for name, page in (("Features", features), ("Prompt", prompt), ("Steer", steer)):
        with demo.route(name, f"/{name.lower()}", show_in_navbar=False):
            page.build(service)
    return demo.queue(max_size=settings.max_queue)


def launch(settings: Settings, bundle: Bundle, *, block: bool = True) -> gr.Blocks:
    """Serve a bundle; returns when interrupted, or at once if not `block`."""
    service = Service(settings, bundle)
    demo = build_app(settings, service)
    demo.launch(
        server_name=settings.host,
        server_port=settings.port,
        inbrowser=settings.open_browser,
        prevent_thread_lock=True,
        quiet=True,
        **launch_options(),
    )
    # Only now: the first page needs no model, and would wait for it.
    service.load_in_background()
    if block:
        demo.block_thread()
    return demo


def launch_options() -> dict[str, Any]:
    """What the app looks like and leaves out, as arguments of `Blocks.launch`."""
    return {
        "theme": _theme(),
        "head": _head(),
        # Hidden with the rest of Gradio's footer; our own link to the API's page presses it.
        "footer_links": ["api"],
        "run_history": False,
        "share": False,
        "app_kwargs": {"exception_handlers": {404: _not_found}},
    }


def _theme() -> Base:
    """System fonts, and the page's own background from the first moment on.

    While Gradio starts it writes a sign of its own on the page, in these colours: unseen until the
    style sheet gives text its colour back.
    """
    light, dark = "#fbfbfa", "#121416"
    theme = Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return theme.set(
        body_background_fill=light,
        body_background_fill_dark=dark,
        body_text_color=light,
        body_text_color_dark=dark,
        loader_color="transparent",
        loader_color_dark="transparent",
    )


def _head() -> str:
    """Style sheets and scripts, inline: one request less, and applied before anything is drawn."""
    styles = "\n".join(_static(f"css/{name}.css") for name in STYLES)
    scripts = "\n".join(_static(f"js/{name}.js") for name in SCRIPTS)
    return f"<style>{styles}</style><script>{scripts}</script>"


def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


async def _not_found(request: Request, error: Exception) -> Response:
    """One sentence and a way back; clients of the API get JSON as ever."""
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"detail": getattr(error, "detail", "Not Found")}, status_code=404)
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Not found · Jumpscope</title>
<style>{_static("css/base.css")}</style>
<script>document.documentElement.dataset.dark =
matchMedia("(prefers-color-scheme: dark)").matches</script>
<body style="margin:0"><div id="jumpscope"><main><h1>There is no such page</h1>
<p class="sub">Jumpscope has four: <a href="/">Overview</a>, <a href="/features">Features</a>,
<a href="/prompt">Prompt</a>, <a href="/steer">Steer</a>.</p></main></div></body></html>"""
    return HTMLResponse(page, status_code=404)
