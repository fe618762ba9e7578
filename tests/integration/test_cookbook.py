"""The cookbook: every recipe of docs/patterns runs, in one process, as it stands."""

import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sae_core import Bundle, SplicedLM

ROOT = Path(__file__).parents[2]
PATTERNS = ROOT / "docs" / "patterns"
RECIPES = sorted(path.stem for path in PATTERNS.glob("*.md") if path.stem != "README")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def one_model() -> Iterator[None]:
    """The demo's model is loaded once: the recipes do not change it."""
    with pytest.MonkeyPatch.context() as patch:
        load = Bundle.load

        @cache
        def loaded(path: Path) -> SplicedLM:
            return load(Bundle.open(path))

        def once(bundle: Bundle, *_: Any, **__: Any) -> SplicedLM:
            return loaded(bundle.path.resolve())

        patch.setattr(Bundle, "load", once)
        yield


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the demo where the checkout has it, for what recipes write."""
    (tmp_path / "app").symlink_to(ROOT / "app")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name: str) -> tuple[dict[str, Any], str]:
    """The names that a recipe's blocks make, one after the other, and what they print."""
    blocks = BLOCK.findall((PATTERNS / f"{name}.md").read_text(encoding="utf-8"))
    assert blocks, name
    names: dict[str, Any] = {"__name__": name}
    printed = io.StringIO()
    with redirect_stdout(printed):
        for block in blocks:
            exec(compile(block, f"{name}.md", "exec"), names)
    return names, printed.getvalue()


def test_there_are_twelve_and_the_index_names_them() -> None:
    assert len(RECIPES) == 12
    index = (PATTERNS / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((\w+)\.md\)", index) != []
    assert sorted(re.findall(r"\]\((\w+)\.md\)", index)) == RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_and_fits_a_page(name: str, folder: Path) -> None:
    text = (PATTERNS / f"{name}.md").read_text(encoding="utf-8")
    assert text.index("**When to use.**") < text.index("## Canonical pattern")
    assert len(text.splitlines()) < 60
    names, printed = run(name)
    check = CHECKS.get(name)
    assert check is None or check(names, printed, folder)


def _activations(names: dict[str, Any], _printed: str, folder: Path) -> bool:
    import duckdb

    file = folder / "activations.parquet"
    return len(duckdb.read_parquet(str(file))) == len(names["result"]) > 100


CHECKS: dict[str, Any] = {
    "activations": _activations,
    "top_features": lambda names, printed, _: printed.count("#") == 10,
    "ablate_logits": lambda names, printed, _: printed.count("KL") == 3,
    "clamp_generate": lambda names, printed, _: names["texts"][0] != names["texts"][1],
    "effects": lambda names, printed, _: "agree in rank" in printed,
    "compare_saes": lambda names, printed, _: printed.count("is like") == 5,
    "query_sql": lambda names, printed, _: len(names["frame"]) > 5,
    "train_own_loader": lambda names, _, folder: (folder / "my_sae/cfg.json").is_file(),
    "load_formats": lambda names, _, folder: (folder / "converted/cfg.json").is_file(),
    "batch_evaluation": lambda names, printed, _: len(names["results"]) == 2,
    "plotting": lambda names, *_: names["html"].startswith("<div"),
    "serve_notebook": lambda names, printed, _: len(names["answer"]["features"]) == 3,
}
