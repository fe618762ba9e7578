"""Reading an SAE takes the memory of the SAE: its file is nowhere in memory a second time."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

D_MODEL, D_SAE = 512, 49_152
SIZE = 4 * (2 * D_MODEL * D_SAE + D_MODEL + 2 * D_SAE)  # 202 MB

# Peak memory is the process's own, so each reading has a process to itself. What is imported and
# allocated before is not counted: a small SAE of the same format is read first.
PROGRAM = """
import re, sys
from pathlib import Path
import torch
from sae_core.formats import read_sae
torch.set_num_threads(1)
status = Path("/proc/self/status")
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1])
read_sae(Path(sys.argv[1]))
before = peak()
sae = read_sae(Path(sys.argv[2]))
grown = peak() - before
assert sae.cfg.d_sae == int(sys.argv[3])
sys.stdout.write(str(grown))
"""


def tensors(d_model: int, d_sae: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "w_enc": rng.standard_normal((d_model, d_sae), dtype=np.float32),
        "w_dec": rng.standard_normal((d_sae, d_model), dtype=np.float32),
        "b_enc": np.zeros(d_sae, np.float32),
        "b_dec": np.zeros(d_model, np.float32),
        "threshold": np.ones(d_sae, np.float32),
    }


def write(folder: Path, format_name: str, d_model: int, d_sae: int) -> Path:
    folder.mkdir()
    arrays = tensors(d_model, d_sae)
    if format_name == "npz":
        path = folder / "params.npz"
        np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    elif format_name == "npz, columns first":
        path = folder / "params.npz"
        np.savez(path, **{name: np.asfortranarray(a) for name, a in arrays.items()})  # pyright: ignore[reportArgumentType]
    else:
        path = folder / "params.safetensors"
        save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is in /proc")
@pytest.mark.parametrize("format_name", ["npz", "npz, columns first", "safetensors"])
def test_peak_memory_is_the_saes(format_name: str, tmp_path: Path) -> None:
    small = write(tmp_path / "small", format_name, 8, 16)
    large = write(tmp_path / "large", format_name, D_MODEL, D_SAE)
    assert large.stat().st_size == pytest.approx(SIZE, rel=0.01)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(small), str(large), str(D_SAE)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0.9 * SIZE < int(done.stdout) < 1.2 * SIZE
