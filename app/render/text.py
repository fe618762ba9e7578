"""Safe pieces of HTML: whatever comes from a model, a corpus or a user goes through `escape`."""

import html
from urllib.parse import urlencode


def escape(text: object) -> str:
    """`text` as HTML text or attribute value, quotes included."""
    return html.escape(str(text), quote=True)


def address(page: str, /, **query: object) -> str:
    """Address of a page relative to the app's root.

    Empty values are left out, so that the address of a default view stays short.
    """
    kept = {name: value for name, value in query.items() if value not in (None, "")}
    return page + ("?" + urlencode(kept) if kept else "")


def link(page: str, /, **query: object) -> str:
    """The same, escaped for an attribute."""
    return escape(address(page, **query))


def signature_html(signature: str) -> str:
    """A feature's signature; its dots stay with the word before them when it breaks."""
    return escape(signature).replace(" · ", "&nbsp;· ")
