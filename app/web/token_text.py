"""A token's text on a page, as js/dom.js draws it too (tokenNodes, quoted).

Spaces around it stand outside of its element, without its colour, which would leave a sliver at the
end of a line. A token that shows no character of its own is drawn by its bytes, as ⟨F0 9F⟩, so that
it can be seen and chosen; marks alone, which would join the letter before, stand on a dotted
circle.
"""

from typing import Final
from unicodedata import category

from markupsafe import Markup

CIRCLE: Final = "\N{DOTTED CIRCLE}"

_BREAK: Final = Markup('<i class="nl">↵</i><br>')


def token_parts(text: str, partial: str = "") -> tuple[str, Markup, str]:
    """The spaces before a token's element, its content, and the spaces after it.

    Spaces alone are content. `partial` is what `sae_core.tokens.partial_bytes` says of the token.
    """
    if partial:
        return "", Markup('<i class="bytes">{}</i>').format(_placeholder(partial)), ""
    shown = text.strip(" ") or text
    start = text.index(shown)
    before, after = text[:start], text[start + len(shown) :]
    if shown and all(category(character).startswith("M") for character in shown):
        shown = CIRCLE + shown
    return before, token_text(shown), after


def token_text(text: str) -> Markup:
    """A text whose line breaks are drawn and kept."""
    return _BREAK.join(text.replace("\r", "").split("\n"))


def quoted(text: str, partial: str = "") -> str:
    """A token in quotation marks, on one line: line breaks and tabs are drawn."""
    if partial:
        return f"“{_placeholder(partial)}”"
    line = text.replace("\n", "↵").replace("\t", "⇥")
    return f"“{line}”"


def _placeholder(partial: str) -> str:
    return f"⟨{partial}⟩"
