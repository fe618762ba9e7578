"""Sentences that go to people: nothing in them says where files lie on the server."""

import re
from typing import Final

FAILED: Final = "Something went wrong here; the server's log says what."

# An absolute path of two parts and more, or one of Windows; addresses of the web stay.
_PATH: Final = re.compile(
    r"(?<![\w./:@~-])(?:~?(?:/[\w.@+%~-]+)+/[\w.@+%~-]*[\w@+%~-]/?|[A-Za-z]:\\[^\s'\",;]+)"
)


def without_paths(sentence: str) -> str:
    """The sentence with the last part of every absolute path in the path's place."""
    return _PATH.sub(lambda path: re.split(r"[/\\]", path[0].rstrip("/\\"))[-1], sentence)
