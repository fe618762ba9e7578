"""Bundles: what opens, what is refused and how, and writing files whole."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from app.engine.facts import model_facts
from sae_core.bundle import Bundle
from sae_core.files import atomic_folder, atomic_write
from sae_core.language_model import check_context


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle to break."""
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))


def rewrite(folder: Path, **changes: Any) -> None:
    file = folder / "bundle.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_bundle_loads_whole(copy: Path) -> None:
    bundle = Bundle.open(copy)
    lm = bundle.load()
    assert lm.sae_names == list(bundle.sae_names)
    assert bundle.index_path(bundle.sae_names[0]).is_file()
    check_context(lm.model, 256)
    with pytest.raises(ValueError, match="context_size is 257 but the model reads 256"):
        check_context(lm.model, 257)


def test_a_missing_part_is_named(copy: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a bundle: it has no bundle\.json"):
        Bundle.open(copy / "model")
    rewrite(copy, saes=["other"])
    with pytest.raises(ValueError, match="lists SAE 'other' but"):
        Bundle.open(copy)
    rewrite(copy, saes=["../../elsewhere"])
    with pytest.raises(ValueError, match="outside the bundle"):
        Bundle.open(copy)
    rewrite(copy, saes=[])
    with pytest.raises(ValueError, match="lists no SAE"):
        Bundle.open(copy)
    (copy / "bundle.json").write_text("{")
    with pytest.raises(ValueError, match="is not a bundle's JSON"):
        Bundle.open(copy)


def test_a_missing_model_is_no_hub_id(copy: Path) -> None:
    shutil.rmtree(copy / "model")
    with pytest.raises(ValueError, match="has no folder model, and that is no hub id"):
        Bundle.open(copy).load_model()
    rewrite(copy, model="/etc/model")
    with pytest.raises(ValueError, match="no hub id"):
        Bundle.open(copy).load_model()


def test_damaged_weights_get_one_sentence(copy: Path) -> None:
    weights = copy / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"the language model .* cannot be loaded"):
        Bundle.open(copy).load_model()
    with pytest.raises(ValueError, match="damaged"):
        model_facts(Bundle.open(copy))


def half_written(path: Path) -> None:
    path.write_text("half")
    raise RuntimeError("stopped")


def test_what_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        half_written(temporary)
    assert path.read_text() == "old"
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "folder") as temporary:
        half_written(temporary / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_and_a_locked_folder_are_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="no space left on the disk"),
        atomic_write(tmp_path / "file"),
    ):
        raise OSError(28, "No space left on device")
    with pytest.raises(ValueError, match="cannot be written"), atomic_write(tmp_path / "file"):
        raise OSError(13, "Permission denied")
