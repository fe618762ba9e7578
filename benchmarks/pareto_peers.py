"""Other libraries' JumpReLU trainers on our activations: what `benchmarks.pareto` compares with.

Their training steps are called unmodified, on the batches that ours get, and the SAEs are folded by
their own functions. Settings are those that the libraries recommend, times being shares of the run:

    SAELens              inputs of mean norm sqrt(d_model), Adam (0.9, 0.999), L0 penalty per
                         feature, lr falling over the last fifth
    dictionary_learning  inputs of mean squared norm 1, Adam (0, 0.999), quadratic target L0,
                         lr falling over the last fifth

and as in ours the penalty grows over the first fifth, after a tenth at most of lr warm-up. With
the window `wide`, the bandwidth is that of our `short_run`, and SAELens' first threshold is as
wide: its documentation advises both for short runs.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmarks.pareto_plan import Window
from sae_core.config import SAEConfig, Site
from sae_core.formats import Origin, read_sae
from sae_core.sae import SAE
from training.train_config import SHORT_RUN

SCALE_BATCHES = 16
"""Batches from which SAELens estimates the scale of its inputs."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One SAE of a peer's group."""

    site: Site
    target: int
    lr: float
    window: Window
    coefficient: float | None
    """SAELens' l0_coefficient over d_model."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long they are trained."""

    steps: int
    batch: int

    @property
    def warmup(self) -> int:
        """Steps of the learning rate's warm-up."""
        return min(1_000, self.steps // 10)

    @property
    def sparsity_warmup(self) -> int:
        """Steps over which the penalty grows."""
        return self.steps // 5

    @property
    def decay(self) -> int:
        """Steps over which the learning rate falls."""
        return self.steps // 5


class Peer(Protocol):
    """An SAE in another library's trainer."""

    def step(self, raw: Tensor) -> None:
        """One training step on raw activations `[batch, d_model]`, float32."""
        ...

    def sae(self) -> SAE:
        """What was trained, taking raw activations."""
        ...


def train(
    curve: str,
    members: Sequence[Member],
    batches: Iterator[dict[Site, Tensor]],
    d_sae: int,
    length: Length,
    seed: int,
) -> list[SAE]:
    """Train `members` on the same batches and return them, as SAEs that take raw activations."""
    first = list(islice(batches, min(SCALE_BATCHES, length.steps)))
    kind = {"saelens": SAELensPeer, "dictionary_learning": DictionaryLearningPeer}[curve]
    peers: list[Peer] = []
    for member in members:
        torch.manual_seed(seed)
        sample = [batch[member.site].float() for batch in first]
        peers.append(kind(member, sample, d_sae, length))
    for batch in islice(chain(first, batches), length.steps):
        raw = {site: x.float() for site, x in batch.items()}
        for member, peer in zip(members, peers, strict=True):
            peer.step(raw[member.site])
    return [peer.sae() for peer in peers]


class SAELensPeer:
    """SAELens' `SAETrainer`, a step at a time."""

    def __init__(
        self, member: Member, sample: Sequence[Tensor], d_sae: int, length: Length
    ) -> None:
        from sae_lens.config import SAETrainerConfig
        from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
        from sae_lens.training.sae_trainer import SAETrainer

        d_model, device = sample[0].shape[1], str(sample[0].device)
        wide = {
            "jumprelu_bandwidth": SHORT_RUN["bandwidth"] * d_model**0.5,
            "jumprelu_init_threshold": SHORT_RUN["bandwidth"] * d_model**0.5,
        }
        assert member.coefficient is not None
        self._site = member.site
        self._sae = JumpReLUTrainingSAE(
            JumpReLUTrainingSAEConfig(
                d_in=d_model,
                d_sae=d_sae,
                dtype="float32",
                device=device,
                normalize_activations="expected_average_only_in",
                l0_coefficient=member.coefficient * d_model,
                l0_warm_up_steps=length.sparsity_warmup,
                **(wide if member.window == "wide" else {}),
            )
        )
        self._trainer = SAETrainer(
            SAETrainerConfig(
                total_training_samples=length.steps * length.batch,
                train_batch_size_samples=length.batch,
                lr=member.lr,
                lr_end=member.lr / 10,
                lr_warm_up_steps=length.warmup,
                lr_decay_steps=length.decay,
                device=device,
                autocast=device.startswith("cuda"),
            ),
            self._sae,
            iter(()),
        )
        self._trainer.activation_scaler.estimate_scaling_factor(d_model, iter(sample), len(sample))

    def step(self, raw: Tensor) -> None:
        """As `Peer.step`."""
        self._trainer.step(raw)
        self._trainer.n_training_steps += 1

    def sae(self) -> SAE:
        """As `Peer.sae`: folded as `SAETrainer.fit` does, saved by SAELens, read by us."""
        factor = self._trainer.activation_scaler.scaling_factor
        assert factor is not None
        self._sae.threshold.data.clamp_(min=0.0)
        self._sae.fold_activation_norm_scaling_factor(factor)
        with tempfile.TemporaryDirectory() as folder:
            self._sae.save_inference_model(folder)
            return read_sae(Path(folder), origin=Origin(site=self._site))


class DictionaryLearningPeer:
    """dictionary_learning's `JumpReluTrainer`."""

    def __init__(
        self, member: Member, sample: Sequence[Tensor], d_sae: int, length: Length
    ) -> None:
        from dictionary_learning.trainers.jumprelu import JumpReluTrainer

        device = sample[0].device
        self._site = member.site
        self._taken = 0
        # As its get_norm_factor: the root of the mean squared norm.
        mean = sum(float(x.square().sum(dim=1).mean()) for x in sample) / len(sample)
        self._scale = mean**0.5
        wide = {"bandwidth": SHORT_RUN["bandwidth"]} if member.window == "wide" else {}
        self._trainer = JumpReluTrainer(
            steps=length.steps,
            activation_dim=sample[0].shape[1],
            dict_size=d_sae,
            layer=member.site.layer,
            lm_name="demo",
            lr=member.lr,
            warmup_steps=length.warmup,
            sparsity_warmup_steps=length.sparsity_warmup,
            decay_start=length.steps - length.decay,
            target_l0=float(member.target),
            device=str(device),
            **wide,
        )
        # As trainSAE does with autocast_dtype.
        cuda = device.type == "cuda"
        self._products = torch.bfloat16 if cuda else torch.float32
        self._context: Any = torch.autocast("cuda", dtype=torch.bfloat16) if cuda else nullcontext()

    def step(self, raw: Tensor) -> None:
        """As `Peer.step`."""
        x = raw.to(self._products) / self._scale
        with self._context:
            self._trainer.update(self._taken, x)
        self._taken += 1

    def sae(self) -> SAE:
        """As `Peer.sae`, the biases scaled by its own function."""
        ae = self._trainer.ae
        ae.scale_biases(self._scale)
        d_model, d_sae = ae.W_enc.shape
        sae = SAE.build(
            SAEConfig(architecture="jumprelu", d_model=d_model, d_sae=d_sae, site=self._site)
        )
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            getattr(sae, name).data = getattr(ae, name).detach().float().cpu().contiguous()
        # Its encoder has a ReLU as well: below 0 nothing is active.
        sae.get_parameter("threshold").data = ae.threshold.detach().float().cpu().clamp(min=0.0)
        return sae
