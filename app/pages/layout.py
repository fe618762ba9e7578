"""What every page has: navigation with the choice of SAE, one main region, a footer."""

from dataclasses import dataclass
from typing import Final

import gradio as gr

from app.pages.checks import add_checks
from app.render import escape
from app.service import Service


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page's place in the navigation."""

    name: str
    title: str
    path: str
    """Relative to the app's root."""


OVERVIEW: Final = Page(name="overview", title="Overview", path="./")
FEATURES: Final = Page(name="features", title="Features", path="features")
PROMPT: Final = Page(name="prompt", title="Prompt", path="prompt")
STEER: Final = Page(name="steer", title="Steer", path="steer")
PAGES: Final = (OVERVIEW, FEATURES, PROMPT, STEER)


def add_frame(page: Page, service: Service, content: str, **data: object) -> None:
    """The page's fixed markup around `content`, which stands in the main region until replaced.

    `data` are values for the page's script, as `data-` attributes of the main region.
    """
    frame = _navigation(page, service) + _main(page, content, data) + _footer(page)
    # The default template inserts the value once, as it is; it must never go into the template.
    gr.HTML(
        frame,
        js_on_load="window.jumpscope.mount(element)",
        apply_default_css=False,
        elem_id="jumpscope",
    )
    add_checks(service)


def _navigation(page: Page, service: Service) -> str:
    links = "".join(
        f'<a href="{each.path}" data-page{" aria-current=page" if each is page else ""}>'
        f"{each.title}</a>"
        for each in PAGES
    )
    saes = service.saes()
    options = "".join(
        f'<option value="{escape(sae["name"])}">{escape(sae["label"])}</option>' for sae in saes
    )
    return (
        '<header class="top"><a class="skip" href="#content">Skip to the content</a>'
        '<nav aria-label="Pages">'
        '<a class="brand" href="./" data-page>Jumpscope</a>'
        f'<span class="pages">{links}</span></nav>'
        f'<div class="where"><label><span class="bundle">{escape(service.bundle.name)}</span>'
        f'<select id="sae" aria-label="SAE">{options}</select></label>'
        '<span id="badge" aria-live="polite"></span>'
        '<button type="button" id="theme" class="plain" aria-label="Colours"></button></div>'
        '<div class="progress" aria-hidden="true"></div></header>'
    )


def _main(page: Page, content: str, data: dict[str, object]) -> str:
    attributes = "".join(
        f' data-{name.replace("_", "-")}="{escape(value)}"' for name, value in data.items()
    )
    attributes = f'id="content" tabindex="-1" data-page-name="{page.name}"{attributes}'
    # Content that has a better place for it brings this slot itself.
    doubts = "" if "data-doubt" in content else '<div class="doubts" data-doubt></div>'
    return f"{doubts}<main {attributes}>{content}</main>"


def _footer(page: Page) -> str:
    keys = ""
    if page is FEATURES:
        keys = (
            '<span class="keys"><kbd>/</kbd> search · <kbd>←</kbd> <kbd>→</kbd> step through '
            "features · <kbd>r</kbd> a random one</span>"
        )
    return (
        f'<footer class="foot"><span>Runs on this machine; nothing leaves it.</span>{keys}'
        '<span><a href="./?api=1" id="api">API</a></span></footer>'
    )
