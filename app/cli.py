"""The command `jumpscope`: finds the subcommand, runs it, and turns mistakes into one line.

Each subcommand is a frozen dataclass in `app.commands` whose fields are its options; its module is
imported only when it is asked for, so that `jumpscope --help` needs neither PyTorch nor Gradio.

Results go to stdout, all else to stderr. Exit status: 0 done, 1 a bug (with its traceback), 2 the
user's mistake or a refusal of the disk's or the device's (one line), 130 interrupted, 141 cut off
because nobody reads its messages any more.
"""

import contextlib
import importlib
import io
import logging
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn, Protocol, TextIO

import tyro

from sae_core.files import disk_failure


class Command(Protocol):
    """A subcommand with its options filled in."""

    def execute(self) -> str | None:
        """Do the work; what is returned is printed on stdout."""


COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("app.commands.serve:Demo", "open the app on the bundled demo"),
    "serve": ("app.commands.serve:Serve", "open the app on a bundle"),
    "train": ("app.commands.train:Train", "train SAEs on a language model's activations"),
    "report": ("app.commands.report:Report", "write a training run as one HTML page"),
    "eval": ("app.commands.evaluate:Evaluate", "measure what an SAE costs the language model"),
    "index": ("app.commands.index:BuildIndex", "index what every feature of an SAE fires on"),
    "export": ("app.commands.export:Export", "write an index as Parquet or for Neuronpedia"),
    "effects": (
        "app.commands.effects_command:EffectsOfFeatures",
        "say which features carry a prediction",
    ),
    "prove": ("app.commands.prove_command:Prove", "say whether it is this feature that steers"),
    "explain": (
        "app.commands.explain_command:Explain",
        "have a language model explain features, and score it",
    ),
    "ratings": (
        "app.commands.ratings_command:Ratings",
        "print the rates of people's blind ratings",
    ),
    "notes": (
        "app.commands.notes_command:NotesCommand",
        "print, export or import what you keep about features",
    ),
    "convert": ("app.commands.convert:Convert", "write an SAE in another on-disk format"),
    "inspect": ("app.commands.inspect:Inspect", "list what a bundle holds"),
    "list": ("app.commands.list:ListSAEs", "list the SAEs of a repository on the hub"),
}
"""Name -> where its dataclass stands, and one line for the overview."""

_STYLE = (tyro.conf.OmitArgPrefixes,)

# Modules that an extra brings, to say which one is missing.
_EXTRAS = {"gradio": "app", "tensorboard": "train"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `jumpscope` with `argv` (the process's own by default) and return its exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    name = argv[0] if argv and argv[0] in COMMANDS else ""
    prog = f"jumpscope {name}".rstrip()
    try:
        return _answer(argv)
    except KeyboardInterrupt as stop:
        # A command that can go on later says so in the exception's text.
        sys.stderr.write(f"{prog}: {str(stop) or 'interrupted.'}\n")
        return 130
    except _ReaderGoneError:
        _silence(sys.stdout)
        return 0
    except BrokenPipeError:
        # The reader of what is said on the way has gone, and the work is not done.
        _silence(sys.stdout, sys.stderr)
        return 141
    except Exception as error:  # of any library; bugs go on with their traceback
        sentence = _sentence(error)
        if sentence is None or os.environ.get("JUMPSCOPE_DEBUG"):
            raise
        return _complain(prog, sentence)


class _ReaderGoneError(Exception):
    """The reader of our output (head, less) has gone, with the work done."""


def _answer(argv: Sequence[str]) -> int:
    """What `main` does, before its errors are turned into lines."""
    if not argv or argv[0] in ("-h", "--help"):
        _print(_overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        _print(f"jumpscope {version('jumpscope')}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        raise ValueError(f"unknown command {name!r}: use one of {', '.join(COMMANDS)}.")
    return _run(name, rest)


def _print(text: str) -> None:
    """A line of the result; what the terminal's encoding lacks is written as an escape."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise _ReaderGoneError from error
    except OSError:
        # What could not be written would be tried once more at the end, with a complaint.
        _silence(sys.stdout)
        raise


def _silence(*streams: TextIO) -> None:
    """Write no more to these streams: what is left in them goes nowhere."""
    for stream in streams:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run(name: str, args: Sequence[str]) -> int:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)  # a line for each request otherwise
    command = parse(name, args)
    # Whatever a library prints, stdout stays the result's alone.
    with contextlib.redirect_stdout(sys.stderr):
        result = command.execute()
    if result is not None:
        _print(result)
    return 0


def parse(name: str, args: Sequence[str]) -> Command:
    """The subcommand's dataclass filled from `args`.

    ValueError with one sentence where they do not fit; SystemExit(0) after printing its help.
    """
    module, _, attribute = COMMANDS[name][0].partition(":")
    options_class: type[Command] = getattr(importlib.import_module(module), attribute)
    # Options whose defaults depend on another option (a preset's) are a class of their own.
    if variant := getattr(options_class, "variant", None):
        options_class = variant(args)
    prog = f"jumpscope {name}"
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(options_class, prog=prog, args=args, config=_STYLE)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(f"{_one_line(said.getvalue())} Try {prog} --help.") from stop


def _one_line(box: str) -> str:
    """The message in tyro's framed report, with its first suggestion."""
    # Colours off; frames of lines, or of blanks where stdout takes no more than ASCII.
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box).translate({ord("│"): " ", ord("─"): "-"})
    lines = [line[2:].rstrip() for line in plain.splitlines() if line.startswith("  ")]
    rules = [i for i, line in enumerate(lines) if line.startswith("--") and not line.strip("-")]
    body = lines[: rules[0] if rules else None]
    if body and body[0].startswith("Missing from"):
        # Options stand four columns in, their help text further.
        names = [line.split()[0] for line in body if re.match(r" {4}\S", line)]
        return f"{', '.join(names)} must be given."
    message = re.sub(r"^Error parsing \w+: ", "", " ".join(line.strip() for line in body))
    if "Perhaps you meant:" in lines:
        message += f"; perhaps you meant {lines[lines.index('Perhaps you meant:') + 1].strip()}"
    return message if message.endswith((".", "?")) else f"{message}."


def _sentence(error: Exception) -> str | None:
    """The line for what stopped a command; None for a bug, whose traceback is wanted.

    The one place where the errors of the system and of libraries are told from bugs.
    """
    if isinstance(error, ModuleNotFoundError):
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        return extra and f"{error.name} is not installed: run pip install 'jumpscope[{extra}]'."
    if isinstance(error, ValueError):
        return " ".join(str(error).split()) or type(error).__name__
    if sentence := disk_failure(error):
        return sentence
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "the memory is full: use fewer tokens or rows at once, or a smaller SAE."
    if isinstance(error, OSError):
        if error.filename is not None and error.strerror:
            return f"{error.filename}: {error.strerror.lower()}."
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _complain(prog: str, sentence: str) -> int:
    sys.stderr.write(f"{prog}: {sentence}\n")
    return 2


def _overview() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jumpscope COMMAND [OPTIONS]",
            "",
            "Train, index, browse and steer sparse autoencoders spliced into a language model.",
            "",
            *lines,
            "",
            "jumpscope COMMAND --help shows a command's options; jumpscope --version the version.",
        ]
    )


def _take_streams() -> None:
    """Streams that take every text: one that was closed takes it to nowhere, and what an encoding
    such as ASCII lacks (a name with an umlaut, say) is written as an escape.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for the process's life
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run() -> NoReturn:
    """The installed command: `main` as a process."""
    _take_streams()
    try:
        status = main()
    except SystemExit as stop:  # after a command's help
        status = stop.code
    try:
        sys.stdout.flush()
    except OSError:
        _silence(sys.stdout)
    if status in (130, 141):
        # At once: threads may be at work still, and an interpreter that is torn down under them
        # ends in complaints that nobody can act on.
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
