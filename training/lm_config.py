"""Settings of the demo language model's training: `LMConfig`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sae_core.placement import Device
from training.lm_model import AttentionKind, LMShape


@dataclass(frozen=True, kw_only=True)
class LMConfig:
    """How to train the demo's language model."""

    corpus: tuple[str, ...]
    """Parquet, JSONL or text files to train on; globs and folders are allowed."""
    validation: tuple[str, ...]
    """Files to measure on; never trained on."""
    out: Path
    """Folder to write to."""
    tokenizer: Path | None = None
    """Folder of a tokenizer to use; without one it is trained on `corpus`."""
    shape: LMShape = field(default_factory=LMShape)
    """Shape of the model."""
    context: int = 512
    """Tokens in a row, BOS included."""
    batch_rows: int = 128
    """Rows in a step."""
    steps: int = 10_000
    """Optimiser steps at most."""
    max_seconds: float | None = None
    """Seconds of training at most; the schedule ends with them. None: no limit."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """For the hidden matrices; the rest always takes AdamW."""
    lr: float = 5e-3
    """Peak learning rate of the hidden matrices, on AdamW's scale for Muon as well."""
    embedding_lr: float = 4e-3
    """Peak learning rate of embeddings and norms."""
    weight_decay: float = 0.1
    """Decay of all matrices, per unit of learning rate and step; norms have none."""
    warmup: float = 0.02
    """Share of the run over which the learning rate rises from zero."""
    decay: float = 0.7
    """Share of the run, at its end, over which the learning rate falls to zero."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    attention: AttentionKind = "eager"
    """Attention while training; flex is faster and needs CUDA. What is saved is the same."""
    compile: bool | None = None
    """Compile the model. None: on CUDA only."""
    validate_seconds: float = 60.0
    """Seconds from one validation to the next."""
    validation_rows: int = 1024
    """Rows of the fixed sample that validations take, rounded down to whole batches."""
    device: Device = "auto"
    """cuda, cpu, or auto: cuda where there is one."""
    seed: int = 0
    """Of weights, rows and samples."""
    probe: float = 0.0
    """Seconds of a trial run, which writes nothing; 0: train."""

    def __post_init__(self) -> None:
        if min(self.context - 1, self.batch_rows, self.steps) < 1:
            raise ValueError("context must be 2 or more, batch_rows and steps 1 or more.")
        if self.context > self.shape.max_positions:
            raise ValueError(
                f"context is {self.context} but the model has {self.shape.max_positions} positions:"
                " lower it or raise max_positions."
            )
        if self.max_seconds is not None and self.max_seconds <= 0:
            raise ValueError("max_seconds must be positive; leave it out for no limit.")
        if min(self.warmup, self.decay) < 0 or self.warmup + self.decay > 1:
            raise ValueError("warmup and decay are shares of the run: together at most 1.")

    @property
    def tokens_a_step(self) -> int:
        """Tokens that a step reads."""
        return self.batch_rows * self.context

    def progress(self, step: int, seconds: float) -> float:
        """Share of the run done after `step` steps and `seconds` of training; it ends at 1."""
        by_time = seconds / self.max_seconds if self.max_seconds else 0.0
        return max(step / self.steps, by_time)

    def lr_factor(self, progress: float) -> float:
        """The learning rate's share of its peak at this progress."""
        rising = progress / self.warmup if self.warmup else 1.0
        falling = (1 - progress) / self.decay if self.decay else 1.0
        return max(0.0, min(1.0, rising, falling))
