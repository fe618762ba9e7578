"""What is said of a training run: where it stands, what comes next, how long that takes."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from training.run_folder import RunRecord

SAID_EVERY: Final = 10
"""Percent of the steps after which a listener is told again how far a run is."""


def state_sentence(run: "RunRecord") -> str:
    """Whether a run is at work or how it ended, and what to do about that."""
    if run.at_work:
        return f"At work: {_at_work(run)}"
    if run.finished:
        return "Finished."
    done = f"step {run.step:,} of {run.cfg.steps:,}"
    where = f"from step {run.checkpoint:,}" if run.checkpoint else "from the beginning"
    if run.state == "stopped":
        return f"Stopped: {run.said}"
    if run.state == "failed":
        return f"Failed at {done}: {run.said}"
    ended = (
        "It ended without a word (killed, or a power cut)"
        if run.state == "killed"
        else ("It is not at work")
    )
    return f"{ended}, at {done}: the same jumpscope train command goes on {where}."


def _at_work(run: "RunRecord") -> str:
    if not run.saes:
        # Only here: the words for what has no numbers yet need the trainer's own spacing of lines.
        from training.progress import log_every

        return (
            "the buffer is filled and the first steps are taken; the first numbers come with step "
            f"{log_every(run.cfg):,}."
        )
    if run.step >= run.cfg.steps:
        return "all steps are taken, and the SAEs are saved and measured."
    return f"step {run.step:,} of {run.cfg.steps:,}."


def spoken(run: "RunRecord") -> str:
    """What a screen reader says by itself: it changes with the state, the findings, and every tenth
    of the way.
    """
    holding = sorted({spell.check for _, spell in run.holding})
    doctor = f" The doctor finds: {', '.join(holding)}." if holding else ""
    if run.at_work and run.saes and run.step < run.cfg.steps:
        share = 100 * run.step / run.cfg.steps
        return f"Training, {SAID_EVERY * int(share / SAID_EVERY)} % done.{doctor}"
    return state_sentence(run) + doctor


def duration(seconds: float) -> str:
    """A time in words, in the two largest units at most."""
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if minutes < 60:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"
