"""Models that are loaded at the same time, and again after a load that failed."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from app.engine.workbench import Workbench
from app.sentences import FAILED
from app.settings import Settings
from sae_core.bundle import Bundle

ROOT = Path(__file__).parents[2]
# Nothing is imported yet when the threads begin, as when two apps are started in one notebook.
TOGETHER = """
import sys, threading
from app.settings import Settings
from app.engine.workbench import Workbench
from sae_core.bundle import Bundle

folders = sys.argv[1:]
start, problems = threading.Barrier(2 * len(folders)), []

def load(folder):
    workbench = Workbench(Settings(threads=1, device="cpu"), Bundle.open(folder))
    start.wait()
    try:
        engine = workbench.load()
        assert engine.lm.model.get_output_embeddings().weight.abs().sum() > 0
    except Exception as error:
        problems.append(repr(error))

threads = [threading.Thread(target=load, args=[folder]) for folder in 2 * folders]
for each in threads: each.start()
for each in threads: each.join()
sys.exit("; ".join(problems) or 0)
"""


def test_several_models_are_loaded_at_once(tiny_bundle: Bundle, chat_bundle: Bundle) -> None:
    folders = [str(tiny_bundle.path), str(chat_bundle.path)]
    run = subprocess.run(
        [sys.executable, "-c", TOGETHER, *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]


def test_loads_take_turns(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    from sae_core.language_model import load_language_model

    inside, most = [0], [0]
    load = AutoModelForCausalLM.from_pretrained

    def counted(*args: Any, **kwargs: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        try:
            return load(*args, **kwargs)
        finally:
            inside[0] -= 1

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", counted)
    import torch

    folder = str(tiny_bundle.path / tiny_bundle.model)
    threads = [
        threading.Thread(target=load_language_model, args=[folder, torch.float32]) for _ in range(4)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert most == [1]


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ValueError("the model /home/me/models/m is gone."), "the model m is gone."),
        (ImportError("cannot import name 'AutoConfig'"), FAILED),
    ],
)
def test_a_load_that_failed_is_tried_again(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, error: Exception, problem: str
) -> None:
    load, failures = Bundle.load_model, [error]

    def fails_once(self: Bundle, *args: Any, **kwargs: Any) -> Any:
        if failures:
            raise failures.pop()
        return load(self, *args, **kwargs)

    monkeypatch.setattr(Bundle, "load_model", fails_once)
    workbench = Workbench(Settings(threads=1, device="cpu", check_tokens=0), tiny_bundle)
    served = threading.Event()
    loading = workbench.load_in_background(after=served.wait)
    # A page that is served first asks on for as long as it says so.
    assert workbench.is_loading()
    served.set()
    loading.join()
    assert not workbench.is_loading()
    assert (workbench.engine, workbench.model_problem) == (None, problem)
    assert workbench.load() is workbench.engine
    assert workbench.model_problem is None


def test_after_the_model_the_first_search_is_made_ready(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    workbench = Workbench(Settings(threads=1, device="cpu", check_tokens=0), tiny_bundle)
    workbench.load_in_background().join()
    index = workbench.sources.index(workbench.sae_name())

    def reads_again(*_: Any) -> None:
        raise AssertionError("the words are read again")

    monkeypatch.setattr("sae_core.index.store.read_described_words", reads_again)
    assert index.search("train")["total"] > 0
