"""HTML of the pages that the server draws. Every string from outside is escaped here."""

from app.render.feature import feature_html, own_text_html
from app.render.feature_list import list_html
from app.render.text import address, escape, link

__all__ = [
    "address",
    "escape",
    "feature_html",
    "link",
    "list_html",
    "own_text_html",
]
