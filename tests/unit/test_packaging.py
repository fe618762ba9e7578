"""What is installed, what is imported when, and that the project's files agree with each other."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sae_core

ROOT = Path(__file__).parents[2]
PACKAGES = ("app", "sae_core", "training")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins() -> dict[str, str]:
    """Name -> version, as constraints.txt has them."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has imported after `statement`."""
    code = f"import sys\n{statement}\nsys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in done.stderr.split()}


def test_every_requirement_has_a_pin_that_it_allows():
    required = [*PROJECT["dependencies"], *(r for extra in EXTRAS.values() for r in extra)]
    result = pins()
    for requirement in map(Requirement, required):
        version = result[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} but pinned to {version}"


def test_pins_are_plain_versions():
    assert pins()["torch"] == "2.13.0"
    for name, version in pins().items():
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{name}=={version}"


def test_the_core_installs_without_gradio():
    names = {Requirement(r).name for r in PROJECT["dependencies"]}
    assert not names & {"gradio", "tensorboard", "pytest", "sae-lens"}
    assert "gradio" in {Requirement(r).name for r in EXTRAS["app"]}


def test_the_wheel_holds_every_tracked_file_of_the_packages():
    from hatchling.builders.wheel import WheelBuilder

    tracked = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")[:-1]
    packed = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    # A file that is tracked but gone from the work tree is about to be committed as removed.
    missing = {name for name in tracked if (ROOT / name).exists()} - packed
    assert "app/cli.py" in packed
    assert not missing


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import sae_core", {"app", "training", "gradio", "transformers", "torch", "numpy"}),
        ("from sae_core import SAEConfig, Site", {"torch", "numpy"}),
        ("import sae_core.placement, app.settings", {"torch", "numpy", "gradio"}),
        ("import sae_core.splice, sae_core.bundle", {"app", "training", "gradio"}),
        ("import training.loop", {"app", "gradio", "sae_lens"}),
        ("import app.cli", {"torch", "gradio", "transformers", "duckdb", "numpy"}),
    ],
)
def test_imports_only_what_it_needs(statement, unwanted):
    assert not modules_after(statement) & unwanted


def test_names_of_the_core_are_there_when_first_used():
    for name in sae_core.__all__:
        assert getattr(sae_core, name).__name__ == name
    assert set(sae_core.__all__) <= set(dir(sae_core))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = sae_core.nothing  # pyright: ignore[reportAttributeAccessIssue]


def test_type_checkers_read_the_names_of_the_core_from_where_they_are():
    tree = ast.parse(Path(sae_core.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    told = {
        alias.name: node.module
        for node in imports
        for alias in node.names
        if str(node.module).startswith("sae_core.")
    }
    assert told == {name: f"sae_core.{module}" for name, module in sae_core._MODULES.items()}
    assert told.keys() == set(sae_core.__all__)


def test_a_module_of_the_core_is_not_taken_for_a_function_in_it():
    from sae_core import jumprelu

    assert isinstance(jumprelu, ModuleType)
    assert callable(jumprelu.jumprelu)
    assert callable(jumprelu.step)


@pytest.mark.parametrize("command", ["", "demo", "serve", "eval", "inspect"])
def test_help_needs_neither_torch_nor_gradio(command):
    statement = f"from app.cli import main\ntry: main('{command} --help'.split())\n"
    statement += "except SystemExit: pass"
    assert not modules_after(statement) & {"torch", "gradio", "transformers"}


def test_ci_runs_make_test_and_nothing_else():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    commands = script.read_text().splitlines()[1:]
    assert [c for c in commands if not c.startswith(("set ", "cd "))] == ["exec make test"]


def test_the_container_installs_as_the_readme_does():
    install = "pip install -c constraints.txt '.[app]'"
    assert f"$ {install}\n" in (ROOT / "README.md").read_text()
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert install in dockerfile.replace("--no-cache-dir ", "")
    assert dockerfile.index("\nUSER jumpscope") < dockerfile.index("\nENTRYPOINT")


def test_the_changelog_tells_of_this_version():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == PROJECT["version"]


def test_no_source_file_is_too_long():
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    long = {str(path): count for path in sources if (count := path.read_text().count("\n")) > 400}
    assert not long
