"""The command: results on stdout, one line for a mistake, and the exit status."""

import errno
import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from app import cli
from app.cli import main
from sae_core.formats import write_sae

HERE = str(Path(__file__).parent)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The single line on stderr; nothing may be on stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err


@pytest.fixture
def command(monkeypatch):
    """Makes `jumpscope fake` do what a test wants: `command(function)`."""

    def install(execute):
        @dataclass(frozen=True, kw_only=True)
        class Fake:
            """A command for tests."""

            def execute(self) -> str | None:
                return execute()

        monkeypatch.setitem(cli.COMMANDS, "fake", (f"{__name__}:Fake", "for tests"))
        monkeypatch.setattr(f"{__name__}.Fake", Fake, raising=False)
        return ["fake"]

    return install


def test_overview_lists_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert f"  {name} " in out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "jumpscope 0.1.0\n"


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_help_documents_every_option(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert not stop.value.code
    out = capsys.readouterr().out
    assert f"usage: jumpscope {name}" in out
    lines = [line.strip("│ ") for line in out.splitlines()]
    for line, following in itertools.pairwise(lines):
        # An option's explanation stands after two blanks, or on the next line if it is long.
        option = re.match(r"--\S+(?: \S+)*(?:  +(?P<help>.*))?$", line)
        if option:
            assert not (option["help"] or following).startswith("(default"), line


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["dmeo"], "unknown command 'dmeo': use one of demo,"),
        (["demo", "--port", "70000"], "port 70000 is not a TCP port: use 1 to 65535"),
        (["demo", "--port", "many"], "--port"),
        (["demo", "--prot", "1"], "perhaps you meant --port"),
        (["demo", "stray"], "Unrecognized options: stray."),
        (["serve"], "give a bundle (demo is the bundled one), or --model and --sae."),
        (["serve", "demo", "--model", "a/b"], "give either a bundle, or --model and --sae, not"),
        (["serve", "--model", "a/b"], "--model needs --sae"),
        (["serve", "demo", "--sae", "a/b"], "--sae goes with --model"),
        (["eval", "--text", "a.txt", "--model", "a/b"], "--model needs --sae"),
        (["index", "--corpus", "a.txt", "--model", "a/b"], "model and sae go together"),
        (["serve", "no/such/bundle"], "there is no folder no/such/bundle: name that of a bundle"),
        (
            ["serve", HERE],
            f"{HERE} is not a bundle: it has no bundle.json; name the folder of one.",
        ),
        (["inspect", "no-such-bundle"], "no-such-bundle does not exist: give a folder or file"),
        (["eval"], "--text must be given."),
        (["eval", "--text", "a.txt", "--tokens", "0"], "tokens is 0 but must be 1 or more."),
        (["train", "--model", "m"], "--corpus, --sites, --d-sae, --out must be given."),
        (["train", "--preset", "huge"], "invalid choice 'huge' for argument '--preset'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(argv, sentence, capsys):
    assert main(argv) == 2
    line = one_line(capsys)
    assert line.startswith("jumpscope")
    assert sentence in line


def test_a_wrong_variable_is_named(capsys, monkeypatch):
    monkeypatch.setenv("JUMPSCOPE_PORT", "many")
    assert main(["demo"]) == 2
    assert "JUMPSCOPE_PORT='many' is not a whole number." in one_line(capsys)


def test_no_command_is_a_mistake_that_shows_the_overview(capsys):
    assert main([]) == 2
    assert "usage: jumpscope COMMAND" in capsys.readouterr().out


def test_result_alone_is_on_stdout(command, capsys):
    def execute():
        print("a library's chatter")  # noqa: T201 - what is tested
        return "the result"

    assert main(command(execute)) == 0
    out, err = capsys.readouterr()
    assert out == "the result\n"
    assert "chatter" in err


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("the sentence."), 2, "jumpscope fake: the sentence.\n"),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), 2, "a.txt: no such file"),
        (KeyboardInterrupt(), 130, "jumpscope fake: interrupted.\n"),
        (KeyboardInterrupt("saved: go on."), 130, "jumpscope fake: saved: go on.\n"),
        (ModuleNotFoundError("", name="gradio"), 2, "pip install 'jumpscope[app]'"),
    ],
)
def test_what_stops_a_command_is_one_line(error, status, line, command, capsys):
    def execute():
        raise error

    assert main(command(execute)) == status
    assert line in one_line(capsys)


def test_a_bug_keeps_its_traceback(command):
    def execute():
        raise KeyError("bug")

    with pytest.raises(KeyError):
        main(command(execute))


def test_a_mistake_can_show_its_traceback(command, monkeypatch):
    def execute():
        raise ValueError("the sentence.")

    monkeypatch.setenv("JUMPSCOPE_DEBUG", "1")
    with pytest.raises(ValueError, match="the sentence"):
        main(command(execute))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/a"),
            "no space left on the disk of /x/a",
        ),
        (RuntimeError("[enforce fail at inline_container.cc:603] ."), "could not be written whole"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x/a"),
            "/x/a may not be read or written",
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), "the memory is full: use fewer tokens"),
        (MemoryError(), "the memory is full"),
    ],
)
def test_what_the_system_refuses_is_one_line(error, line, command, capsys):
    def execute():
        raise error

    assert main(command(execute)) == 2
    assert line in one_line(capsys)


PROGRAM = r"""
import sys, types
from dataclasses import dataclass
from app import cli

@dataclass(frozen=True, kw_only=True)
class Fake:
    lines: int = 0

    def execute(self):
        for n in range(self.lines):
            sys.stderr.write(f"at work {n}\n")
        return "\u00dcbung " + 200_000 * "x"

sys.modules["fake"] = types.SimpleNamespace(Fake=Fake)
cli.COMMANDS["fake"] = ("fake:Fake", "for tests")
cli.run()
"""


def shell(ending: str, *, lines: int = 0, **environment: str) -> tuple[str, str]:
    """Run the command in a shell line that ends so; stdout, and stderr with the exit status last
    (that of the command, in a pipe as well).
    """
    line = f'"$0" -c "$1" fake --lines {lines} {ending}; echo "exit ${{PIPESTATUS[0]}}" >&2'
    done = subprocess.run(
        ["bash", "-c", line, sys.executable, PROGRAM],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | environment,
        check=True,
    )
    return done.stdout, done.stderr


def test_a_reader_of_the_result_that_has_gone_is_no_mistake():
    assert shell("| head -c 10") == ("\u00dcbung xxx", "exit 0\n")


def test_a_reader_of_the_messages_that_has_gone_ends_the_work_and_says_so():
    assert shell("2>&1 >/dev/null | head -n 1", lines=100_000) == ("at work 0\n", "exit 141\n")


def test_a_full_disk_under_the_result_is_one_line():
    said = "jumpscope fake: no space left on the disk: free some and run again.\nexit 2\n"
    assert shell("> /dev/full") == ("", said)


def test_closed_streams_are_no_mistake():
    assert shell(">&- 2>/dev/null") == ("", "exit 0\n")
    assert shell("> /dev/null 2>&-", lines=3) == ("", "exit 0\n")


def test_an_umlaut_where_only_ascii_is_taken_is_an_escape():
    strict = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    out, said = shell("", lines=0, **strict)
    assert (out[:10], said) == ("\\xdcbung x", "exit 0\n")
    assert shell("", LC_ALL="C")[0].startswith("\u00dcbung x")


def test_presets_change_defaults_and_options_override_them():
    from app.commands.train import Train
    from training.train_config import PRESETS

    argv = ["--model", "m", "--corpus", "c", "--sites", "resid_post/1"]
    argv += ["--d-sae", "8", "--out", "o", "--l0-targets", "2"]
    plain = cli.parse("train", argv)
    short = [*argv, "--preset", "short_run", "--batch", "64"]
    chosen = cli.parse("train", short)
    assert isinstance(plain, Train)
    assert isinstance(chosen, Train)
    assert chosen.lrs == PRESETS["short_run"]["lrs"] != plain.lrs
    assert chosen.batch == 64
    assert chosen.loss == PRESETS["short_run"]["loss"]
    more = cli.parse("train", [*short, "--frequency-scale", "0.1", "--lrs", "1e-3", "2e-3"])
    assert isinstance(more, Train)
    assert more.lrs == (1e-3, 2e-3)
    assert more.loss == replace(PRESETS["short_run"]["loss"], frequency_scale=0.1)
    assert chosen.sites == ("resid_post/1",)


def test_eval_prints_json_alone(tiny_bundle, tiny_corpus, capsys):
    argv = ["eval", "--bundle", str(tiny_bundle.path), "--text", str(tiny_corpus)]
    assert main([*argv, "--tokens", "300", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["sae"] == "tiny"
    assert 300 <= result["tokens"] < 332
    assert result["delta_lm_loss"] == pytest.approx(result["ce_spliced"] - result["ce_base"])
    assert {"l0", "fvu", "kl", "dead", "high_frequency"} <= set(result)
    assert {"loss_recovered_mean", "loss_recovered_zero"} <= set(result)
    assert 0 < result["uniformity"] <= 1
    assert set(result["definitions"]) == set(result) - {
        "bundle",
        "sae",
        "text",
        "context_size",
        "definitions",
    }


def test_eval_names_the_saes_there_are(tiny_bundle, tiny_corpus, capsys):
    argv = ["eval", "--bundle", str(tiny_bundle.path), "--text", str(tiny_corpus)]
    assert main([*argv, "--sae", "other"]) == 2
    assert "bundle tiny has no SAE 'other': it has tiny." in one_line(capsys)


def test_options_win_over_the_environment(monkeypatch):
    from app.commands.serve import Demo

    monkeypatch.setenv("JUMPSCOPE_PORT", "9000")
    monkeypatch.setenv("JUMPSCOPE_OPEN_BROWSER", "0")
    from_environment, from_option = cli.parse("demo", []), cli.parse("demo", ["--port", "9001"])
    assert isinstance(from_environment, Demo)
    assert isinstance(from_option, Demo)
    assert from_environment.settings.port == 9000
    assert not from_environment.settings.open_browser
    assert from_option.settings.port == 9001


def test_inspect_names_the_format_of_the_file_at_hand(tiny_sae, tmp_path, capsys):
    """Not that of the file it was converted from."""
    write_sae(tiny_sae, tmp_path / "theirs", "gemma_scope")
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
    for folder, expected in (("theirs", "gemma_scope"), ("ours", "saelens")):
        capsys.readouterr()
        assert main(["inspect", str(tmp_path / folder), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["format"] == expected
