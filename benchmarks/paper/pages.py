"""The pages' numbers and figures, made from the results and compared with them.

On a page, what comes from the results stands between marks that a reader does not see,

    <!--=NAME-->0.031<!--/-->

NAME being one of `SHOWN`: a function of the results that gives the text. Every other number with a
decimal point, a percent sign or a thousands comma must be one of a page's `GIVEN`: settings and
numbers of others.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.paper.figures import FIGURES
from benchmarks.paper.results import FOLDER
from benchmarks.paper.shown import SHOWN
from benchmarks.paper.shown_text import UNMEASURED, Results, load
from benchmarks.paper.shown_verdicts import FIGURES as OF_COMPARISON

TEXT = Path(__file__).with_name("comparison_text.md")
"""The words of `comparison.md`, which is made from them and the results wherever there are any."""
MADE = "comparison.md"
DOCS = Path("docs")
PICTURES = DOCS / "pictures"
GIVEN: dict[str, set[str]] = {
    "paper.md": {"2407.14435", "2408.05147", "131,072", "70 %", "100 %"},
    "bandwidth.md": {
        *("2407.14435", "0.001", "0.005", "0.01", "0.02", "0.03", "0.05", "0.1", "0.0025"),
        "0.002",
        *("0.1 %", "10 %", "95 %", "2 %", "2,048", "4,096", "3,000", "0.9"),
    },
    "frequent.md": {
        *("2407.14435", "0.1", "0.01", "10 %", "1 %", "95 %", "4,096", "0.8", "0.4", "0.05"),
    },
    "threshold.md": {"2407.14435", "4,096", "10,000", "1,000", "2,048", "3,000"},
    MADE: {"2407.14435", "0.00125", "0.02", "0.7", "95 %", "10 %", "5.0 %", "2,048"},
}
"""Pages, and the numbers on them that are nobody's result."""

_MARK = re.compile(r"<!--=([\w.-]+)-->(.*?)<!--/-->", re.DOTALL)
_CODE = re.compile(r"```.*?```|`[^`\n]*`|\]\([^)]*\)|<!--.*?-->", re.DOTALL)
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:\s?%)?")


def write(docs: Path = DOCS, results: Path = FOLDER) -> None:
    """Renew what is between marks, and the figures."""
    held = load(results)
    for page in pages_of(held):
        path = docs / page
        text = (TEXT if page == MADE else path).read_text(encoding="utf-8")
        path.write_text(_MARK.sub(lambda m: _marked(m[1], held), text), encoding="utf-8")
    for name, content in _figures(held):
        (docs / "pictures" / name).write_text(content, encoding="utf-8")


def wrong(docs: Path = DOCS, results: Path = FOLDER) -> list[str]:
    """A sentence for each number and figure that is not what the results give."""
    held = load(results)
    found = []
    if MADE in pages_of(held):
        if not (docs / MADE).is_file():
            return [f"{MADE} is not there but its results are: use --write."]
        if _words(docs / MADE) != _words(TEXT):
            found.append(f"{MADE} has other words than {TEXT.name}, from which it is made.")
    elif (docs / MADE).is_file():
        return [f"{MADE} is there but its results are not."]
    for page in pages_of(held):
        text = (docs / page).read_text(encoding="utf-8")
        for mark in _MARK.finditer(text):
            name, shown = mark[1], mark[2]
            if name not in SHOWN:
                found.append(f"{page}: there is no result {name}.")
            elif (right := SHOWN[name](held)) != shown:
                is_, must = _short(shown, right)
                found.append(f"{page}: {name} is {is_} but must be {must}.")
            elif shown == UNMEASURED:
                found.append(f"{page}: {name} was not measured: change the sentence.")
        found += [f"{page}: {n} is in no mark." for n in unmarked(text) if n not in GIVEN[page]]
    for name, content in _figures(held):
        path = docs / "pictures" / name
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            found.append(f"{name} is not the figure that the results give.")
    return found


def pages_of(held: Results) -> list[str]:
    """The pages whose results are there."""
    return [page for page in GIVEN if page != MADE or "comparison" in held]


def _words(page: Path) -> str:
    """What stands outside of the marks."""
    return _MARK.sub("", page.read_text(encoding="utf-8"))


def unmarked(text: str) -> list[str]:
    """Numbers outside of marks and code that look like results."""
    rest = _CODE.sub(" ", _MARK.sub(" ", text))
    numbers = (m[0].strip() for m in _NUMBER.finditer(rest))
    return [n for n in numbers if any(sign in n for sign in ".,%")]


def _figures(held: Results) -> Iterator[tuple[str, str]]:
    for name, draw in (FIGURES | (OF_COMPARISON if "comparison" in held else {})).items():
        yield f"paper-{name}.svg", draw(held)


def _marked(name: str, held: Results) -> str:
    if name not in SHOWN:
        raise ValueError(f"there is no result {name}: use one of {', '.join(sorted(SHOWN))}.")
    return f"<!--={name}-->{SHOWN[name](held)}<!--/-->"


def _short(*texts: str) -> list[str]:
    """Each of two texts, from a little before they part."""
    flat = [" ".join(text.split()) for text in texts]
    parted = (n for n, (one, other) in enumerate(zip(*flat, strict=False)) if one != other)
    start = max(0, next(parted, min(map(len, flat))) - 40)
    return [("..." if start else "") + _cut(text[start:]) for text in flat]


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."
