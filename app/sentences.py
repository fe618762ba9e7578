"""Sentences that go to people: nothing in them says where files lie on the server, but for the
commands that they recommend, which would not work without it.
"""

import re
from typing import Final

FAILED: Final = "Something went wrong here; the server's log says what."

# An absolute path of two parts and more, or one of Windows; addresses of the web stay.
_PATH: Final = re.compile(
    r"(?<![\w./:@~-])(?:~?(?:/[\w.@+%~-]+)+/[\w.@+%~-]*[\w@+%~-]/?|[A-Za-z]:\\[^\s'\",;]+)"
)

# What `app.engine.indexes.Missing` and checks recommend: up to the verb that says what it does.
_COMMAND: Final = re.compile(
    r"(\bjumpscope (?:index|inspect|convert) .*? (?:builds|finds|writes)\b)"
)


def without_paths(sentence: str) -> str:
    """The sentence with the last part of every absolute path in the path's place, but in commands
    of Jumpscope's own.
    """

    def shortened(text: str) -> str:
        return _PATH.sub(lambda path: re.split(r"[/\\]", path[0].rstrip("/\\"))[-1], text)

    # The parts that the pattern matched are those at odd places.
    parts = _COMMAND.split(sentence)
    return "".join(part if n % 2 else shortened(part) for n, part in enumerate(parts))
