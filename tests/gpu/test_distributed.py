"""Two GPUs of one host learn and index what one does, through NCCL.

Compiling takes minutes, on every process for each architecture, so one SAE alone is trained with
it. What takes long says so: each part is printed with the time, and processes that have not ended
say where they are.
"""

import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from app.cli import main
from sae_core.bundle import Bundle
from sae_core.index import Index, forwards, logits, prepared
from tests import processes, tiny
from tests.index_parts import assert_same, make_parts
from tests.integration.test_train_processes import cfg, lines, to
from training.loop import train
from training.train_config import RunOptions, TrainConfig

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

__all__ = ["cfg"]  # a fixture

SECONDS = 60
"""After which processes have to have ended."""


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs 2 CUDA devices of one host; here are {torch.cuda.device_count()}")
    monkeypatch.setenv("NCCL_NVLS_ENABLE", "0")


def say(what: str) -> None:
    sys.stderr.write(f"[{time.strftime('%X')}] {what}\n")


def learn_alike(
    cfg: TrainConfig, runs: dict[str, RunOptions], device: str, patch: pytest.MonkeyPatch
) -> None:
    """Runs of one process and of two, which do them one after another."""
    for module in ("sparse_step", "listed_step"):
        patch.setattr(f"training.{module}.MOST", 0.5)
    ones = [replace(to(cfg, f"{name}-1"), run=run) for name, run in runs.items()]
    twos = [replace(to(cfg, f"{name}-2"), run=run) for name, run in runs.items()]
    for one in ones:
        say(f"one process trains {Path(one.out).name}")
        train(one)
    say("two processes train")
    said = processes.finish(twos, 2, device, SECONDS)
    say("\n".join(line for line in said.splitlines() if " ms: " in line))
    for one, two in zip(ones, twos, strict=True):
        assert f": {one.run.step} steps" in said
        for name in (plan.name for plan in one.plans):
            first, second = (
                load_file(Path(c.out) / "saes" / name / "sae_weights.safetensors")
                for c in (one, two)
            )
            for key, tensor in first.items():
                # The model runs on other numbers of prompts at once, whose products CUDA's
                # libraries round otherwise than one batch's: more than the sums that are split.
                assert float((second[key] - tensor).norm() / tensor.norm()) < 1e-3, (name, key)
        for a, b in zip(lines(one), lines(two), strict=True):
            assert b["fvu"] == pytest.approx(a["fvu"], rel=1e-2)
            assert b["l0"] == pytest.approx(a["l0"], rel=1e-2)


def options(step: str, compiled: str, device: str = "cuda") -> RunOptions:
    given: dict[str, Any] = {"step": step, "compile": compiled, "device": device}
    return RunOptions(checkpoint_every=10, index_tokens=0, **given)


def test_two_gpus_learn_what_one_does(cfg: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = replace(cfg, precision="float32")
    runs = {step: options(step, "off") for step in ("sparse", "dense")}
    learn_alike(cfg, runs, "cuda", monkeypatch)


def test_two_gpus_learn_what_one_does_with_compiled_steps(
    cfg: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = replace(cfg, precision="float32", architectures=("standard",))
    learn_alike(cfg, {"compiled": options("dense", "default")}, "cuda", monkeypatch)


# Indexes by GPU tensors that are handed over where they are, and by way of the host.
INDEXING = """
import json, sys, time
import torch
from app.cli import main
from sae_core.index import forwards, logits, prepared, ranks, state_file
from training.processes import together

torch.set_num_threads(1)
forwards._PLACES, logits.ROWS, prepared.ROWS = 1, 24, 24
flat, on_gpu = ranks.flat, 0

def counted(state):
    global on_gpu
    tensors = flat(state)
    on_gpu += sum(tensor.is_cuda for tensor in tensors.values())
    return tensors

def say(what):
    print(time.strftime("%X"), what, file=sys.stderr, flush=True)

device, commands = json.loads(sys.argv[1])
say("started")
with together(device):
    for way, command in commands.items():
        ranks.flat = counted if way != "host" else lambda state: state_file.on_host(flat(state))
        say(f"by {way}: {main(command)}")
say(f"handed over from GPU to GPU: {on_gpu} tensors")
"""


def index_alike(
    bundle: Path, texts: list[Path], device: str, patch: pytest.MonkeyPatch
) -> list[str]:
    """What the processes have said; asserts that one and two have written the same."""
    patch.setattr(forwards, "_PLACES", 1)
    for module in (logits, prepared):
        patch.setattr(module, "ROWS", 24)
    # Without near misses nothing is computed by products of what happens to be counted together.
    ways = {"gpu": "5", "host": "5", "exact": "0", "one": "0"}
    paths, commands = {}, {}
    for way, near in ways.items():
        folder = bundle.with_name(way)
        shutil.copytree(bundle, folder)
        paths[way] = Bundle.open(folder).index_path(tiny.SAE_NAME)
        commands[way] = [
            *("index", "--bundle", str(folder), "--device", device, "--dtype", "float32"),
            *("--rows-per-batch", "3", "--checkpoint-tokens", "700", "--output-scores", "off"),
            *("--near-misses", near, "--map", "pca", "--corpus", *map(str, texts)),
        ]
    say("one process indexes")
    assert main(commands.pop("one")) == 0
    say("two processes index")
    given = [json.dumps([device, commands])]
    result = processes.ended(processes.started(INDEXING, given, 2), SECONDS)
    assert [status for status, _ in result] == [0, 0], result
    for _, said in result:
        say(said)
    assert Index.open(paths["one"]).meta["tokens"] > 2000
    assert_same(paths["gpu"], paths["host"])
    assert_same(paths["exact"], paths["one"])
    return [said for _, said in result]


def test_two_gpus_write_what_one_does_however_they_hand_over(
    tiny_model: Any,
    tiny_tokenizer: Any,
    tiny_sae: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = make_parts(tmp_path)
    bundle = tmp_path / "bundle"
    tiny.make_bundle(bundle, tiny_model, tiny_tokenizer, tiny_sae, texts[1])
    first, second = index_alike(bundle, texts, "cuda", monkeypatch)
    assert "from GPU to GPU: 0 tensors" in first
    assert "from GPU to GPU: 0 tensors" not in second
