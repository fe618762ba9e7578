"""Memory that analyses have freed is the system's again, not kept in pieces."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Large blocks that come and go, and small ones between them that stay, as analyses make them.
PIECES = """
import sys
import numpy as np, psutil
from app.engine.memory import give_back_freed_memory

if sys.argv[1] == "given":
    give_back_freed_memory()
before, kept = psutil.Process().memory_info().rss, []
for number in range(60):
    blocks = [np.ones(int(1e6 * size), np.float32) for size in (1, 3, 5, 7)]
    kept.append(np.ones(20_000 + number, np.float32))
    del blocks[::2]
    kept.append(np.ones(10_000 + number, np.float32))
    del blocks
print((psutil.Process().memory_info().rss - before) / 1e6)
"""


def grown(way: str) -> float:
    run = [sys.executable, "-c", PIECES, way]
    return float(subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator alone keeps such blocks")
def test_freed_blocks_are_given_back() -> None:
    kept = 60 * 30_000 * 4 / 1e6
    assert grown("given") < kept + 15 < grown("kept")
