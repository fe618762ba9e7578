"""Formats by name: recognising, writing over what is there, and `jumpscope convert`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from app.cli import main
from app.commands.convert import Format
from sae_core.config import Architecture, Site
from sae_core.formats import (
    FORMATS,
    WRITTEN,
    read_config,
    read_sae,
    recognise,
    weights_file,
    write_sae,
)
from sae_core.formats.saelens import update_metadata
from tests.formats_support import (
    ALL,
    D_MODEL,
    D_SAE,
    assert_same_function,
    assert_same_weights,
    random_sae,
)

HOLDS: dict[str, tuple[Architecture, ...]] = {
    "saelens": ALL,
    "gemma_scope": ("jumprelu",),
    "gemma_scope_2": ("jumprelu",),
    "dictionary_learning": ALL,
    "sparsify": ("topk",),
    "llama_scope": ("jumprelu",),
    "circuit_tracer": ("jumprelu", "standard", "topk"),
    "goodfire": ("standard",),
    "hook_z": ("standard",),
}
READ_ONLY = {"qwen_scope"}
"""Their files do not say all that an SAE is."""
FILES = {
    "saelens": "sae_weights.safetensors",
    "gemma_scope": "params.npz",
    "gemma_scope_2": "params.safetensors",
    "dictionary_learning": "ae.pt",
    "sparsify": "sae.safetensors",
    "llama_scope": "sae_weights.safetensors",
    "circuit_tracer": "layer_2.safetensors",
    "goodfire": "gemma-2-2b-SAE-l2.pth",
    "hook_z": "gemma-2-2b_L2_Hcat_z_50.pt",
}


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    return err


def test_the_command_and_the_library_agree_on_formats() -> None:
    assert get_args(Format) == WRITTEN == tuple(HOLDS)
    assert set(FORMATS) == set(WRITTEN) | READ_ONLY


@pytest.mark.parametrize("to", WRITTEN)
@pytest.mark.parametrize("architecture", ALL)
def test_each_format_holds_what_it_holds(
    architecture: Architecture, to: str, tmp_path: Path
) -> None:
    sae = random_sae(architecture, transcoder=to == "circuit_tracer")
    if architecture not in HOLDS[to]:
        with pytest.raises(ValueError, match="format"):
            write_sae(sae, tmp_path / "x", to)
        assert not list(tmp_path.iterdir())
        return
    write_sae(sae, tmp_path / "x", to)
    assert recognise(tmp_path / "x") == recognise(tmp_path / "x" / FILES[to]) == to
    assert weights_file(tmp_path / "x") == tmp_path / "x" / FILES[to]
    assert_same_function(read_sae(tmp_path / "x"), sae)
    assert_same_function(read_sae(tmp_path / "x" / FILES[to]), sae)
    cfg = read_config(tmp_path / "x")
    assert (cfg.architecture, cfg.d_model, cfg.d_sae) == (architecture, D_MODEL, D_SAE)
    if to != "gemma_scope":  # its names alone say where
        assert (cfg.site, cfg.site_out) == (sae.cfg.site, sae.cfg.site_out)
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in (tmp_path / "x").iterdir())


@pytest.mark.parametrize("first", ["gemma_scope", "gemma_scope_2", "dictionary_learning"])
def test_there_and_back_is_exact(first: str, tmp_path: Path) -> None:
    sae = random_sae()
    write_sae(sae, tmp_path / "a", "saelens")
    write_sae(read_sae(tmp_path / "a"), tmp_path / "b", first)
    write_sae(read_sae(tmp_path / "b"), tmp_path / "c", "saelens")
    assert_same_weights(read_sae(tmp_path / "c"), sae)
    weights = "sae_weights.safetensors"
    assert (tmp_path / "a" / weights).read_bytes() == (tmp_path / "c" / weights).read_bytes()


def test_writing_again_keeps_what_lies_beside(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    write_sae(random_sae(), folder, "gemma_scope")
    (folder / "notes.txt").write_text("mine")
    other = random_sae(seed=1)
    write_sae(other, folder, "gemma_scope")
    assert (folder / "notes.txt").read_text() == "mine"
    assert_same_weights(read_sae(folder), other)
    with pytest.raises(ValueError, match="is not empty and holds no saelens SAE"):
        write_sae(other, folder, "saelens")


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sae(random_sae(), tmp_path / "x", "gemma_scope")
    before = (tmp_path / "x" / "params.npz").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sae_core.formats.gemma_scope.np.savez", full)
    with pytest.raises(ValueError, match="no space left"):
        write_sae(random_sae(seed=1), tmp_path / "x", "gemma_scope")
    assert (tmp_path / "x" / "params.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("to", ["gemma_scope_2", "dictionary_learning"])
def test_matrices_may_be_written_in_bfloat16(to: str, tmp_path: Path) -> None:
    sae = random_sae()
    write_sae(sae, tmp_path / "x", to, torch.bfloat16)
    assert torch.equal(read_sae(tmp_path / "x").W_enc, sae.W_enc.bfloat16().float())
    with pytest.raises(ValueError, match="float32 numbers only"):
        write_sae(sae, tmp_path / "y", "gemma_scope", torch.bfloat16)
    with pytest.raises(ValueError, match=f"{to} has no float8_e4m3fn"):
        write_sae(sae, tmp_path / "y", to, torch.float8_e4m3fn)


def test_the_command_writes_float8(
    params: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["convert", str(params), str(tmp_path / "x"), "--dtype", "float8_e4m3fn"]
    assert main(argv) == 0
    capsys.readouterr()
    nearest = random_sae().W_dec.to(torch.float8_e4m3fn).float()
    assert torch.equal(read_sae(tmp_path / "x").W_dec, nearest)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("absent", "absent does not exist"),
        ("empty", "holds no SAE: no file is named as one of saelens, gemma_scope"),
        ("model.safetensors", "is in no SAE format that is read"),
        ("notes.txt", "is in no SAE format that is read"),
        ("empty.txt", "is empty"),
    ],
)
def test_what_is_no_sae_is_refused(name: str, sentence: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "empty.txt").touch()
    save_file({"lm_head.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=sentence):
        recognise(tmp_path / name)


# The command


@pytest.fixture
def params(tmp_path: Path) -> Path:
    """A bare params.npz, as Gemma Scope publishes it, in a folder that says nothing."""
    write_sae(random_sae(), tmp_path / "params", "gemma_scope")
    return tmp_path / "params"


def test_a_bare_params_npz_becomes_an_sae_folder(
    params: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["convert", str(params), str(tmp_path / "sae")]
    given = ["--site", "mlp_out/20", "--model-name", "google/gemma-2-2b"]
    assert main([*argv, *given]) == 0
    out = capsys.readouterr().out
    read = read_sae(tmp_path / "sae")
    assert_same_weights(read, random_sae())
    assert (read.cfg.site, read.cfg.model_name) == (Site("mlp_out", 20), "google/gemma-2-2b")
    source = read.cfg.metadata["source"]
    assert source["format"] == "gemma_scope"
    for shown in (
        f"{params} (gemma_scope)",
        source["content_hash"],
        "jumprelu at mlp_out/20 of google/gemma-2-2b",
        "W_enc 24x50",
        f"{tmp_path / 'sae'} (saelens)",
        read.cfg.metadata["content_hash"],
    ):
        assert shown in out


def test_json_says_the_same(
    params: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["convert", str(params / "params.npz"), str(tmp_path / "x"), "--to", "gemma_scope_2"]
    assert main([*argv, "--site", "mlp_in/3", "--site-out", "mlp_out/3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["source_format"], result["target_format"]) == ("gemma_scope", "gemma_scope_2")
    assert (result["site"], result["site_out"], result["model_name"]) == (
        "mlp_in/3",
        "mlp_out/3",
        None,
    )
    assert result["shapes"]["W_dec"] == [D_SAE, D_MODEL]
    assert result["target_hash"] == read_sae(tmp_path / "x").cfg.metadata["content_hash"]


def test_what_it_was_made_from_stays_on_record(params: Path, tmp_path: Path) -> None:
    original = read_sae(params).cfg.metadata["content_hash"]
    for source, target, to in (
        (params, "a", "saelens"),
        (tmp_path / "a", "b", "dictionary_learning"),
        (tmp_path / "b", "c", "saelens"),
    ):
        assert main(["convert", str(source), str(tmp_path / target), "--to", to]) == 0
        made_from = read_sae(tmp_path / target).cfg.metadata["source"]
        assert made_from == {"format": "gemma_scope", "content_hash": original}


def test_quality_that_was_measured_is_not_that_of_rounded_numbers(tmp_path: Path) -> None:
    sae = random_sae()
    sae.cfg = replace(sae.cfg, metadata={"measured": {"fvu": 0.1}})
    write_sae(sae, tmp_path / "a", "saelens")
    for source, target, dtype, kept in (
        ("a", "same", "float32", True),
        ("a", "rounded", "float8_e4m3fn", False),
    ):
        argv = ["convert", str(tmp_path / source), str(tmp_path / target), "--dtype", dtype]
        assert main(argv) == 0
        assert ("measured" in read_config(tmp_path / target).metadata) == kept
    # What is in float8 already is rounded by nothing.
    update_metadata(tmp_path / "rounded", measured={"fvu": 0.2})
    argv = ["convert", str(tmp_path / "rounded"), str(tmp_path / "again")]
    assert main([*argv, "--dtype", "float8_e4m3fn"]) == 0
    assert read_config(tmp_path / "again").metadata["measured"] == {"fvu": 0.2}


def test_a_given_site_wins_over_the_files(tmp_path: Path) -> None:
    write_sae(random_sae(), tmp_path / "a", "saelens")
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b"), "--site", "mlp_out/1"]) == 0
    assert read_config(tmp_path / "b").site == Site("mlp_out", 1)


@pytest.mark.parametrize(
    ("source", "options", "sentence"),
    [
        ("params", ["--to", "sparsify"], "sparsify's format holds topk SAEs only"),
        ("params", ["--site", "resid_post"], "site 'resid_post' is not of the form KIND/LAYER"),
        ("params", ["--to", "pickle"], "invalid choice 'pickle'"),
        ("kept", [], "holds no SAE"),
        ("absent", [], "absent"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_a_mistake_is_one_line(
    source: str,
    options: list[str],
    sentence: str,
    params: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "thesis.txt").write_text("years of work")
    argv = ["convert", str(tmp_path / source), str(tmp_path / "x"), *options]
    assert main(argv) == 2
    assert sentence in complaint(capsys)


def test_nothing_but_an_sae_is_written_over(
    params: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "thesis.txt").write_text("years of work")
    for target, sentence in (
        (tmp_path / "kept", "is not empty and holds no saelens SAE: choose another folder."),
        (params, "is not empty and holds no saelens SAE: choose another folder."),
        (tmp_path / "kept" / "thesis.txt", "is a file: name a folder."),
    ):
        assert main(["convert", str(params), str(target)]) == 2
        assert sentence in complaint(capsys)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["thesis.txt"]
