"""Runs in several processes, as torchrun starts them, but each one in the test's own hands."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from tests.waiting import STARTING, wait_until
from training import train_checkpoint
from training.train_config import TrainConfig

ROOT = Path(__file__).parents[1]
PYTHONPATH = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
"""Where a process of its own finds this tree, and what the test's has found."""

PATIENCE = 200.0
"""Seconds for a run, which takes some ten on an idle machine."""
_STORES: list[TCPStore] = []
"""Where the processes of each run have met. It outlives them, as torchrun's does."""

# Starting costs most of a small run: a process takes one configuration after another.
PROGRAM = """
import json, logging, os, sys, time
import torch
from training import listed_step, sparse_step
from training.train_config import TrainConfig
from training.loop import train
from training.processes import together
from training.train_run import TrainRun

rank, step = json.loads(sys.argv[3])
save = TrainRun.save

def save_and_stay(self):
    save(self)
    if self.step >= step:
        time.sleep(600)  # to be killed

if rank == int(os.environ["RANK"]):
    TrainRun.save = save_and_stay

# So narrow SAEs are too dense for sparse steps otherwise.
listed_step.MOST = sparse_step.MOST = 0.5
torch.set_num_threads(1)
logging.basicConfig(
    stream=sys.stderr, level=logging.INFO, format="%(relativeCreated)d ms: %(message)s"
)
try:
    with together(sys.argv[2]):
        for settings in json.loads(sys.argv[1]):
            cfg = TrainConfig.from_json(settings)
            logging.info("training to %s", cfg.out)
            train(cfg)
except ValueError as error:
    sys.stderr.write(f"{error}\\n")
    sys.exit(2)
"""


def start(
    cfgs: Sequence[TrainConfig],
    world: int,
    device: str = "cpu",
    stays: tuple[int, int] = (-1, 0),
) -> list[subprocess.Popen[str]]:
    """`world` processes that train `cfgs`, one after another; `device`: that of the settings. The
    process of rank `stays[0]` does nothing any more once it has saved step `stays[1]`.
    """
    settings = json.dumps([asdict(cfg) for cfg in cfgs])
    return started(PROGRAM, [settings, device, json.dumps(stays)], world)


def started(program: str, arguments: Sequence[str], world: int) -> list[subprocess.Popen[str]]:
    """`world` processes of a program in Python, as torchrun starts them."""
    # It listens from here on: nobody can take its port before the processes have imported PyTorch.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    _STORES.append(store)
    environment = {
        **os.environ,
        "PYTHONPATH": PYTHONPATH,
        "OMP_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(world),
    }
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def ended(
    processes: Sequence[subprocess.Popen[str]], seconds: float = PATIENCE
) -> list[tuple[int, str]]:
    """Exit status and stderr of each; AssertionError with all that they said, and with where each
    one is at work, if they have not ended after so many seconds.
    """
    deadline, late, result = time.monotonic() + seconds, False, []
    try:
        for process in processes:
            try:
                said = process.communicate(timeout=max(deadline - time.monotonic(), 0.1))[1]
            except subprocess.TimeoutExpired:
                late = True
                process.send_signal(signal.SIGABRT)  # says where it is
                said = process.communicate(timeout=20)[1]
            result.append((process.returncode, said))
    finally:
        for process in processes:
            process.kill()
    assert not late, "\n\n".join([f"not ended after {seconds} s:", *(said for _, said in result)])
    return result


def finish(
    cfgs: Sequence[TrainConfig], world: int, device: str = "cpu", seconds: float = PATIENCE
) -> str:
    """Run to the end; returns what the first process said on stderr."""
    result = ended(start(cfgs, world, device), seconds)
    assert [status for status, _ in result] == [0] * world, result
    return result[0][1]


def kill_one(cfg: TrainConfig, world: int, rank: int, step: int) -> list[tuple[int, str]]:
    """Start `cfg` and kill -9 one process once `step` is saved, while the others wait for it."""
    folder = Path(cfg.out) / "checkpoints"
    processes = start([cfg], world, stays=(rank, step))
    try:
        wait_until(
            lambda: (
                any(process.poll() is not None for process in processes)
                or any(saved >= step for saved, _ in train_checkpoint.list_saved(folder))
            ),
            STARTING,
        )
        for process in processes:
            assert process.poll() is None, process.communicate()[1]
        processes[rank].send_signal(signal.SIGKILL)
        return ended(processes)
    finally:
        for process in processes:
            process.kill()
