"""The documentation builds strictly, offline, with a reference made from the docstrings."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the extra docs is not installed")

ROOT = Path(__file__).parents[2]
SITE = ("index.html", "patterns/index.html", "export.html", "reference/sae_core.splice.html")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages; a warning of the build is an error."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_pages_and_reference_are_there(site: Path) -> None:
    for name in SITE:
        assert (site / name).is_file(), name
    text = (site / "reference/sae_core.splice.html").read_text(encoding="utf-8")
    assert 'id="sae_core.splice.SplicedLM.analyse"' in text
    assert "What fires on a text and what splicing" in text
    # What is for the module's own use is not described.
    assert "sae_core.splice._encoded" not in text


def test_pages_load_nothing_from_another_host(site: Path) -> None:
    loads = re.compile(r'<(?:script|img|iframe)[^>]* src="(?:https?:)?//|rel="?stylesheet"?[^>]*//')
    for page in site.rglob("*.html"):
        assert not loads.search(page.read_text(encoding="utf-8")), page
