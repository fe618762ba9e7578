"""Bundles: what opens, what is refused and how, and writing files whole."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from app.engine.facts import model_facts
from sae_core.bundle import Bundle
from sae_core.files import atomic_folder, atomic_write
from sae_core.index import Index
from sae_core.index.schema import create
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


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": "other"}, "is of an unknown format: its 'format' is not 'jumpscope-bundle'"),
        ({"format": None}, "is of an unknown format"),
        ({"version": 2}, "is of version 2 but this Jumpscope reads version 1: install a newer"),
        ({"version": True}, "is of version True"),
        ({"version": None}, "is of version None"),
        ({"name": 3}, "has 'name' of another kind than a text"),
        ({"name": None}, "lacks the entry 'name'"),
        ({"model": ["model"]}, "has 'model' of another kind than a text"),
        (
            {"model": "../model"},
            r"has a model outside the bundle: '\.\./model'; write its absolute",
        ),
        ({"model": "model/../../model"}, "has a model outside the bundle"),
        ({"model": ".."}, "has a model outside the bundle"),
        ({"title": {}}, "has 'title' of another kind than a text"),
        ({"saes": "tiny"}, "has 'saes' of another kind than a list"),
        ({"saes": {"tiny": 1}}, "has 'saes' of another kind than a list"),
        ({"saes": [3]}, "lists an SAE that is neither a name nor"),
        ({"saes": [["tiny"]]}, "lists an SAE that is neither a name nor"),
        ({"saes": [{"name": "tiny"}]}, "lacks the entry 'source'"),
        ({"saes": [{"name": "tiny", "source": 3}]}, "has 'source' of another kind than a text"),
        ({"saes": [{"name": "x", "source": "../x"}]}, "has SAE 'x' outside the bundle"),
        ({"saes": ["."]}, "names an SAE outside the bundle"),
        ({"saes": [""]}, "names an SAE outside the bundle"),
        ({"saes": ["a\0b"]}, "names an SAE with a character that no path has"),
        ({"saes": ["tiny", "tiny"]}, "lists two SAEs of one name"),
        ({"examples": []}, "has 'examples' of another kind than an object"),
        ({"examples": {"prompts": "text"}}, "has 'prompts' of another kind than a list"),
        ({"examples": {"steer": [{"edits": 1}]}}, "has 'edits' of another kind than a list"),
        ({"examples": {"steer": [{"edits": [1]}]}}, "an example with an edit that is no object"),
    ],
)
def test_what_a_bundle_cannot_say_is_one_sentence(
    changes: dict[str, Any], sentence: str, copy: Path
) -> None:
    rewrite(copy, **changes)
    with pytest.raises(ValueError, match=sentence) as said:
        Bundle.open(copy)
    assert str(said.value).startswith(str(copy / "bundle.json"))
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    "text",
    ["[]", "3", '"text"', "null", "[" * 100_000, '{"name": ' * 50_000, "{", "", "\0", "1" * 5000],
    ids=lambda text: text[:8],
)
def test_what_is_no_bundles_json_is_one_sentence(text: str, copy: Path) -> None:
    (copy / "bundle.json").write_text(text)
    with pytest.raises(ValueError, match="is not a bundle's JSON"):
        Bundle.open(copy)
    (copy / "bundle.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match="is not a bundle's JSON"):
        Bundle.open(copy)


@pytest.mark.parametrize("missing", ["tokenizer.json", "config.json", "model.safetensors"])
def test_a_model_that_lacks_a_file_is_one_sentence(missing: str, copy: Path) -> None:
    for file in (copy / "model").glob("tokenizer*" if missing == "tokenizer.json" else missing):
        file.unlink()
    with pytest.raises(ValueError, match=r"the language model .* cannot be loaded: ") as said:
        Bundle.open(copy).load_model()
    assert "\n" not in str(said.value)


def test_odd_names_work_and_one_that_duckdb_misreads_is_refused(copy: Path, tmp_path: Path) -> None:
    odd = copy.rename(tmp_path / "an 'odd' [1] Übung*")
    bundle = Bundle.open(odd)
    assert bundle.load().sae_names == list(bundle.sae_names)
    Index.open(bundle.index_path(bundle.sae_names[0])).close()
    bundle = Bundle.open(odd.rename(tmp_path / r"a\b"))
    assert bundle.load().sae_names == list(bundle.sae_names)
    path = bundle.index_path(bundle.sae_names[0])
    with pytest.raises(ValueError, match="has a backslash in its name, which DuckDB takes for a"):
        Index.open(path)
    with pytest.raises(ValueError, match="has a backslash in its name"), create(path):
        pass


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
