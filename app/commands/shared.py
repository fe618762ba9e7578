"""What several subcommands share: finding a bundle, printing results."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from sae_core.bundle import Bundle

JSONFlag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""Type of an option `--json` without its opposite."""

DEMO = Path(__file__).parents[1] / "demo"
"""Folder of the bundled demo."""


def open_bundle(name: str) -> "Bundle":
    """The bundle in the folder `name`; `demo` is the bundled one. ValueError if it is none."""
    from sae_core.bundle import Bundle

    return Bundle.open(DEMO if name == "demo" else name)


def chosen_bundle(bundle: str, model: str, saes: Sequence[str], default: str = "") -> "Bundle":
    """The bundle in a folder, or that of a model and SAEs named by id; `default` if neither.

    `saes` name SAEs only where a model is given. ValueError with one sentence if the two forms are
    mixed or neither is whole.
    """
    if bundle and model:
        raise ValueError("give either a bundle, or --model and --sae, not both.")
    if model:
        if not saes:
            raise ValueError("--model needs --sae: name SAEs by hub id or folder.")
        from sae_core.workspace import workspace

        return workspace(model, saes)
    if not bundle and not default:
        raise ValueError("give a bundle (demo is the bundled one), or --model and --sae.")
    return open_bundle(bundle or default)


def served_bundle(bundle: str, model: str, saes: Sequence[str]) -> "Bundle":
    """`chosen_bundle` for the app, which also shows a training run that has no bundle yet."""
    if bundle and not model:
        from app.engine.run_bundle import is_bundle_to_come, run_bundle

        if is_bundle_to_come(Path(bundle)):
            return run_bundle(Path(bundle))
        if bundle != "demo" and not Path(bundle).exists():
            raise ValueError(
                f"there is no folder {bundle}: name that of a bundle (demo is the bundled one), or "
                "of a training run once it has begun."
            )
    return chosen_bundle(bundle, model, saes)


def to_json(result: Mapping[str, Any]) -> str:
    """`result` as indented JSON; numbers that are not finite become null."""
    return json.dumps(_finite(result), indent=2, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def shown(value: Any) -> str:
    """A number or text as people read it; "-" where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def table(rows: list[list[str]]) -> str:
    """Rows of cells as left-aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
