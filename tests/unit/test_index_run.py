"""Settings of an index, and `run_index`, which the command calls."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
from sae_core.bundle import Bundle
from sae_core.formats.saelens import load_config
from sae_core.formats.saelens_config import CONFIG_FILE, write_config
from sae_core.index import Index, IndexConfig, run_index
from sae_core.index.index_checkpoint import only_build
from sae_core.workspace import workspace
from tests import tiny


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"corpus": ()}, "corpus is empty"),
        ({"bundle": "a", "model": "b", "sae": ("c",)}, "either bundle or model"),
        ({"sae": ("c",)}, "of a bundle or for a model"),
        ({"model": "b"}, "model and sae go together"),
        ({"tokens": 0}, "tokens is 0 but must be between 1"),
        ({"before": 128}, "before is 128 but must be between 0 and 127"),
        ({"context_size": 1}, "context_size is 1 but must be 0, or 2 or more"),
        ({"intervals": 0}, "intervals is 0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        IndexConfig(**{"corpus": ("text.txt",), **settings})


def test_something_to_index_must_be_named(tiny_corpus: Path) -> None:
    with pytest.raises(ValueError, match="what is to be indexed"):
        run_index(IndexConfig(corpus=(str(tiny_corpus),)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"site": None},
            "SAE tiny does not say at which site it reads: jumpscope inspect .* finds",
        ),
        ({"context_size": None}, "SAE tiny does not say how many tokens .* give --context-size"),
    ],
)
def test_what_an_sae_does_not_say_is_said_before_the_model_is_read(
    bundle: Bundle, tiny_corpus: Path, changes: dict[str, Any], sentence: str
) -> None:
    folder = bundle.sae_path(tiny.SAE_NAME)
    write_config(replace(load_config(folder), **changes), folder / CONFIG_FILE)
    shutil.rmtree(bundle.path / "model")
    with pytest.raises(ValueError, match=sentence):
        run_index(IndexConfig(bundle=str(bundle.path), corpus=(str(tiny_corpus),), device="cpu"))


def test_a_bundle(bundle: Bundle, tiny_corpus: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cfg = IndexConfig(bundle=str(bundle.path), corpus=(str(tiny_corpus),), tokens=900, device="cpu")
    result = run_index(cfg)
    [entry] = result["indexes"]
    path = bundle.index_path(tiny.SAE_NAME)
    index = Index.open(path)
    assert entry["path"] == str(path)
    assert entry["bytes"] == path.stat().st_size
    assert entry["tokens"] == index.meta["tokens"]
    assert 900 <= entry["tokens"] < 950
    assert entry["sae"] == tiny.SAE_NAME
    # The app refuses an index of other weights by this hash.
    written = load_config(bundle.sae_path(tiny.SAE_NAME)).metadata["content_hash"]
    assert index.meta["sae_hash"] == written
    assert index.meta["model_name"] == "tiny"
    out, err = capfd.readouterr()
    assert out == ""
    assert "indexing" in err


def test_an_unknown_sae_of_a_bundle(tiny_bundle: Bundle, tiny_corpus: Path) -> None:
    cfg = IndexConfig(bundle=str(tiny_bundle.path), sae=("other",), corpus=(str(tiny_corpus),))
    with pytest.raises(ValueError, match="has no SAE 'other': it has tiny"):
        run_index(cfg)


def test_a_model_and_sae_folders(
    bundle: Bundle, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index goes where `jumpscope serve` with the same words looks for it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    model, folder = str(bundle.path / "model"), str(bundle.sae_path(tiny.SAE_NAME))
    cfg = IndexConfig(
        model=model, sae=(folder,), corpus=(str(tiny_corpus),), tokens=300, dtype="float32"
    )
    [entry] = run_index(cfg)["indexes"]
    index = workspace(model, [folder]).index_path(entry["sae"])
    assert entry["path"] == str(index)
    assert index.is_relative_to(tmp_path / "data" / "jumpscope")
    assert 300 <= Index.open(index).meta["tokens"] < 350


def test_an_empty_corpus_is_named(bundle: Bundle, tmp_path: Path) -> None:
    before = bundle.index_path(tiny.SAE_NAME).read_bytes()
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match="holds no text"):
        run_index(IndexConfig(bundle=str(bundle.path), corpus=(str(tmp_path / "empty.txt"),)))
    assert bundle.index_path(tiny.SAE_NAME).read_bytes() == before
    assert not [path for path in bundle.sae_path(tiny.SAE_NAME).iterdir() if path.is_dir()]


@pytest.mark.parametrize("command", ["eval", "index"])
def test_what_names_tell_is_said_before_a_model_is_loaded(
    command: str,
    tiny_bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(Bundle, "load_model", load)
    text = {"eval": "--text", "index": "--corpus"}[command]
    bundle = ["--bundle", str(tiny_bundle.path)]
    assert main([command, *bundle, text, "missing.parquet"]) == 2
    assert "no corpus file matches missing.parquet: check the path." in capsys.readouterr().err
    assert main([command, *bundle, text, "missing.parquet", "--sae", "other"]) == 2
    assert "has no SAE 'other': it has tiny" in capsys.readouterr().err


def test_a_build_at_work_is_seen_before_a_model_is_loaded(
    tiny_bundle: Bundle, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(Bundle, "load_model", load)
    cfg = IndexConfig(bundle=str(tiny_bundle.path), corpus=(str(tiny_corpus),))
    with (
        only_build([tiny_bundle.index_path(tiny.SAE_NAME)]),
        pytest.raises(ValueError, match="another jumpscope index is at work on"),
    ):
        run_index(cfg)
