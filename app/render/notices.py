"""What is said in the place of something that is not there: an index, an SAE, a model."""

from collections.abc import Mapping
from typing import Any

from app.render.text import escape

Data = Mapping[str, Any]


def missing_html(missing: Data) -> str:
    """That an SAE has no index, what that takes away, and the command that builds it."""
    reason = f"{escape(missing['reason'])}, so what its features fire on is not known."
    return (
        f'<div class="panel notice" role="note"><p>{reason} This builds it from text of yours:</p>'
        f"{command_html(missing['command'])}</div>"
    )


def command_html(command: str) -> str:
    """A command as it is typed, with a button that copies it."""
    words = escape(command)
    return (
        f'<div class="command"><code>{words}</code>'
        f'<button type="button" class="plain" data-copy="{words}">Copy</button></div>'
    )


def problem_html(sentence: str) -> str:
    """A sentence that says what went wrong."""
    return f'<p class="problem" role="alert">{escape(sentence)}</p>'
