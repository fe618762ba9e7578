"""The steps of the demo language model's training, with its records and validations."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TextIO

import torch
from jaxtyping import Float, Int
from torch import Tensor

from training.lm_config import LMConfig
from training.lm_model import SmallLM
from training.muon import BatchedMuon

log = logging.getLogger(__name__)

_STEPS_A_RECORD = 20
_SECONDS_A_LINE = 5.0

LossFunction = Callable[
    [Int[Tensor, "rows tokens"]], tuple[Float[Tensor, ""], Float[Tensor, "rows predictions"]]
]
"""The mean that is trained on, and each prediction's loss without a gradient."""

Record = dict[str, int | float]
"""One line of the metrics."""


def optimizers_for(model: SmallLM, cfg: LMConfig) -> list[torch.optim.Optimizer]:
    """Optimisers whose groups carry their peak learning rate as `peak`."""
    embedding = model.model.embed_tokens.weight
    others = [p for p in model.parameters() if p is not embedding]
    matrices = [p for p in others if p.ndim == 2]
    groups = [
        {"params": [embedding], "lr": cfg.embedding_lr, "weight_decay": cfg.weight_decay},
        {"params": [p for p in others if p.ndim < 2], "lr": cfg.embedding_lr, "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if cfg.optimizer == "muon":
        optimizers.append(BatchedMuon(matrices, lr=cfg.lr, weight_decay=cfg.weight_decay))
    else:
        groups.append({"params": matrices, "lr": cfg.lr, "weight_decay": cfg.weight_decay})
    fused = embedding.device.type == "cuda"
    optimizers.append(torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=fused))
    for group in (g for o in optimizers for g in o.param_groups):
        group["peak"] = group["lr"]
    return optimizers


@dataclass
class Run:
    """A run of training: what it works with, and what it has recorded."""

    cfg: LMConfig
    model: SmallLM
    losses: LossFunction
    batches: Iterator[Int[Tensor, "rows tokens"]]
    """Without end, on the model's device."""
    sample: Sequence[Int[Tensor, "rows tokens"]]
    """Batches to validate on, of the training batches' shape."""
    special: Int[Tensor, " specials"]
    """Ids that count in no validation."""
    metrics: TextIO | None
    """Receives every record as a line of JSON."""
    curve: list[Record] = field(default_factory=list)
    validations: list[Record] = field(default_factory=list)

    def validate(self) -> float:
        """Mean loss in nats of the sample's ordinary tokens.

        Gradients stay on, so that the function compiled for training serves here too.
        """
        nats, tokens = torch.zeros(2, device=self.special.device)
        for rows in self.sample:
            losses = self.losses(rows)[1]
            counts = ~torch.isin(rows[:, 1:], self.special)
            nats += (losses * counts).sum()
            tokens += counts.sum()
        return float(nats / tokens)

    def fit(self) -> Record:
        """Train to the end of the schedule; returns steps, tokens, seconds and rate.

        The rate leaves out the first step, which compiles, and the validations. Raises ValueError
        when the loss is no longer finite.
        """
        cfg = self.cfg
        optimizers = optimizers_for(self.model, cfg)
        groups = [g for o in optimizers for g in o.param_groups]
        parameters = list(self.model.parameters())
        total = torch.zeros((), device=self.special.device)
        norm = torch.zeros_like(total)
        step, recorded, progress, validating = 0, 0, 0.0, 0.0
        start = began = line_at = validated_at = time.perf_counter()
        while progress < 1:
            # Half a step further on than now: neither the first nor the last step is void.
            factor = cfg.lr_factor(min(1.0, progress + 0.5 / cfg.steps))
            for group in groups:
                group["lr"] = group["peak"] * factor
            loss, _ = self.losses(next(self.batches))
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, cfg.clip)
            for optimizer in optimizers:
                optimizer.step()
            self.model.zero_grad(set_to_none=True)
            total += loss.detach()
            step += 1
            if step == 1:
                first = float(total)  # waits for the device
                start = line_at = validated_at = time.perf_counter()
                log.info("first step: loss %.3f, %.1f s", first, start - began)
            progress = cfg.progress(step, time.perf_counter() - start)
            if step % _STEPS_A_RECORD and progress < 1:
                continue

            mean = float(total) / (step - recorded)
            recorded = step
            total.zero_()
            if not math.isfinite(mean):
                raise ValueError(f"the loss is {mean} at step {step}: lower lr or embedding_lr.")
            now = time.perf_counter()
            seconds = now - start
            entry = {
                "step": step,
                "seconds": round(seconds, 2),
                "tokens": step * cfg.tokens_a_step,
                "loss": round(mean, 4),
                "gradient_norm": round(float(norm), 4),
                "lr_factor": round(factor, 4),
            }
            self._record(self.curve, entry)
            if now - line_at >= _SECONDS_A_LINE or progress >= 1:
                line_at = now
                log.info(
                    "step %d, %.0f %%: loss %.4f, lr x %.3f, %.0f tokens/s, %.0f s left",
                    *(step, 100 * progress, mean, factor),
                    (step - 1) * cfg.tokens_a_step / (seconds - validating),
                    max(0.0, seconds * (1 / progress - 1)),
                )
            if now - validated_at >= cfg.validate_seconds or progress >= 1:
                value = self.validate()
                validated_at = time.perf_counter()
                validating += validated_at - now
                entry = {"step": step, "seconds": round(seconds, 2), "validation_loss": value}
                self._record(self.validations, entry)
                log.info("step %d: validation %.4f nats/token", step, value)
        seconds = time.perf_counter() - start
        return {
            "steps": step,
            "tokens_seen": step * cfg.tokens_a_step,
            "seconds": round(seconds, 1),
            "first_step_seconds": round(start - began, 1),
            "tokens_per_second": round((step - 1) * cfg.tokens_a_step / (seconds - validating)),
        }

    def _record(self, kind: list[Record], entry: Record) -> None:
        kind.append(entry)
        if self.metrics is not None:
            self.metrics.write(json.dumps(entry) + "\n")
            self.metrics.flush()
