"""The end of a run: every SAE folded and saved, then measured as it was saved."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tqdm import tqdm

from sae_core.bundle import BUNDLE_FILE, Bundle, write_bundle
from sae_core.config import SAEConfig, Site
from sae_core.corpus import TokenRow, documents, token_rows
from sae_core.evaluation import evaluate_together, take_tokens
from sae_core.formats.saelens import load_sae, save_sae, update_metadata
from sae_core.splice import SplicedLM
from training.doctor import Finding, Goal, examine
from training.progress import read_metrics
from training.run_provenance import file_names, model_name, model_place, settings
from training.run_status import METRICS_FILE
from training.sae_trainer import SAETrainer
from training.train_config import TrainConfig
from training.trained_form import folded

log = logging.getLogger(__name__)

MOST_BESIDE = 2**31
"""Bytes of weights of SAEs that are measured together."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """One trained SAE."""

    name: str
    folder: Path
    measured: dict[str, Any] | None
    """As in `sae_core.evaluation.Evaluation`, with `text`, `context_size` and `model_dtype`; None
    if there was no held-out text."""
    findings: tuple[Finding, ...]
    """What the doctor says of the last line of its metrics."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "folder": str(self.folder)}


def save_and_measure(
    cfg: TrainConfig,
    model: Any,
    tokenizer: Any,
    trainers: list[SAETrainer],
    facts: dict[str, Any],
) -> list[TrainResult]:
    """Write OUT/saes/NAME for every SAE, with settings, facts and measured quality in its metadata.

    `facts`: of how they were trained (`TrainRun.facts`). OUT becomes a bundle of these SAEs and
    their model, which `jumpscope serve` opens.
    """
    facts = facts | {"saes_in_run": len(trainers)}
    saes = Path(cfg.out) / "saes"
    results = [
        save_trained(cfg, tokenizer, trainer, facts, saes / trainer.plan.name)
        for trainer in trainers
    ]
    if cfg.eval_corpus and cfg.eval_tokens:
        held_out = token_rows(
            documents(cfg.eval_corpus, options=cfg.text), tokenizer, cfg.context_size
        )
        rows = take_tokens(held_out, cfg.eval_tokens)
        measured: dict[str, dict[str, Any]] = {}
        for together in _measured_together(cfg, trainers):
            measured |= _measure(cfg, model, tokenizer, rows, together)
        results = [replace(result, measured=measured[result.name]) for result in results]
    else:
        log.warning("no eval_corpus: the saved SAEs are not measured.")
    write_run_bundle(cfg, [result.name for result in results])
    return results


def save_trained(
    cfg: TrainConfig, tokenizer: Any, trainer: SAETrainer, facts: dict[str, Any], folder: Path
) -> TrainResult:
    """Write one SAE, as it is now, to `folder`; `facts` of its training go into its metadata."""
    name = trainer.plan.name
    lines = read_metrics(Path(cfg.out) / METRICS_FILE, name)
    goal = Goal(cfg, trainer.plan, trainer.limits)
    findings = tuple(examine(lines, goal)) if lines else ()
    sae_cfg = SAEConfig(
        architecture=trainer.plan.architecture,
        d_model=len(trainer.parameters["b_dec"]),
        d_sae=cfg.d_sae,
        site=trainer.plan.site,
        model_name=model_name(cfg.model),
        prepend_bos=tokenizer.bos_token_id is not None,
        context_size=cfg.context_size,
        k=round(trainer.plan.l0_target or 0) if trainer.plan.architecture == "topk" else None,
        metadata={
            "training": {
                "settings": settings(cfg),
                "l0_target": trainer.plan.l0_target,
                "lambda": trainer.plan.lambda_,
                "lr": trainer.plan.lr,
                "scale": trainer.scale,
                **facts,
                "findings": [finding.sentence for finding in findings],
            }
        },
    )
    dtype = getattr(torch, cfg.save_dtype)
    try:
        save_sae(folded(trainer.parameters, trainer.scale, sae_cfg), folder, dtype)
    except SafetensorError as error:
        raise ValueError(
            f"{folder} cannot be written ({error}): free some space, then give the same "
            "command again."
        ) from error
    return TrainResult(name=name, folder=folder, measured=None, findings=findings)


def _measured_together(cfg: TrainConfig, trainers: list[SAETrainer]) -> list[list[str]]:
    """Lists of names of SAEs of one site, each of as many as `MOST_BESIDE` bytes hold."""
    by_site: dict[Site, list[str]] = {}
    for trainer in trainers:
        by_site.setdefault(trainer.plan.site, []).append(trainer.plan.name)
    width = max(len(trainer.parameters["b_dec"]) for trainer in trainers)
    count = max(1, MOST_BESIDE // (8 * width * cfg.d_sae))  # two float32 matrices
    return [
        names[start : start + count]
        for names in by_site.values()
        for start in range(0, len(names), count)
    ]


def _measure(
    cfg: TrainConfig, model: Any, tokenizer: Any, rows: Sequence[TokenRow], names: list[str]
) -> dict[str, dict[str, Any]]:
    """Measure saved SAEs of one site, as they were saved, and write it into their metadata."""
    device = next(model.parameters()).device
    folders = {name: Path(cfg.out) / "saes" / name for name in names}
    saes = {name: load_sae(folder, device) for name, folder in folders.items()}
    lm = SplicedLM(model, tokenizer, saes)
    total = sum(len(row.ids) - int(tokenizer.bos_token_id is not None) for row in rows)
    title = f"measuring {names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
    with tqdm(total=total, unit="token", unit_scale=True, desc=title) as bar:
        evaluations = evaluate_together(lm, names, rows, progress=bar.update)
    measured = {
        name: {
            **{k: v if math.isfinite(v) else None for k, v in evaluation.as_dict().items()},
            "text": file_names(cfg.eval_corpus),
            "context_size": cfg.context_size,
            "model_dtype": str(model.dtype).removeprefix("torch."),
        }
        for name, evaluation in evaluations.items()
    }
    for name, folder in folders.items():
        update_metadata(folder, measured=measured[name])
    return measured


def title_of(cfg: TrainConfig, names: Sequence[str]) -> str:
    """What the bundle of a run's SAEs is called."""
    return f"{len(names)} SAEs on {model_name(cfg.model)}" if names[1:] else names[0]


def write_run_bundle(cfg: TrainConfig, names: list[str]) -> None:
    """Make the run's folder a bundle of these SAEs, or put them into the one that it is."""
    out = Path(cfg.out).resolve()
    model = model_place(cfg.model)
    if Path(model).is_relative_to(out):
        # By the way to it where it lies in the bundle, so that both can move together; no way in a
        # bundle leads out of it.
        model = str(Path(model).relative_to(out))
    if not (out / BUNDLE_FILE).exists():
        write_bundle(out, name=out.name, title=title_of(cfg, names), model=model, saes=names)
        return
    # The run's earlier bundle, in which the user may have put words and SAEs.
    before = Bundle.open(out)
    write_bundle(
        out,
        name=before.name,
        title=before.title,
        model=model,
        saes=list(dict.fromkeys([*before.sae_names, *names])),
        examples=before.examples,
    )
