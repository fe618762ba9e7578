"""The one set of colours, for what stands outside the app: pictures and the report of a run.

css/colours.css has them as `--name: light-dark(#light, #dark)`. Not every viewer of a picture knows
`light-dark()`, so that they are written here as two blocks, the dark one for a dark system.
"""

import re
from pathlib import Path
from typing import Final

_SHEET: Final = Path(__file__).parents[1] / "css" / "colours.css"
_COLOUR: Final = re.compile(r"(--[\w-]+):\s*light-dark\((#\w+), (#\w+)\);")


def _pairs() -> dict[str, tuple[str, str]]:
    """Light and dark by name, of the first block of the sheet."""
    block, _, _ = _SHEET.read_text(encoding="utf-8").partition("\n}\n")
    return {name: (light, dark) for name, light, dark in _COLOUR.findall(block)}


def _style() -> str:
    light, dark = (
        "".join(f"{name}:{pair[scheme]};" for name, pair in _pairs().items()) for scheme in (0, 1)
    )
    return f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"


STANDALONE_STYLE: Final = _style()
"""A style sheet that sets the custom properties of all colours."""
