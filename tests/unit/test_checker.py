"""Checks in the app: once for the same weights, one at a time, beside everything else."""

import json
import shlex
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
from app.endpoints import Api
from app.engine import checker
from app.sentences import without_paths
from app.service import overview
from app.settings import MOST_CHECK_TOKENS
from sae_core.bundle import Bundle
from sae_core.check import Check, sae_check, save_check
from sae_core.workspace import workspace
from tests import tiny
from tests.unit.service_support import SETTINGS, api_of, as_json

NAME = tiny.SAE_NAME
TOKENS = 700


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker, "HEAD_START", 0.0)


@pytest.fixture
def serve(tiny_corpus: Path) -> Callable[..., Api]:
    """A service that checks on the tiny corpus, which the tiny SAE was made for."""

    def make(bundle: Bundle, **changed: Any) -> Api:
        settings = {"check_tokens": TOKENS, "check_text": str(tiny_corpus)} | changed
        return api_of(bundle, replace(SETTINGS, **settings))

    return make


def declare(bundle: Bundle, **entries: Any) -> None:
    """Change what the tiny SAE's files say of it."""
    file = bundle.sae_path(NAME) / "cfg.json"
    written = json.loads(file.read_text())
    written["metadata"]["jumpscope"] |= entries
    file.write_text(json.dumps(written))


def a_check(verdict: Any = "green", content_hash: str | None = None) -> Check:
    return Check(
        verdict=verdict,
        sentence="So it is.",
        site="resid_post/1",
        l0=5.0,
        fvu=0.5,
        declared_l0=None,
        declared_fvu=None,
        tokens=TOKENS,
        sink_tokens=0,
        convention=None,
        tried=(),
        content_hash=content_hash,
        model_dtype="float32",
    )


class Stand:
    """In the place of `check_sae`: counts calls, and waits to be let go."""

    def __init__(self) -> None:
        self.calls = self.now = self.most = 0
        self.begun, self.go = threading.Event(), threading.Event()
        self.lock = threading.Lock()

    def __call__(self, lm: Any, sae: Any, **options: Any) -> Check:
        with self.lock:
            self.calls += 1
            self.now += 1
            self.most = max(self.most, self.now)
        self.begun.set()
        assert self.go.wait(20)
        with self.lock:
            self.now -= 1
        return a_check(content_hash=sae.cfg.metadata["content_hash"])


@contextmanager
def standing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    stand = Stand()
    monkeypatch.setattr("sae_core.check.check_sae", stand)
    try:
        yield stand
    finally:
        stand.go.set()


# Verdicts


def test_an_sae_read_as_declared_is_green(serve: Callable[..., Api], bundle: Bundle) -> None:
    here = serve(bundle).check()["check"]
    declare(bundle, measured={"l0": here["l0"], "fvu": here["fvu"]})
    actual = as_json(serve(bundle).check())
    assert (actual["sae"], actual["state"]) == (NAME, "green")
    assert actual["sentence"] == actual["check"]["sentence"]
    check = actual["check"]
    assert (check["l0"], check["declared_l0"]) == (here["l0"], here["l0"])
    assert check["tokens"] >= TOKENS
    assert check["content_hash"] == bundle.content_hash(NAME)


def test_a_wrong_site_is_red_and_named(serve: Callable[..., Api], bundle: Bundle) -> None:
    here = serve(bundle).check()["check"]
    declare(bundle, site="mlp_out/1", measured={"l0": here["l0"], "fvu": here["fvu"]})
    api = serve(bundle)
    actual = api.check()
    assert actual["state"] == "red"
    assert actual["check"]["reading"] == "resid_post/1"
    assert "resid_post/1" in actual["sentence"]
    assert overview.overview(api.workbench)["check"] == actual


def test_an_sae_without_a_site_is_checked_too(serve: Callable[..., Api], bundle: Bundle) -> None:
    without_site(bundle)
    actual = serve(bundle).check()
    assert actual["state"] in ("amber", "red")
    assert "do not say where they read" in actual["sentence"]


def without_site(bundle: Bundle) -> None:
    """Let the tiny SAE's files say no site."""
    file = bundle.sae_path(NAME) / "cfg.json"
    written = json.loads(file.read_text())
    del written["metadata"]["jumpscope"]["site"]
    written["metadata"]["hook_name"] = "somewhere"
    file.write_text(json.dumps(written))


@pytest.mark.parametrize("named", ["in a bundle", "by its folder"])
def test_what_is_recommended_for_an_sae_without_a_site_works(
    serve: Callable[..., Api],
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    named: str,
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    here = serve(bundle, check_text="", check_tokens=4000).check()["check"]
    declare(bundle, measured={"l0": here["l0"], "fvu": here["fvu"]})
    without_site(bundle)
    model, folder = str(bundle.path / "model"), str(bundle.sae_path(NAME))
    if named == "by its folder":
        bundle = workspace(model, [folder])
    api = serve(bundle, check_text="", check_tokens=4000)
    missing = overview.overview(api.workbench)["missing"]
    assert missing["reason"] == f"SAE {NAME} does not say at which site it reads"
    with pytest.raises(ValueError, match="does not say at which site") as refused:
        api.prompt_features("The river.")
    assert f"{missing['command']} {missing['does']}." in without_paths(str(refused.value))
    assert main(shlex.split(missing["command"])[1:]) == 0
    printed = capsys.readouterr().out
    said = api.check()["sentence"]
    assert said in printed
    command = said.partition("To say so: jumpscope ")[2].partition(" writes ")[0]
    assert main(shlex.split(command)) == 0
    (copy,) = tmp_path.glob("tiny-corrected*")
    capsys.readouterr()
    assert main(["inspect", "--check", "--model", model, "--sae", str(copy), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out).values()
    assert (result["site"], result["reading"]) == ("resid_post/1", None), result["sentence"]
    assert result["sentence"].startswith("At resid_post/1 L0 is")


def test_off_is_off(serve: Callable[..., Api], tiny_bundle: Bundle) -> None:
    api = serve(tiny_bundle, check_tokens=0)
    for actual in (api.check(), api.workbench.checker.begin(NAME)):
        assert actual["state"] == "off"
        assert "check_tokens" in actual["sentence"]
    assert overview.memory(api.workbench) is None, "nothing was loaded"


# What cannot be checked


def test_what_cannot_be_checked_says_why_and_is_tried_again(
    serve: Callable[..., Api], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    missing = tmp_path / "mine.txt"
    api = serve(tiny_bundle, check_text=str(missing))
    actual = api.check()
    assert (actual["state"], actual["check"]) == ("failed", None)
    assert missing.name in actual["sentence"]
    missing.write_text("The river follows the harbour at noon. " * 200)
    assert api.workbench.checker.state(NAME) == actual
    assert api.workbench.checker.begin(NAME) == actual
    api.workbench.checker.begin(NAME, again=True)
    assert api.check()["check"]["tokens"] >= TOKENS


def test_a_bug_is_logged_and_not_shown(
    serve: Callable[..., Api],
    tiny_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_args: Any, **_options: Any) -> Check:
        raise KeyError("secret")

    monkeypatch.setattr("sae_core.check.check_sae", fail)
    actual = serve(tiny_bundle).check()
    assert (actual["state"], actual["sentence"]) == ("failed", checker.FAILED)
    assert "secret" in caplog.text


def test_no_more_text_is_read_than_needed(
    serve: Callable[..., Api],
    tiny_bundle: Bundle,
    tiny_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    def look(_lm: Any, sae: Any, *, text: list[str], tokens: int, progress: Any) -> Check:
        seen.extend(text)
        return a_check(content_hash=sae.cfg.metadata["content_hash"])

    monkeypatch.setattr("sae_core.check.check_sae", look)
    serve(tiny_bundle, check_tokens=100).check()
    assert 1 < len(seen) < 60
    assert sum(map(len, seen)) == 100 * checker.CHARACTERS


# Threads


def test_nobody_waits_for_a_check_in_the_background(
    serve: Callable[..., Api], tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = serve(tiny_bundle)
    with standing(monkeypatch) as stand:
        assert api.workbench.checker.state(NAME)["state"] == "unchecked"
        api.workbench.load_in_background().join()
        assert stand.begun.wait(20)
        assert api.workbench.checker.begin(NAME)["state"] == "checking"
        assert overview.overview(api.workbench)["check"]["state"] == "checking"
        assert api.prompt_features("The river.")["totals"]["l0"] > 0
        stand.go.set()
        assert api.check()["state"] == "green"
        assert api.workbench.checker.state(NAME) == api.check()
        assert stand.calls == 1


def test_a_check_that_takes_too_long_goes_on(
    serve: Callable[..., Api], tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = serve(tiny_bundle, max_seconds=0.01)
    with standing(monkeypatch) as stand:
        api.workbench.checker.begin(NAME)
        with pytest.raises(ValueError, match=r"takes longer than 0\.01 seconds"):
            api.check()
        stand.go.set()
        # Not through the endpoint, whose patience is short.
        assert api.workbench.checker._checks[NAME].result.result(20)["state"] == "green"
        assert stand.calls == 1


def test_many_who_ask_at_once_share_one_check(
    serve: Callable[..., Api], tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = serve(tiny_bundle)
    with standing(monkeypatch) as stand, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(api.check) for _ in range(8)]
        assert stand.begun.wait(20)
        stand.go.set()
        assert {future.result(20)["state"] for future in asked} == {"green"}
        assert stand.calls == 1


def test_one_check_runs_at_a_time(
    serve: Callable[..., Api], chat_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = serve(chat_bundle)
    assert len(chat_bundle.sae_names) == 2
    with standing(monkeypatch) as stand:
        for name in chat_bundle.sae_names:
            api.workbench.checker.begin(name)
        assert stand.begun.wait(20)
        stand.go.set()
        for name in chat_bundle.sae_names:
            assert api.check(name)["state"] == "green"
        assert (stand.calls, stand.most) == (2, 1)


# What is kept


def test_other_weights_are_checked_anew(
    serve: Callable[..., Api], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = serve(bundle)
    with standing(monkeypatch) as stand:
        stand.go.set()
        api.check()
        bundle.hashes[NAME] = "0" * 64  # as after loading weights that were written meanwhile
        assert api.workbench.checker.state(NAME)["state"] == "unchecked"
        api.check()
        assert stand.calls == 2


def test_a_saved_check_is_taken_while_it_is_about_what_is_declared(
    serve: Callable[..., Api], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_check(bundle, NAME, a_check("amber", bundle.content_hash(NAME)))
    with standing(monkeypatch) as stand:
        stand.go.set()
        actual = serve(bundle, check_text="").check()
        assert (actual["state"], stand.calls) == ("amber", 0)
        assert actual["check"]["date"]
        # Another text, other declarations.
        assert serve(bundle).check()["state"] == "green"
        declare(bundle, site="resid_post/2")
        assert serve(bundle, check_text="").check()["state"] == "green"
        assert stand.calls == 2


def test_the_limit_of_the_setting_is_the_check_s() -> None:
    assert MOST_CHECK_TOKENS == sae_check._MOST_TOKENS
