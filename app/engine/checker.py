"""Whether an SAE's numbers can be trusted: `sae_core.check`, run in the app beside its requests.

One check runs at a time, in a thread of its own, and takes the model's lock forward by forward, so
that requests interleave with it. Its result is kept for as long as the SAE has the same weights.
Where no text is chosen, one that was saved with the SAE (`jumpscope inspect --check --save`) is
taken as it is.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from app.engine.background import Background, StoppedError
from app.sentences import without_paths
from app.settings import Settings
from sae_core.bundle import Bundle
from sae_core.config import SAEConfig

if TYPE_CHECKING:
    from app.engine.engine import Engine

log = logging.getLogger(__name__)

FAILED: Final = "Something went wrong in the check; the server's log says what."
STOPPED: Final = "The app has been closed."
HEAD_START: Final = 2.0
"""Seconds that a check which nobody waits for leaves to other requests of the same time: the page
that shows the badge begins with an analysis."""
CHARACTERS: Final = 8
"""Characters of text read for each token to check on; tokens are rarely longer."""

State = dict[str, Any]
"""`sae`, its name; `state`: `off` (checks are switched off), `unchecked`, `checking`, `failed`, or
the verdict: `green`, `amber`, `red`; `sentence`: the verdict in words, or why there is none, else
None; `check`: `Check.as_dict` where there is a verdict, with a `date` if saved, else None."""


@dataclass(frozen=True)
class _Check:
    result: Future[State] = field(default_factory=Future)
    awaited: threading.Event = field(default_factory=threading.Event)
    """Whether somebody waits for it."""

    @property
    def has_failed(self) -> bool:
        return self.result.done() and self.result.result()["state"] == "failed"


class Checker:
    """Checks of a bundle's SAEs; `load` gives the engine. Safe to use from several threads."""

    def __init__(
        self,
        settings: Settings,
        bundle: Bundle,
        load: "Callable[[], Engine]",
        background: Background,
    ) -> None:
        self._settings, self._bundle, self._load = settings, bundle, load
        self._background = background
        self._checks: dict[str, _Check] = {}
        self._lock = threading.Lock()
        self._turn = threading.Lock()

    def state(self, name: str) -> State:
        """The state of an SAE's check now; begins nothing."""
        if not self._settings.check_tokens:
            return _state(name, "off", "Checks are switched off: check_tokens is 0.")
        with self._lock:
            check = self._checks.get(name)
        if check is None or self._outdated(name, check):
            return _state(name, "unchecked")
        return check.result.result() if check.result.done() else _state(name, "checking")

    def begin(self, name: str, *, again: bool = False) -> State:
        """The same, with the check begun if there is none; `again` tries a failed one anew."""
        if self._settings.check_tokens:
            self._begun(name, again)
        return self.state(name)

    async def finished(self, name: str) -> State:
        """The same once the check is over; whoever waits holds no thread."""
        if not self._settings.check_tokens:
            return self.state(name)
        check = self._begun(name, again=True)
        check.awaited.set()
        # Shielded: that somebody stops waiting ends no check.
        return await asyncio.shield(asyncio.wrap_future(check.result))

    def _begun(self, name: str, again: bool) -> _Check:
        with self._lock:
            check = self._checks.get(name)
            if check is None or self._outdated(name, check) or (again and check.has_failed):
                check = self._checks[name] = _Check()
                self._background.start(f"check {name}", partial(self._run, name, check))
            return check

    def _outdated(self, name: str, check: _Check) -> bool:
        """Whether a check is about other weights than those that were read last."""
        result = check.result.result()["check"] if check.result.done() else None
        loaded = self._bundle.hashes.get(name)
        return result is not None and loaded is not None and result["content_hash"] != loaded

    def _run(self, name: str, check: _Check) -> None:
        with self._turn:
            try:
                self._background.go_on()
                result = self._saved_or_measured(name, check.awaited)
                state = _state(name, result["verdict"], result["sentence"], result)
                log.info("check of SAE %s: %s", name, result["verdict"])
            except ValueError as error:
                state = _state(name, "failed", without_paths(str(error)))
            except StoppedError:
                state = _state(name, "failed", STOPPED)
            except Exception:  # a bug; whoever waits must hear of an end all the same
                log.exception("the check of SAE %s failed", name)
                state = _state(name, "failed", FAILED)
            check.result.set_result(state)

    def _saved_or_measured(self, name: str, awaited: threading.Event) -> dict[str, Any]:
        """The saved check if there is one, else a new one."""
        from sae_core.check import saved_check

        engine = self._load()
        if self._bundle.sae_config(name).site is None:
            # The model cannot hold it, but the check can say where it belongs.
            return self._measured(engine, name, self._bundle.load_sae(name, engine.device))
        with engine.spliced([name]) as lm:
            sae = lm.sae(name)
            saved = None if self._settings.check_text else saved_check(self._bundle, name)
            if saved is not None and _is_about(saved, sae.cfg):
                return saved
            awaited.wait(HEAD_START)
            self._background.go_on()
            return self._measured(engine, name, sae)

    def _measured(self, engine: "Engine", name: str, sae: Any) -> dict[str, Any]:
        from app.engine.memory import refused_when_full
        from sae_core.check import check_sae, with_source

        tokens = self._settings.check_tokens
        with refused_when_full(
            f"The check on {tokens:,} tokens does not fit into the memory of {engine.device}: "
            "lower check_tokens or max_sae_memory."
        ):
            result = check_sae(
                engine.lm,
                sae,
                text=self.texts(tokens),
                tokens=tokens,
                progress=self._background.go_on,
            ).as_dict()
        source = self._bundle.sae_source(name)
        return result | {"sentence": with_source(result["sentence"], source)}

    def texts(self, tokens: int) -> list[str] | None:
        """As much of the settings' text as `tokens` tokens need; None: the text that is shipped."""
        if not self._settings.check_text:
            return None
        from sae_core.corpus import documents

        texts, missing = [], CHARACTERS * tokens
        for document in documents([self._settings.check_text]):
            texts.append(document.text[:missing])
            missing -= len(document.text)
            if missing <= 0:
                break
        return texts


def _state(
    name: str, state: str, sentence: str | None = None, check: dict[str, Any] | None = None
) -> State:
    return {"sae": name, "state": state, "sentence": sentence, "check": check}


def _is_about(saved: dict[str, Any], cfg: SAEConfig) -> bool:
    """Whether a saved check is of these weights at the sites and numbers declared today."""
    from sae_core.check.conventions import as_declared
    from sae_core.check.judge import Declared

    here, declared = as_declared(cfg), Declared.by(cfg)
    now = {
        "content_hash": cfg.metadata.get("content_hash"),
        "site": here and here.where,
        "declared_l0": declared.l0,
        "declared_fvu": declared.fvu,
    }
    return now == {key: saved.get(key) for key in now}
