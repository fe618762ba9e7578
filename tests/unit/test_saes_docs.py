"""docs/saes.md names every format that is read, the files that it has, and what is refused."""

import re
from pathlib import Path

from sae_core.formats import WRITTEN
from sae_core.formats.layouts import LAYOUTS, layout_of
from sae_core.formats.saelens_config import _NO_SAE

TEXT = (Path(__file__).parents[2] / "docs" / "saes.md").read_text(encoding="utf-8")
READ, REFUSED = TEXT.split("## What is refused")


def test_every_format_that_is_written_is_named() -> None:
    column = re.findall(r"^\|[^|]*\| `(\w+)` \|", READ, re.MULTILINE)
    assert sorted(column) == sorted(WRITTEN)


def test_every_layout_has_its_files() -> None:
    shown = re.findall(r"`([^`\s]+\.(?:npz|safetensors|pth?))`", READ)
    written_out = [name.replace("...", "x-y").replace("x-y.pt", "x.pt") for name in shown]
    named = {layout.format for name in written_out if (layout := layout_of(name))}
    assert named >= {layout.format for layout in LAYOUTS} - {"hook_z"}
    assert "_Hcat_z_" in READ


def test_every_refusal_is_named() -> None:
    for kind in _NO_SAE:
        assert kind.replace("_", " ") in REFUSED.lower()
    for word in ("cross-layer", "crosscoders", "groupmax", "token-wise", "layer_norm"):
        assert word in REFUSED
