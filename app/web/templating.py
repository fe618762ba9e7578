"""Jinja2 with autoescape: whatever comes from a model, a corpus or a user is escaped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from app.web import assets, numbers
from app.web.token_text import quoted, token_parts, token_text
from sae_core.number_text import fvu_text

_ENVIRONMENT: Final = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def address(page: str, /, **query: object) -> str:
    """Address of a page relative to the app's root.

    Empty values are left out, so that the address of a default view stays short.
    """
    kept = {name: value for name, value in query.items() if value not in (None, "")}
    return page + ("?" + urlencode(kept) if kept else "")


def render(template: str, **values: Any) -> str:
    """A template's HTML."""
    return _ENVIRONMENT.get_template(template).render(**values)


def part(template: str, macro: str, /, *arguments: Any) -> Markup:
    """What a macro of a template makes of the arguments."""
    return Markup(getattr(_ENVIRONMENT.get_template(template).module, macro)(*arguments).strip())


def _feature_name(row: Mapping[str, Any]) -> str:
    """What a feature is called: its label, else its signature. js/dom.js chooses alike."""
    return row.get("label") or row["signature"]


def _signature(text: str) -> Markup:
    """A feature's signature; its dots stay with the word before them when it breaks.

    js/dom.js draws it alike.
    """
    return escape(text).replace(" · ", Markup("&nbsp;· ")).replace(" …", Markup("&nbsp;…"))


_ENVIRONMENT.globals |= {
    "asset": assets.address,
    "inline": assets.inline,
    "picture": assets.in_page,
    "link": address,
}
_ENVIRONMENT.globals |= {"token_parts": token_parts, "token_text": token_text, "quoted": quoted}
_ENVIRONMENT.filters |= {
    name: getattr(numbers, name)
    for name in ("number", "fixed", "signed", "percent", "count", "one_in")
}
_ENVIRONMENT.filters["fvu"] = fvu_text
_ENVIRONMENT.filters |= {"signature": _signature, "feature_name": _feature_name}
