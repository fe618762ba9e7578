"""Tables: rows of cells whose content is HTML already."""

from collections.abc import Sequence


def head(words: str, kind: str = "") -> str:
    """A column's head; a column without words gets an empty cell."""
    if not words:
        return "<td></td>"
    return f'<th scope="col"{_class(kind)}>{words}</th>'


def cell(content: str, kind: str = "") -> str:
    """A cell; `kind` is its class, such as n for numbers."""
    return f"<td{_class(kind)}>{content}</td>"


def table(heads: str, rows: Sequence[str]) -> str:
    """Heads and rows, each a string of cells."""
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
