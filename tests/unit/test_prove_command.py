"""`jumpscope prove`: its sentence, its file, and a file that is run again."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
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


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "give feature and prompt, or again and the file of a proof."),
        (["--again", "a.json", "--feature", "5"], "leave prompt and feature out"),
        (["--again", "no-such.json"], "no-such.json"),
        ([*ASKED, "--temperature", "0"], "temperature above 0"),
        ([*ASKED[:-1], "2"], "3 to 20"),
        (["--feature", "5"], "empty"),
    ],
)
def test_a_mistake_is_one_line(
    tiny_bundle: Bundle, argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prove", "--bundle", str(tiny_bundle.path), *argv]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("jumpscope prove: ")
    assert sentence in said
