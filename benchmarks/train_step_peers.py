"""Other trainers of sparse autoencoders, in their own loops: what `train_step.py` compares with.

Each peer is measured with the fastest settings that it documents, its loop unmodified: the loop
asks a `Feed` for batches, and the time between two requests is a step. L0 is matched by one
threshold for all features of a library's default initial weights, and a learning rate of 1e-9 keeps
it there; what is computed is the same.

These packages are needed for the benchmark alone. Those that they import but do not use in a step
are stood in for by empty modules where they are not installed (`stubs`).
"""

import importlib.util
import itertools
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

import torch
from torch import Tensor

DEVICE = "cuda"
UNUSED = (
    "babe",
    "circuitsvis",
    "datasets",
    "dotenv",
    "nltk",
    "nnsight",
    "plotly",
    "plotly_express",
    "transformer_lens",
    "umap",
    "wandb",
    "zstandard",
)
"""Imported by the peers, but not used by a training step."""


class _Nothing:
    """What an absent package is taken to hold: can be inherited from and subscripted, not used."""

    def __class_getitem__(cls, _: Any) -> type:
        return cls


class _Absent(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        top = fullname.partition(".")[0]
        return ModuleSpec(fullname, self, is_package=True) if top in self.absent else None

    def __init__(self, absent: set[str]) -> None:
        self.absent = absent

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


@contextmanager
def stubs() -> Iterator[list[str]]:
    """Empty modules in place of those of `UNUSED` that are not installed; yields their names."""
    absent = [name for name in UNUSED if importlib.util.find_spec(name) is None]
    finder = _Finder(set(absent))
    sys.meta_path.append(finder)
    try:
        yield absent
    finally:
        sys.meta_path.remove(finder)


class Feed:
    """Batches in rotation, and a CUDA event whenever one is asked for."""

    def __init__(self, batches: Sequence[Tensor], warm_up: int, steps: int) -> None:
        """`warm_up` steps are not measured, then `steps` are."""
        self.total = warm_up + steps
        self.peak_bytes = 0
        self._batches = batches
        self._warm_up = warm_up
        self._events: list[torch.cuda.Event] = []

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        taken = len(self._events)
        if taken == self.total:
            raise StopIteration
        if taken == self._warm_up:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self._mark()
        return self._batches[taken % len(self._batches)]

    def _mark(self) -> None:
        self._events.append(torch.cuda.Event(enable_timing=True))
        self._events[-1].record()

    def milliseconds(self) -> list[float]:
        """Of each measured step; call when the loop is over, before any memory is taken."""
        assert len(self._events) == self.total, "the loop asked for fewer batches than it should"
        self._mark()
        torch.cuda.synchronize()
        self.peak_bytes = torch.cuda.max_memory_allocated()
        measured = self._events[self._warm_up :]
        return [a.elapsed_time(b) for a, b in itertools.pairwise(measured)]


def matching_threshold(x: Tensor, W_enc: Tensor, l0: int) -> float:
    """The threshold above which `l0` of the pre-activations `x @ W_enc` are, on average."""
    z = (x[:512].float() @ W_enc.float()).flatten()
    return float(z.topk(l0 * min(512, len(x))).values[-1])


def mean_l0(x: Tensor, W_enc: Tensor, b_enc: Tensor, threshold: Tensor | float) -> float:
    """Active features per token of a batch."""
    total = sum(int(((part @ W_enc + b_enc) > threshold).sum()) for part in x.split(512))
    return total / len(x)


@torch.no_grad()
def _l0_of(sae: Any, x: Tensor, threshold: Tensor) -> float:
    return mean_l0(x, sae.W_enc.float(), sae.b_enc.float(), threshold)


def saelens(
    batches: Sequence[Tensor], d_sae: int, l0: int, feed: Feed, *, compiled: bool
) -> dict[str, Any]:
    """SAELens' JumpReLU trainer under autocast, `compile_sae` if `compiled`."""
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    batch, d_model = batches[0].shape
    torch.manual_seed(0)
    sae = JumpReLUTrainingSAE(
        JumpReLUTrainingSAEConfig(d_in=d_model, d_sae=d_sae, device=DEVICE, dtype="float32")
    )
    sae.to(DEVICE)
    first = batches[0]
    with torch.no_grad():
        sae.threshold.fill_(matching_threshold(first, sae.W_enc, l0))
    if compiled:
        # As LanguageModelSAETrainingRunner does for compile_sae.
        sae.training_forward_pass = torch.compile(sae.training_forward_pass)  # pyright: ignore[reportAttributeAccessIssue]
    cfg = SAETrainerConfig(
        total_training_samples=feed.total * batch,
        train_batch_size_samples=batch,
        lr=1e-9,
        lr_end=1e-10,
        device=DEVICE,
        autocast=True,
    )
    SAETrainer(cfg, sae, feed).fit()
    settings = "autocast=True" + (", compile_sae=True" if compiled else "") + ", lr 1e-9"
    return {
        "settings": settings,
        "milliseconds": feed.milliseconds(),
        "l0": _l0_of(sae, first, sae.threshold),
    }


def dictionary_learning(
    batches: Sequence[Tensor], d_sae: int, l0: int, feed: Feed
) -> dict[str, Any]:
    """dictionary_learning's JumpReLU trainer with `autocast_dtype` bfloat16."""
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer
    from dictionary_learning.training import trainSAE

    kept: list[Any] = []

    def trainer(**settings: Any) -> Any:
        made = JumpReluTrainer(**settings)
        with torch.no_grad():
            made.ae.threshold.fill_(matching_threshold(batches[0], made.ae.W_enc, l0))
        kept.append(made)
        return made

    settings = {
        "trainer": trainer,
        "steps": feed.total,
        "activation_dim": batches[0].shape[1],
        "dict_size": d_sae,
        "layer": 0,
        "lm_name": "none",
        "lr": 1e-9,
        "warmup_steps": 0,
        "sparsity_warmup_steps": 1,
        "target_l0": float(l0),
        "device": DEVICE,
    }
    trainSAE(feed, [settings], steps=feed.total, device=DEVICE, autocast_dtype=torch.bfloat16)
    ae = kept[0].ae
    return {
        "settings": "autocast_dtype=bfloat16, lr 1e-9",
        "milliseconds": feed.milliseconds(),
        "l0": _l0_of(ae, batches[0], ae.threshold),
    }


def sparsify(
    batches: Sequence[Tensor], d_sae: int, l0: int, feed: Feed, *, optimizer: str
) -> dict[str, Any]:
    """sparsify's TopK trainer, its Triton decoder, with `optimizer`; L0 is k."""
    from sparsify import SaeConfig, TrainConfig, Trainer
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

    class Source(nn.Module):
        """Where the hook reads: gives the feed's batches."""

        started = False

        def forward(self, ids: Tensor) -> Tensor:
            return (next(feed) if self.started else batches[0])[None]

    class Stand(PreTrainedModel):
        """A language model as far as the trainer looks at it."""

        config_class = PretrainedConfig

        def __init__(self) -> None:
            super().__init__(PretrainedConfig())
            self.source = Source()
            self.anchor = nn.Parameter(torch.zeros(1))

        @property
        def dummy_inputs(self) -> dict[str, Tensor]:
            return {"input_ids": torch.zeros(1, 1, dtype=torch.long)}

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.source(input_ids)

    class Unsaved(Trainer):
        def save(self) -> None:
            pass

    batch = len(batches[0])
    prompts = [{"input_ids": torch.zeros(batch, dtype=torch.long)}] * feed.total
    cfg = TrainConfig(
        SaeConfig(num_latents=d_sae, k=l0),
        batch_size=1,
        optimizer=optimizer,  # pyright: ignore[reportArgumentType]
        lr=1e-9,
        hookpoints=["source"],
        log_to_wandb=False,
        save_every=10**9,
    )
    model: Any = Stand()
    model.to(DEVICE)
    trainer = Unsaved(cfg, prompts, model)  # pyright: ignore[reportArgumentType]
    model.source.started = True
    before = torch.get_float32_matmul_precision()
    try:
        trainer.fit()
    finally:
        torch.set_float32_matmul_precision(before)
    return {
        "settings": f"optimizer={optimizer!r}, lr 1e-9, TopK",
        "milliseconds": feed.milliseconds(),
        "l0": float(l0),
    }
