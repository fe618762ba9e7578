"""`jumpscope prove`: its sentence, its file, and a file that is run again."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from app.cli import main
from app.engine.workbench import Workbench
from app.service.prove_again import compared
from sae_core.bundle import Bundle
from tests.unit.service_support import FIRING

ASKED = ["--prompt", "The river", "--feature", str(FIRING), "--strength", "3", "--seeds", "3"]
SHORT = ["--max-new-tokens", "5", "--device", "cpu"]


@pytest.fixture(scope="module")
def proof(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("proof") / "proof.json"
    assert (
        main(["prove", "--bundle", str(tiny_bundle.path), *ASKED, *SHORT, "--out", str(path)]) == 0
    )
    return path


def test_it_says_what_came_out_and_writes_everything(
    tiny_bundle: Bundle, proof: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["prove", "--bundle", str(tiny_bundle.path), *ASKED, *SHORT]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    written = json.loads(proof.read_text())
    assert shown.startswith(written["sentence"])
    assert written["rule"] in shown
    for arm in written["arms"]:
        if arm["kind"] == "feature":
            assert f"other feature     #{arm['feature']}" in shown
    assert main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == written
    assert len(written["arms"]) == 9


def test_a_file_runs_again_to_the_same_digits(
    tiny_bundle: Bundle, proof: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ["prove", "--bundle", str(tiny_bundle.path), "--again", str(proof), "--device", "cpu"]
    assert main(again) == 0
    said = capsys.readouterr().out
    assert "All 27 texts and their numbers are the same, digit for digit." in said


def changed(proof: dict[str, Any], **parts: Any) -> dict[str, Any]:
    other = copy.deepcopy(proof)
    other["arms"][1]["runs"][2].update(parts)
    return other


def test_what_differs_is_said(proof: Path) -> None:
    before = json.loads(proof.read_text())
    run = before["arms"][1]["runs"][2]
    same, said = compared(before, changed(before, nll=run["nll"] * (1 + 1e-8)))
    assert same
    assert "which is rounding" in said
    same, said = compared(before, changed(before, nll=run["nll"] + 0.1))
    assert not same
    assert "a number differs" in said
    assert "arms.1.runs.2.nll" in said
    same, said = compared(before, changed(before, share=None))
    assert not same
    tokens = [{**token, "id": token["id"] + 1} for token in run["tokens"]]
    other = changed(before, tokens=tokens)
    other["setup"]["threads"] += 1
    same, said = compared(before, other)
    assert not same
    assert said == (
        f"It does not run to the same digits: 1 of 27 texts differ, the first that of target "
        f"#{FIRING}, seed 2; its setup differs in threads."
    )


def test_a_changed_file_is_refused(
    tiny_bundle: Bundle, proof: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads(proof.read_text())
    path = tmp_path / "changed.json"

    def refused(text: str, sentence: str) -> None:
        path.write_text(text)
        argv = ["prove", "--bundle", str(tiny_bundle.path), "--again", str(path)]
        assert main([*argv, "--device", "cpu"]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert sentence in said

    token = before["arms"][0]["runs"][0]["tokens"][0]
    token["id"] += 1
    refused(json.dumps(before), "1 of 27 texts differ, the first that of without, seed 0")
    token["id"] -= 1
    before["setup"]["saes"][0]["content_hash"] = "0"
    refused(json.dumps(before), "was made with other weights of SAE tiny.")
    refused("{", "is no proof")
    refused("{}", "it holds no settings")
    refused(json.dumps({"settings": {}}), "it is not finished")


def test_every_number_of_a_file_is_compared(proof: Path) -> None:
    before = json.loads(proof.read_text())

    def edited(value: Any) -> Any:
        """Some other value of the same kind."""
        if isinstance(value, bool):
            return not value
        if isinstance(value, int | float):
            return value + 1
        return "another" if isinstance(value, str) else 1

    places = [
        ("separates",),
        ("sentence",),
        ("target", "edit", "value"),
        *(("arms", 3, key) for key in ("kind", "feature", "cosine", "passed", "low", "high")),
        *(("arms", 1, "runs", 2, key) for key in ("seed", "share", "nll", "passed", "size")),
        ("arms", 1, "runs", 2, "edited_tokens"),
        ("arms", 1, "runs", 2, "tokens", 0, "act"),
        ("arms", 1, "runs", 2, "tokens", 0, "text"),
    ]
    for *path, last in places:
        other = copy.deepcopy(before)
        part = other
        for key in path:
            part = part[key]
        part[last] = edited(part[last])
        same, said = compared(other, before)
        assert not same, (path, last)
        assert ".".join(map(str, [*path, last])) in said
    fewer = {**before, "arms": before["arms"][:-1]}
    assert compared(fewer, before) == (False, "Its texts are the same, but not arms.")


def test_weights_that_are_not_what_their_files_say_are_told(
    tiny_bundle: Bundle, proof: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The configuration still has the hash of the weights that were there before."""
    copied = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    weights = next(copied.glob("saes/*/sae_weights.safetensors"))
    tensors = load_file(weights)
    tensors["b_dec"] = tensors["b_dec"] + 0.01
    save_file(tensors, weights)
    assert main(["prove", "--bundle", str(copied), "--again", str(proof), "--device", "cpu"]) == 2
    assert "was made with other weights of SAE tiny." in capsys.readouterr().err


@pytest.mark.parametrize(
    "broken",
    [
        {"setup": {}},
        {"setup": 5},
        {"setup.threads": "two"},
        {"setup.threads": 10**12},
        {"setup.dtype": 5},
        {"setup.saes": [{}]},
        {"setup.saes": {}},
        {"arms": 5},
        {"arms": [5]},
        {"arms": [{"kind": "without", "feature": None, "runs": [{"seed": 0}]}]},
        {
            "arms": [
                {"kind": "without", "feature": None, "runs": [{"seed": 0, "tokens": [1]}]},
            ]
        },
        {"settings": {"prompt": "The river", "edits": 5}},
        {"settings": {"max_new_tokens": "many"}},
    ],
)
def test_a_file_of_another_form_is_one_line(
    tiny_bundle: Bundle,
    proof: Path,
    broken: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written = json.loads(proof.read_text())
    for place, value in broken.items():
        *path, last = place.split(".")
        part = written
        for key in path:
            part = part[key]
        part[last] = value
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(written))
    argv = ["prove", "--bundle", str(tiny_bundle.path), "--again", str(path), "--device", "cpu"]
    assert main(argv) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("jumpscope prove: ")
    assert said.endswith(".")


@pytest.mark.parametrize("written", [b"\xff\xfe{", b"[" * 100_000])
def test_a_file_that_is_no_json_is_said_without_a_library_s_words(
    written: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(written)
    assert main(["prove", "--again", str(path)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"jumpscope prove: {path} is no proof: it is not JSON."


def test_what_names_tell_is_said_before_a_model_is_loaded(
    tiny_bundle: Bundle,
    proof: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(_: Workbench) -> None:
        raise AssertionError("nothing is to be loaded")

    monkeypatch.setattr(Workbench, "load", load)
    other = json.loads(proof.read_text())
    other["setup"]["saes"][0]["content_hash"] = "0"
    changed_file = tmp_path / "other.json"
    changed_file.write_text(json.dumps(other))
    for argv, sentence in (
        (["--again", str(changed_file)], "was made with other weights of SAE tiny."),
        ([*ASKED, "--sae", "none"], "There is no SAE “none”"),
        ([*ASKED, "--feature", "99999"], "There is no feature 99999"),
        ([*ASKED, "--temperature", "0"], "temperature above 0"),
        ([*ASKED, "--out", str(tmp_path)], "is a folder"),
        (["--again", str(proof), "--out", str(proof)], "out would overwrite the proof"),
    ):
        assert main(["prove", "--bundle", str(tiny_bundle.path), *argv]) == 2
        assert sentence in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "give feature and prompt, or again and the file of a proof."),
        (["--again", "a.json", "--feature", "5"], "leave feature out"),
        (["--again", "a.json", "--seeds", "9", "--mode", "add"], "leave mode and seeds out"),
        ([*ASKED, "--value", "5"], "give one of them"),
        (["--again", "no-such.json"], "no-such.json"),
        ([*ASKED, "--temperature", "0"], "temperature above 0"),
        ([*ASKED[:-1], "2"], "3 to 20"),
        (["--feature", "5"], "give feature and prompt"),
        (["--feature", "5", "--prompt", "  "], "give feature and prompt"),
    ],
)
def test_a_mistake_is_one_line(
    tiny_bundle: Bundle, argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prove", "--bundle", str(tiny_bundle.path), *argv]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("jumpscope prove: ")
    assert sentence in said
