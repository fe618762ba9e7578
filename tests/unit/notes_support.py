"""What the tests of the file of notes share: programs beside the test that use it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def started(program: str, *arguments: object) -> "subprocess.Popen[str]":
    """A Python program at work, given these arguments."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
