"""`jumpscope inspect --check`: the check as a command, on any text, and what it keeps."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
from sae_core.bundle import Bundle
from sae_core.check import CHECK_FILE, saved_check
from sae_core.formats import write_sae
from tests import tiny

TEXTS = [row["text"] for row in tiny.tiny_documents()]


def test_inspect_checks_and_keeps(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(TEXTS))
    argv = ["inspect", str(bundle.path), "--check", "--text", str(text), "--tokens", "600"]
    assert main([*argv, "--json"]) == 0
    actual = json.loads(capsys.readouterr().out)[tiny.SAE_NAME]
    assert actual["verdict"] == "amber"
    assert actual["tokens"] >= 600
    assert main([*argv, "--save"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{tiny.SAE_NAME}: amber\nAt resid_post/1 L0 is ")
    assert re.search(r"^\w+/\d.* \d+\.\d+ +\d\.\d+ +\d+$", shown, re.MULTILINE), "others tried"
    assert shown.endswith("cfg.json\n")
    assert main(["inspect", str(bundle.path)]) == 0
    assert f"amber, {saved_check(bundle, tiny.SAE_NAME)['date']}" in capsys.readouterr().out  # pyright: ignore[reportOptionalSubscript]
    assert main(["inspect", str(bundle.path), "--json"]) == 0
    (sae,) = json.loads(capsys.readouterr().out)["saes"]
    assert sae["check"]["sentence"] == actual["sentence"]


def test_an_sae_in_no_bundle_is_checked_with_its_model(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_1" / "width_16k" / "average_l0_6"
    write_sae(bundle.load_sae(tiny.SAE_NAME), folder, "gemma_scope")
    model = ["--model", str(bundle.path / "model"), "--tokens", "600", "--json"]
    assert main(["inspect", str(folder), "--check", "--save", *model]) == 0
    (actual,) = json.loads(capsys.readouterr().out).values()
    assert (actual["site"], actual["declared_l0"]) == ("resid_post/1", 6.0)
    assert actual["saved"].startswith(str(tmp_path / "data"))
    assert actual["saved"].endswith(CHECK_FILE)
    by_option = ["inspect", "--check", "--sae", str(folder), *model]
    assert main(by_option) == 0
    (again,) = json.loads(capsys.readouterr().out).values()
    assert again["sentence"] == actual["sentence"]


def test_a_red_badge_is_a_result(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = bundle.sae_path(tiny.SAE_NAME) / "cfg.json"
    cfg.write_text(cfg.read_text().replace("resid_post/1", "mlp_in/1"))
    assert main(["inspect", str(bundle.path), "--check", "--tokens", "600"]) == 0
    assert capsys.readouterr().out.startswith(f"{tiny.SAE_NAME}: red\n")


def test_options_of_a_check_need_a_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "demo", "--save"]) == 2
    assert "add --check" in capsys.readouterr().err


REPLY = {"role": "assistant", "content": "The river, at noon."}


def answer(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    """What a command prints with --json."""
    capsys.readouterr()
    assert main([*argv, "--device", "cpu", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_column_and_passages_are_read_as_they_are_named(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same documents from a column, from passages of a text, and from files of their own."""
    table, passages, folder = tmp_path / "t.jsonl", tmp_path / "t.txt", tmp_path / "files"
    rows = [{"body": text, "text": "not this"} for text in TEXTS]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    passages.write_text("\n\n".join(TEXTS))
    folder.mkdir()
    for number, text in enumerate(TEXTS):
        (folder / f"{number:03}.txt").write_text(text)
    check = ["inspect", str(bundle.path), "--check", "--tokens", "600"]
    expected = answer(capsys, *check, "--text", str(folder))
    assert answer(capsys, *check, "--text", str(table), "--text-column", "body") == expected
    assert answer(capsys, *check, "--text", str(passages), "--split", "blank-lines") == expected
    assert answer(capsys, *check, "--text", str(passages)) != expected


def test_conversations_are_written_as_eval_writes_them(
    chat_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the chat template: markers of turns count nowhere."""
    table = tmp_path / "chats.jsonl"
    rows = [[{"role": "user", "content": text}, REPLY] for text in TEXTS]
    table.write_text("".join(json.dumps({"chat": turns}) + "\n" for turns in rows))
    text = ["--text", str(table), "--text-column", "chat", "--sae", "late", "--tokens", "600"]
    check = answer(capsys, "inspect", str(chat_bundle.path), "--check", *text)["late"]
    evaluated = answer(capsys, "eval", "--bundle", str(chat_bundle.path), *text)
    assert check["tokens"] == evaluated["tokens"]
    # Rows are in other batches; the sums are float32.
    for name in ("l0", "fvu"):
        assert check[name] == pytest.approx(evaluated[name], rel=1e-4), name


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--check", "--text-column", "body"], "name files with --text"),
        (["--check", "--text", "TABLE", "--text-column", "none"], "no column 'none', only body"),
        (["--check", "--text", "missing.parquet"], "no corpus file matches missing.parquet"),
        (["--check", "--text", "TABLE", "--split", "lines"], "lines"),
        (["--split", "blank-lines"], "add --check"),
    ],
)
def test_mistakes_about_text_get_a_sentence(
    argv: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "t.jsonl"
    table.write_text(json.dumps({"body": TEXTS[0]}))
    argv = [str(table) if each == "TABLE" else each for each in argv]
    assert main(["inspect", "demo", *argv]) == 2
    assert sentence in capsys.readouterr().err


def test_text_that_is_missing_is_said_before_the_model_is_read(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle.path / "model" / "model.safetensors").unlink()
    assert main(["inspect", str(bundle.path), "--check", "--text", "missing.parquet"]) == 2
    assert "no corpus file matches missing.parquet" in capsys.readouterr().err
