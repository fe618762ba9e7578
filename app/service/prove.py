"""Proofs of steerings: the runs of an edit and of its controls, and what they come to."""

import platform
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from app.engine.memory import refused_when_full
from app.engine.workbench import Workbench
from app.requests import ProveRequest, RequestError
from app.service.provenance import setup_of, source_of
from app.service.steer import FRAME_SECONDS, PlannedRun, planned_run
from app.service.token_rows import finite
from sae_core.index import Index
from sae_core.tokens import TokenStream, partial_bytes

if TYPE_CHECKING:
    from app.engine.engine import Engine
    from sae_core.proof import Arm, Proof, Run

BY_FREQUENCY: Final = (
    "The {count} features whose frequency in the index is nearest to the target's, on a "
    "logarithmic scale."
)
BY_CHANCE: Final = (
    "No index knows how often features fire: {count} features drawn at random by the first seed."
)

DEFINITIONS: Final = {
    "firing_share": "Share of a run's new tokens on which the target feature fires when the model "
    "reads the text without any edit; special tokens are not counted.",
    "nll": "Mean negative log-likelihood of a run's new tokens under the model without edits, nats "
    "per token.",
    "push": "At each token a control changes the activation along another direction by a vector "
    "as long as the one by which the edit would change it there.",
    "wilson": "Wilson's score interval of 95 % for the rate of runs that pass.",
    "size": "How far a run's edits moved the activation: norm of the change over norm of the "
    "activation, the mean over the tokens that they changed.",
    "cosine": "Cosine of a control's direction with the target's decoder direction.",
}


def prove(workbench: Workbench, request: ProveRequest) -> Generator[dict[str, Any]]:
    """Run an edit against its controls, pushed by the same norm, and say whether it separates.

    Answers are those of docs/steering.md: while texts grow, how far they are; the last one holds
    all. Mistakes raise before the first; closing the iterator ends the generation within a token.
    """
    if request.temperature == 0:
        raise RequestError(
            "A proof needs a temperature above 0: at 0 every seed gives the same text.",
            "temperature",
        )
    run = planned_run(workbench, request)
    if request.edit >= len(run.edits):
        raise RequestError(
            f"There is no edit {request.edit}: this run has 0 to {len(run.edits) - 1}.", "edit"
        )
    target = run.edits[request.edit]
    for number, edit in enumerate(run.edits):
        if number != request.edit and (edit.sae, edit.feature) == (target.sae, target.feature):
            raise RequestError(
                f"Feature {target.feature} is edited twice: a proof is of one edit of it.",
                f"edits.{number}.feature",
            )
    yield from _stream(workbench, request, run)


def _stream(
    workbench: Workbench, request: ProveRequest, run: PlannedRun
) -> Generator[dict[str, Any]]:
    engine, settings = workbench.load(), workbench.settings
    target = run.edits[request.edit]
    # Only here: pages need no PyTorch, whose import takes seconds.
    from sae_core.proving import Proving

    controls, rule = _controls(workbench, run, target.sae, target.feature)
    note = None
    with (
        refused_when_full(
            f"{request.seeds} runs of an edit and of each control are too many for the memory of "
            f"{engine.device}: ask for fewer seeds or new tokens."
        ),
        engine.spliced(name for edit in run.edits for name in edit.sae_names) as lm,
    ):
        proving = Proving(
            lm,
            run.prompt.ids,
            [edit.edit for edit in run.edits],
            target=request.edit,
            controls=controls,
            seeds=[run.seed + k for k in range(request.seeds)],
            max_new_tokens=run.max_new_tokens,
            temperature=run.temperature,
            eos=engine.ends,
        )
        progress = {"tokens": 0, "of": run.max_new_tokens, "runs": proving.rows}
        yield {"progress": dict(progress), "done": False}
        deadline, sent = time.monotonic() + settings.max_seconds, 0.0
        with closing(proving.generated()) as steps:
            for progress["tokens"] in steps:
                if time.monotonic() > deadline and progress["tokens"] < run.max_new_tokens:
                    note = (
                        f"Stopped after {settings.max_seconds:g} seconds, the limit of one run: "
                        f"the texts have at most {progress['tokens']} new tokens."
                    )
                    break
                if time.monotonic() - sent >= FRAME_SECONDS:
                    sent = time.monotonic()
                    yield {"progress": dict(progress), "done": False}
        proof = proving.proof()
    # As far as it came, it can be run again.
    reached = progress["tokens"] if note else run.max_new_tokens
    yield {
        **_written(workbench, engine, proof, run, request, controls=rule),
        "settings": {
            "sae": run.sae,
            **run.prompt.as_written("prompt"),
            "edits": [edit.as_written() for edit in run.edits],
            **run.sampling,
            "max_new_tokens": reached,
            "edit": request.edit,
            "seeds": request.seeds,
        },
        "setup": _setup(workbench, engine, run),
        "progress": progress,
        "done": True,
        "note": note,
    }


def _controls(
    workbench: Workbench, run: PlannedRun, sae: str, feature: int
) -> tuple[list[int], str]:
    """Features that the target is compared with, none of them edited, and how they were chosen."""
    from sae_core.proof import FEATURES, like_frequency

    edited = {edit.feature for edit in run.edits if edit.sae == sae}
    source = workbench.sources.features(sae)
    if isinstance(source, Index):
        chosen = like_frequency(source.frequencies(), feature, FEATURES, sorted(edited))
        return chosen, BY_FREQUENCY.format(count=len(chosen))
    others = np.setdiff1d(np.arange(workbench.sources.d_sae(sae)), sorted(edited))
    count = min(FEATURES, len(others))
    drawn = np.random.default_rng(run.seed).choice(others, count, replace=False)
    return drawn.tolist(), BY_CHANCE.format(count=count)


def _written(
    workbench: Workbench,
    engine: "Engine",
    proof: "Proof",
    run: PlannedRun,
    request: ProveRequest,
    *,
    controls: str,
) -> dict[str, Any]:
    """A proof as its answer has it, but for what it was made of."""
    from sae_core.proof import fewest_runs

    target = run.edits[request.edit]
    features = [arm.feature for arm in proof.arms if arm.feature is not None]
    summaries = workbench.sources.features(target.sae).summaries(features)

    def arm_row(arm: "Arm") -> dict[str, Any]:
        rate = proof.rate(arm)
        low, high = rate.interval
        summary = {} if arm.feature is None else summaries[arm.feature]
        return {
            "kind": arm.kind,
            "feature": arm.feature,
            "signature": summary.get("signature"),
            "frequency": summary.get("frequency"),
            "cosine": finite(arm.cosine),
            "passed": rate.passed,
            "low": low,
            "high": high,
            "runs": [
                _run_row(engine, run.prompt.ids, each, passed)
                for each, passed in zip(arm.runs, proof.passes(arm), strict=True)
            ],
        }

    return {
        "target": {"sae": target.sae, "edit": target.as_answered()},
        "separates": proof.separates,
        "sentence": proof.sentence,
        "cost": proof.cost,
        "rule": proof.rule,
        "controls": controls,
        "fewest_seeds": fewest_runs(),
        "definitions": DEFINITIONS,
        "arms": [arm_row(arm) for arm in proof.arms],
    }


def _run_row(engine: "Engine", prompt: Sequence[int], run: "Run", passed: bool) -> dict[str, Any]:
    """One run; each token with the target's activation as the unedited model reads it."""
    vocabulary = engine.lm.vocabulary
    stream = TokenStream(vocabulary)
    for token in prompt:
        stream.push(token)
    texts = [stream.push(token) for token in run.ids]
    shown = partial_bytes(run.ids, texts, vocabulary)
    return {
        "seed": run.seed,
        "share": finite(run.share),
        "nll": finite(run.nll),
        "passed": passed,
        "edited_tokens": run.size.tokens if run.size else 0,
        "size": finite(run.size.asked) if run.size else None,
        "tokens": [
            {"id": token, "text": text, **({"bytes": part} if part else {}), "act": act}
            for token, text, part, act in zip(
                run.ids, texts, shown, run.reading.acts[:, 0].tolist(), strict=True
            )
        ],
    }


def _setup(workbench: Workbench, engine: "Engine", run: PlannedRun) -> dict[str, Any]:
    """What the numbers were made with: the same again gives the same digits."""
    import torch

    bundle = workbench.bundle
    setup = asdict(setup_of(engine, bundle))
    names = dict.fromkeys(name for edit in run.edits for name in edit.sae_names)
    return {
        **{name: setup[name] for name in ("model", "dtype", "device", "attention")},
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("jumpscope", "torch", "transformers")},
        "saes": [asdict(source_of(engine, bundle, name)) for name in names],
    }
