"""The page of a training run follows it, from before its first numbers to its report."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast

from app.commands.shared import served_bundle
from sae_core.index import so_far
from tests.browser.conftest import Site, served
from tests.browser.visual import SCHEMES, Scheme, State, canvas, inspect, opened_page
from tests.unit.test_run_report import make_run
from training.loop import Interrupted, train
from training.run_status import STATUS_FILE
from training.train_config import RunOptions, TrainConfig, short_run
from training.train_run import TrainRun

Opened = Callable[..., Page]
PATIENCE = 60.0
STEPS, EVERY = 200, 60
NAME = "resid_post-layer_1-l0_4"


class Pace:
    """Lets a run in this process take as many steps as the test says, then as it likes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._allowed = threading.Semaphore(0)
        self._free = threading.Event()
        take = TrainRun._take

        def held(run: TrainRun, *args: Any) -> None:
            while not self._free.is_set() and not self._allowed.acquire(timeout=0.05):
                pass
            take(run, *args)

        monkeypatch.setattr(TrainRun, "_take", held)

    def let(self, steps: int) -> None:
        """Let it take some more."""
        self._allowed.release(steps)

    def go(self) -> None:
        """Let it run to its end."""
        self._free.set()


@contextmanager
def running(cfg: TrainConfig, pace: Pace) -> Iterator[threading.Thread]:
    """The run at work in a thread, which is over after the block."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            train(cfg)
        except (Exception, Interrupted) as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield thread
    finally:
        pace.go()
        thread.join(PATIENCE)
    assert not thread.is_alive()
    assert not errors


def wait_for(path: Path) -> None:
    """Until there is such a file."""
    event = threading.Event()
    for _ in range(int(PATIENCE / 0.05)):
        if path.exists():
            return
        event.wait(0.05)
    raise AssertionError(f"{path.name} did not come")


@pytest.fixture
def cfg(
    tiny_model: Gemma2ForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tiny_corpus: Path,
    tmp_path: Path,
) -> TrainConfig:
    """Two hundred steps on the tiny model, with a checkpoint every sixty."""
    tiny_model.save_pretrained(tmp_path / "lm")
    tiny_tokenizer.save_pretrained(tmp_path / "lm")
    return short_run(
        model=str(tmp_path / "lm"),
        corpus=(str(tiny_corpus),),
        eval_corpus=(str(tiny_corpus),),
        eval_tokens=300,
        sites=("resid_post/1",),
        d_sae=64,
        out=str(tmp_path / "first"),
        l0_targets=(4,),
        batch=64,
        tokens=STEPS * 64,
        context_size=64,
        buffer_tokens=512,
        run=RunOptions(device="cpu", checkpoint_every=EVERY, index_tokens=300),
    )


def test_a_run_is_followed_from_its_start_to_its_end(
    cfg: TrainConfig, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each checkpoint is worth an index, however fast this run is.
    monkeypatch.setattr(so_far.Spacing, "due", lambda _self: True)
    pace, out = Pace(monkeypatch), Path(cfg.out)
    with running(cfg, pace) as run:
        wait_for(out / STATUS_FILE)
        with served(served_bundle(str(out), "", ()), check_tokens=0) as site:
            page = opened(f"{site.url}/run")
            state = page.locator("[data-part=state]")
            expect(state).to_contain_text("the first numbers come with step 2")
            features = opened(f"{site.url}/features")
            sentence = f"SAE {NAME} is not there yet: it comes with a checkpoint (every 60 steps)"
            expect(features.locator("main")).to_contain_text(sentence)
            expect(features.locator("#index-note")).to_be_empty()
            steer = opened(f"{site.url}/steer")
            expect(steer.locator("#index-note")).to_contain_text(sentence)
            steer.close()

            # Curves grow, and what the reader has chosen stays.
            pace.let(10)
            expect(state).to_have_text("At work: step 10 of 200.")
            loss = page.locator("details[data-curve=loss]")
            loss.locator("summary").click()
            expect(page).to_have_url(f"{site.url}/run?curve=loss")
            expect(loss.locator("tbody tr")).to_have_count(5)
            loss.locator("summary").evaluate("node => { node.dataset.mark = 'kept' }")
            pace.let(10)
            expect(state).to_have_text("At work: step 20 of 200.")
            expect(loss.locator("tbody tr")).to_have_count(10)
            expect(loss).to_have_attribute("open", "")
            expect(loss.locator("summary[data-mark=kept]")).to_be_focused()
            expect(page.locator(".stat", has_text="left (estimate)")).to_be_visible()
            expect(page.locator("[role=status][data-part=spoken]")).to_contain_text("10 % done")

            # The features of a checkpoint come by themselves, and are renewed by the next one.
            pace.let(EVERY - 20)
            expect(features.locator("main")).to_contain_text("fires on", timeout=60_000)
            note = features.locator("#index-note")
            expect(note).to_contain_text("of step 60 of 200", timeout=60_000)
            pace.let(EVERY)
            expect(note).to_contain_text("of step 120 of 200", timeout=60_000)

            # After the end the same page is the report.
            pace.go()
            run.join(PATIENCE)
            expect(state).to_have_text("Finished.")
            expect(page.get_by_role("heading", name="Final metrics")).to_be_visible()
            expect(page.locator("[data-part=metrics]")).to_contain_text("held-out tokens")
            expect(loss).to_have_attribute("open", "")
            expect(note).to_be_empty()
            expect(features.locator("main")).to_contain_text("fires on")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_is_wrong_to_the_eye(tmp_path: Path, browser: Browser, scheme: Scheme) -> None:
    folder, context = make_run(tmp_path / "first"), canvas(browser, scheme)
    with served(served_bundle(str(folder), "", ()), check_tokens=0) as site:
        state = State(name="run with a table", address="/run?curve=l0")
        with opened_page(context, site.url, state) as page:
            assert "run" in page.evaluate("visual.sheetNames()")
            complaints = inspect(page)
    context.close()
    assert not complaints, "\n".join(complaints)


def test_what_is_no_run_has_no_such_page(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/run")
    expect(page.locator("main")).to_contain_text("no training run's folder")
    expect(page.get_by_role("navigation").get_by_text("Run", exact=True)).to_have_count(0)
