"""The page of a training run: what it shows while the run is at work, and when to ask for it again.

A run is read from its folder alone, whichever process it is in.
"""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.engine.workbench import Workbench
from app.web.numbers import count
from app.web.run_report import saes_of_run, settings_of_run, shown
from app.web.run_words import duration, spoken, state_sentence
from sae_core.files import stamp_of
from training.run_status import CHECKPOINTS, CONFIG_FILE, METRICS_FILE, status_of

if TYPE_CHECKING:
    from training.run_folder import RunRecord


def run(workbench: Workbench, query: Mapping[str, str]) -> dict[str, Any]:
    """The page; `curve` in the address is the key of the chart whose table is open."""
    if workbench.run is None:
        raise ValueError("What is served here is no training run's folder: it has no curves.")
    revision = run_revision(workbench)
    return run_page(_record(workbench.run, revision), query.get("curve", "")) | {
        "revision_of_run": revision
    }


def run_page(record: "RunRecord", curve: str = "") -> dict[str, Any]:
    """The template's values, but for the revision."""
    return {
        "run": record,
        "standing": state_sentence(record),
        "spoken": spoken(record),
        "saes_of_run": saes_of_run(record),
        "settings_of_run": settings_of_run(record),
        "share": 100 * record.step / record.cfg.steps,
        "strip": _strip(record),
        "begun": bool(record.saes),
        "chosen": curve,
        **(shown(record) if record.saes else {}),
    }


def _strip(record: "RunRecord") -> list[dict[str, str]]:
    cfg, speed, left = record.cfg, record.speed, record.seconds_left
    planned = cfg.steps * cfg.batch
    facts = [
        ("steps", f"{record.step:,}", f"Of {cfg.steps:,} steps of {cfg.batch:,} tokens each."),
        (f"tokens of {count(planned)}", count(record.tokens), "Every SAE is trained on them."),
    ]
    if speed is not None:
        words = "Over the last lines of metrics, checkpoints between them included."
        facts.append(("tokens per second", count(speed), words))
        seconds = record.saes[0].last["seconds"]
        facts.append(("of training so far", duration(seconds), "Interruptions left out."))
    if left:
        words = "The steps that are left, at the speed of lately; measuring comes after them."
        facts.append(("left (estimate)", duration(left), words))
    return [{"name": name, "value": value, "definition": words} for name, value, words in facts]


def run_revision(workbench: Workbench) -> str:
    """What changes when there is something new to show of the run; "" where there is none. It reads
    no more than where files stand.
    """
    folder = workbench.run
    if folder is None:
        return ""
    names = (CONFIG_FILE, METRICS_FILE, CHECKPOINTS)
    saved = sorted((folder / "saes").glob("*/cfg.json"))
    stamps = [stamp_of(folder / name) for name in names] + [stamp_of(path) for path in saved]
    return hashlib.sha256(repr((status_of(folder), stamps)).encode()).hexdigest()[:16]


@lru_cache(maxsize=2)
def _record(folder: Path, _revision: str) -> "RunRecord":
    """The run as it is at a revision, read once for everybody who looks at it."""
    # Only here: a run's settings take PyTorch, which other pages do not wait for.
    from training.run_folder import read_begun

    return read_begun(folder)
