"""The pages of docs/errors quote what the code says, word for word."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(p for p in (ROOT / "docs" / "errors").glob("*.md") if p.name != "README.md")
LEAST = 20
"""Letters of its own that a sentence in the code must have to be told from others."""


@cache
def sentences() -> list[re.Pattern[str]]:
    """Each string of the code, what is filled in standing for any text."""
    patterns = []
    for package in ("app", "sae_core", "training"):
        for file in (ROOT / package).rglob("*.py"):
            constants = _constants(ast.parse(file.read_text()))
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr | ast.Constant):
                    parts = _parts(node, constants)
                    if sum(map(len, parts)) >= LEAST:
                        patterns.append(re.compile(".*".join(map(re.escape, parts)), re.DOTALL))
    return patterns


def _constants(tree: ast.Module) -> dict[str, str]:
    """Strings that a module has under names."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }


def _parts(node: ast.JoinedStr | ast.Constant, constants: dict[str, str]) -> list[str]:
    """A string's own text between what is filled in."""
    if isinstance(node, ast.Constant):
        return re.split(r"\{\w+\}", node.value) if isinstance(node.value, str) else [""]
    parts = [""]
    for value in node.values:
        if isinstance(value, ast.Constant):
            parts[-1] += str(value.value)
        elif isinstance(value, ast.FormattedValue) and isinstance(value.value, ast.Name):
            own = constants.get(value.value.id)
            parts = [*parts[:-1], parts[-1] + own] if own else [*parts, ""]
        else:
            parts.append("")
    return parts


def quoted(page: Path) -> list[str]:
    (block,) = re.findall(r"^```text\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return block.splitlines()


def test_the_overview_names_every_page() -> None:
    overview = (ROOT / "docs" / "errors" / "README.md").read_text()
    assert set(re.findall(r"\]\((\w[\w-]*\.md)\)", overview)) == {page.name for page in PAGES}
    assert len(PAGES) >= 8


@pytest.mark.parametrize(
    ("page", "line"), [(page.name, line) for page in PAGES for line in quoted(page)]
)
def test_every_quoted_sentence_is_said(page: str, line: str) -> None:
    assert any(pattern.fullmatch(line) for pattern in sentences()), f"{page}: nothing says {line}"


def test_a_sentence_that_nothing_says_is_told() -> None:
    line = "there is no index at PATH: make one with jumpscope index."
    assert not any(pattern.fullmatch(line) for pattern in sentences())
