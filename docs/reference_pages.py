"""A hook of MkDocs: a page of the reference for each module and package of `sae_core`."""

import ast
from pathlib import Path
from typing import Any, Final

from mkdocs.structure.files import File, Files

ROOM: Final = Path(__file__).parents[1] / "sae_core"


def modules_by_page() -> dict[str, list[str]]:
    """Page (`splice`, or `index` of the package) -> dotted names of the modules it describes."""
    pages: dict[str, list[str]] = {}
    for path in sorted(ROOM.rglob("*.py")):
        parts = path.relative_to(ROOM).with_suffix("").parts
        if not ast.parse(path.read_text(encoding="utf-8")).body or parts[-1].startswith("_"):
            continue
        pages.setdefault(parts[0], []).append(".".join(("sae_core", *parts)))
    return pages


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, which stand in no folder."""
    for page, modules in modules_by_page().items():
        title = f"sae_core.{page}"
        text = f"# {title}\n\n" + "\n".join(f"::: {module}\n" for module in modules)
        files.append(File.generated(config, f"reference/{title}.md", content=text))
    return files
