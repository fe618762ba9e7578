"""The parts of a sparse step whose features are shared out between processes: `ShardKernels`.

Around the kernels of one process there are three sums: of the numbers of entries (once the entries
are selected), of the reconstruction (before its error is taken), and of the encoder's part of
b_dec's gradient. All else concerns a process's own features, or comes out the same on all.
"""

from dataclasses import replace
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor

from training.kernels.entries import Entries, Gathered, Objective, Residual, Weights
from training.optim import Control
from training.shard import Shard
from training.step import Setting


class ShardKernels:
    """The functions of a module of kernels, for one process's features; all processes call them
    together.
    """

    def __init__(self, shard: Shard, kernels: ModuleType) -> None:
        """`kernels`: `plain`, or `fused` for CUDA."""
        self._shard = shard
        self._kernels = kernels
        self.centre = kernels.centre
        self.finish = kernels.finish
        self._parts = _parts_of(kernels)
        self._active = torch.empty(0)
        """Active entries of all processes in the batch that was selected last."""

    def select(
        self,
        z: Float[Tensor, "batch d_sae"],
        b_enc: Float[Tensor, " d_sae"],
        threshold: Float[Tensor, " d_sae"],
        objective: Objective,
        room: int,
    ) -> Entries:
        """As `plain.select`. Where the entries of some process do not fit, those of no process do:
        the number of the process that has most stands in for all.
        """
        entries = self._kernels.select(z, b_enc, threshold, objective, room)
        listed = entries.column_start[-1:]
        numbers = self._shard.gather(torch.stack([entries.row_start[-1:], listed], dim=1))
        self._active = numbers[:, 0].sum()
        most = numbers[:, 1].max()
        listed.copy_(torch.where(most > room, most, listed))
        return entries

    def decode(
        self,
        entries: Entries,
        W_dec: Float[Tensor, "d_sae d_model"],
        b_dec: Float[Tensor, " d_model"],
        raw: Float[Tensor, "batch d_model"],
        scale: Float[Tensor, ""],
        mean: Float[Tensor, " d_model"],
    ) -> Residual:
        """As `plain.decode`, of the reconstruction from all features; from here on the number of
        active entries is that of all processes.
        """
        partial_recon, residual = self._parts
        recon = self._shard.sum_(partial_recon(entries, W_dec))
        entries.row_start[-1].copy_(self._active)
        return residual(recon, b_dec, raw, scale, mean, W_dec.dtype)

    def update_rows(
        self,
        entries: Entries,
        residual: Residual,
        centred: Float[Tensor, "batch d_model"],
        weights: Weights,
        threshold: Float[Tensor, " d_sae"],
        setting: Setting,
        objective: Objective,
        multiplier: Float[Tensor, ""],
        control: Control,
    ) -> Gathered:
        """As `plain.update_rows`, `through_encoder` summed over all features."""
        gathered = self._kernels.update_rows(
            entries,
            residual,
            centred,
            weights,
            threshold,
            setting,
            objective,
            multiplier,
            control,
        )
        through = self._shard.sum_(gathered.through_encoder.sum(dim=0))
        return replace(gathered, through_encoder=through[None])


def _parts_of(kernels: ModuleType) -> tuple:
    """`partial_recon` and `residual` beside `kernels`."""
    if kernels.__name__.endswith(".fused"):
        from training.kernels import parts

        return parts.partial_recon, parts.residual
    return partial_recon, residual


def partial_recon(
    entries: Entries, W_dec: Float[Tensor, "d_sae d_model"]
) -> Float[Tensor, "batch d_model"]:
    """The sum over a token's active entries, float32; `W_dec` in the format of the products."""
    counts = entries.row_start.diff()
    row = torch.arange(len(counts), device=W_dec.device).repeat_interleave(counts)
    used = min(len(row), len(entries.feature))
    rows = W_dec[entries.feature[:used].long()].float()
    recon = torch.zeros(len(counts), W_dec.shape[1], device=W_dec.device)
    return recon.index_add_(0, row[:used], entries.act[:used].float()[:, None] * rows)


def residual(
    recon: Float[Tensor, "batch d_model"],
    b_dec: Float[Tensor, " d_model"],
    raw: Float[Tensor, "batch d_model"],
    scale: Float[Tensor, ""],
    mean: Float[Tensor, " d_model"],
    products: torch.dtype,
) -> Residual:
    """What is left by a reconstruction without b_dec: `plain.decode` from there on."""
    x = raw.float() / scale
    error = recon + b_dec - x
    sums = torch.stack([error.square().sum(), (x - mean).square().sum()])
    return Residual((2 / len(x) * error).to(products), sums[None])
