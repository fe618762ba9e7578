"""Gradients of the four architectures' losses, and of two other libraries', of SAEs side by side
(`benchmarks.paper.kinds`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, library

from benchmarks.paper.arms import Stacked
from training.losses.base import AutogradLoss
from training.losses.topk_loss import AUX_WEIGHT

Batches = Float[Tensor, "kinds batch d_model"]
Features = Float[Tensor, "kinds batch d_sae"]


@dataclass
class StepInput:
    """What the gradients of all architectures are made from."""

    p: Stacked
    c: Stacked
    moving: Stacked
    x: Batches
    strength: Float[Tensor, " kinds"]
    step: Tensor
    products: torch.dtype

    def __post_init__(self) -> None:
        self.W_enc = self.p["W_enc"].to(self.products)
        self.W_dec = self.p["W_dec"].to(self.products)
        self.centred = (self.x - self.p["b_dec"][:, None]).to(self.products)

    def project(self) -> Features:
        return torch.bmm(self.centred, self.W_enc).float()

    def error(self, acts: Features) -> Batches:
        recon = torch.bmm(acts.to(self.products), self.W_dec).float()
        return recon + self.p["b_dec"][:, None] - self.x

    def by_acts(self, by_recon: Batches) -> Features:
        return torch.bmm(by_recon.to(self.products), self.W_dec.transpose(1, 2)).float()

    def by_decoder(self, acts: Features, by_recon: Batches) -> Tensor:
        acts = acts.to(self.products).transpose(1, 2)
        return torch.bmm(acts, by_recon.to(self.products)).float()

    def by_encoder(self, by_projection: Features) -> Tensor:
        return torch.bmm(self.centred.transpose(1, 2), by_projection.to(self.products)).float()

    def by_b_dec(self, by_recon: Float[Tensor, "kinds d_model"], by_projection: Tensor) -> Tensor:
        """`by_projection` is summed over tokens: the encoder reads (x - b_dec) @ W_enc."""
        return by_recon - (self.p["W_enc"] * by_projection[:, None]).sum(2)

    def weight(self, l0: Float[Tensor, " kinds"]) -> Float[Tensor, " kinds"]:
        """`training.losses.base.surrogate_weight`, of every kind."""
        most = AutogradLoss.limits.most
        e = (l0 / self.c["target"] - 1).clamp(-most, most)
        return self.c["coefficient"] * self.strength * (e + self.moving["multiplier"]).exp()


Gradients = tuple[Stacked, Bool[Tensor, "kinds batch d_sae"]]


def _l0_penalised(
    s: StepInput,
    width: Float[Tensor, " kinds"],
    cost: Callable[[Features], Tensor],
) -> Gradients:
    """A JumpReLU whose threshold has a rectangle of this width for its kernel; `cost` is what one
    entry's firing adds to the penalty, by which of them fire.
    """
    z = s.project() + s.p["b_enc"][:, None]
    threshold = s.p["threshold"][:, None]
    fires = z > threshold
    on = fires.float()
    by_recon = s.error(z * on) * (2 / s.x.shape[1])
    by_acts = s.by_acts(by_recon)
    window = width[:, None, None]
    near = ((z - threshold).abs() < window / 2).float() / window
    by_z = by_acts * on
    by_b_enc = by_z.sum(1)
    return {
        "W_enc": s.by_encoder(by_z),
        "b_enc": by_b_enc,
        "W_dec": s.by_decoder(z * on, by_recon),
        "b_dec": s.by_b_dec(by_recon.sum(1), by_b_enc),
        "threshold": (near * (-threshold * by_acts - cost(on))).sum(1),
    }, fires


def _jumprelu(s: StepInput) -> Gradients:
    batch, c = s.x.shape[1], s.c

    def cost(on: Tensor) -> Tensor:
        often = on.sum(1) / batch
        slope = 2 * (often.sum(1) / c["target"] - 1) + s.moving["multiplier"]
        slope = c["coefficient"] * s.strength * slope / c["target"]
        crowded = slope.clamp(min=0) * c["crowding"]
        return (slope[:, None] + 2 * crowded[:, None] * often)[:, None] / batch

    left = (1 - s.step / c["half"]).clamp(min=0)
    return _l0_penalised(s, c["epsilon"] * c["wide"] ** left, cost)


def _saelens(s: StepInput) -> Gradients:
    """SAELens' L0 penalty: linear in L0."""
    batch = s.x.shape[1]

    def cost(on: Tensor) -> Tensor:
        return (s.weight(on.sum((1, 2)) / batch) / batch)[:, None, None]

    return _l0_penalised(s, s.c["epsilon"], cost)


def _dictionary_learning(s: StepInput) -> Gradients:
    """dictionary_learning's quadratic penalty, whose window is around the activation; b_dec is not
    subtracted from the input.
    """
    batch, c = s.x.shape[1], s.c
    s.centred = s.x.to(s.products)
    z = s.project() + s.p["b_enc"][:, None]
    threshold = s.p["threshold"][:, None]
    fires = z > threshold
    on = fires.float()
    acts = z * on
    by_recon = s.error(acts) * (2 / batch)
    by_acts = s.by_acts(by_recon)
    counted = (acts > threshold).float().sum((1, 2)) / batch
    slope = 2 * (counted / c["target"] - 1) / c["target"]
    cost = (c["coefficient"] * s.strength * slope / batch)[:, None, None]
    width = c["epsilon"][:, None, None]
    near = ((z - threshold).abs() < width / 2).float() / width
    near_acts = ((acts - threshold).abs() < width / 2).float() / width
    by_z = by_acts * on
    return {
        "W_enc": s.by_encoder(by_z),
        "b_enc": by_z.sum(1),
        "W_dec": s.by_decoder(acts, by_recon),
        "b_dec": by_recon.sum(1),
        "threshold": (-near * threshold * by_acts - near_acts * cost).sum(1),
    }, fires


def _gated(s: StepInput) -> Gradients:
    batch, p = s.x.shape[1], s.p
    z = s.project()
    gate = z + p["b_gate"][:, None]
    growth = p["r_mag"].exp()[:, None]
    magnitude = (growth * z + p["b_mag"][:, None]).relu()
    acts = torch.where(gate > 0, magnitude, 0.0)
    opened = gate.relu()
    by_recon, by_gates = (s.error(each) * (2 / batch) for each in (acts, opened))
    fires = acts > 0
    weight = s.weight(fires.sum((1, 2)) / batch)[:, None]
    norms = p["W_dec"].norm(dim=2)
    by_magnitude = s.by_acts(by_recon) * fires
    by_opened = (s.by_acts(by_gates) + (weight * norms / batch)[:, None]) * (gate > 0)
    by_z = by_opened + growth * by_magnitude
    lengths = (weight * opened.sum(1) / batch / norms)[:, :, None] * p["W_dec"]
    return {
        "W_enc": s.by_encoder(by_z),
        "b_gate": by_opened.sum(1),
        "b_mag": by_magnitude.sum(1),
        "r_mag": (by_magnitude * z).sum(1) * growth[:, 0],
        "W_dec": s.by_decoder(acts, by_recon) + s.by_decoder(opened, by_gates) + lengths,
        "b_dec": s.by_b_dec((by_recon + by_gates).sum(1), by_z.sum(1)),
    }, fires


def _standard(s: StepInput) -> Gradients:
    batch, p = s.x.shape[1], s.p
    acts = (s.project() + p["b_enc"][:, None]).relu()
    fires = acts > 0
    by_recon = s.error(acts) * (2 / batch)
    weight = s.weight(fires.sum((1, 2)) / batch)[:, None]
    norms = p["W_dec"].norm(dim=2)
    by_z = (s.by_acts(by_recon) + (weight * norms / batch)[:, None]) * fires
    by_b_enc = by_z.sum(1)
    lengths = (weight * acts.sum(1) / batch / norms)[:, :, None] * p["W_dec"]
    return {
        "W_enc": s.by_encoder(by_z),
        "b_enc": by_b_enc,
        "W_dec": s.by_decoder(acts, by_recon) + lengths,
        "b_dec": s.by_b_dec(by_recon.sum(1), by_b_enc),
    }, fires


def _topk(s: StepInput) -> Gradients:
    batch, p = s.x.shape[1], s.p
    z = s.project() + p["b_enc"][:, None]
    positive = z.relu()
    fires = (positive >= cuts(positive, s.c["target"].int())[:, :, None]) & (z > 0)
    acts = z * fires
    error = s.error(acts)
    by_recon = error * (2 / batch)
    by_z = s.by_acts(by_recon) * fires

    dead = s.moving["tokens_since_fired"] >= s.c["aux_after"][:, None]
    silent = torch.where(dead[:, None], positive, 0.0)
    most = torch.full_like(s.c["target"], max(1, s.x.shape[2] // 2)).int()
    helps = (silent >= cuts(silent, most)[:, :, None]) & (silent > 0)
    helping = silent * helps
    residual = -error
    left = torch.bmm(helping.to(s.products), s.W_dec).float() - residual
    spread = (residual - residual.mean(1, keepdim=True)).square().sum((1, 2))
    counts = (dead.sum(1) > 0) & (spread > 0)
    share = torch.where(counts, 2 * AUX_WEIGHT / torch.where(counts, spread, 1.0), 0.0)
    by_left = left * share[:, None, None]
    by_z = by_z + s.by_acts(by_left) * helps
    by_b_enc = by_z.sum(1)
    return {
        "W_enc": s.by_encoder(by_z),
        "b_enc": by_b_enc,
        "W_dec": s.by_decoder(acts, by_recon) + s.by_decoder(helping, by_left),
        "b_dec": s.by_b_dec(by_recon.sum(1), by_b_enc),
    }, fires


GRADIENTS: dict[str, Callable[[StepInput], Gradients]] = {
    "jumprelu": _jumprelu,
    "gated": _gated,
    "topk": _topk,
    "standard": _standard,
    "saelens": _saelens,
    "dictionary_learning": _dictionary_learning,
}


@library.custom_op("jumpscope::cuts", mutates_args=())
def cuts(z: Tensor, k: Tensor) -> Tensor:
    """The k-th largest of each row of `z` `[kinds, batch, d_sae]`, which is 0 or above; `k`
    `[kinds]`, int32.
    """
    if z.device.type == "cuda":
        from benchmarks.paper.cut_kernel import cuts_on_cuda  # Triton is not everywhere

        return cuts_on_cuda(z, k)
    counts = [min(int(each), z.shape[2]) for each in k]
    return torch.stack([z[i].topk(n, dim=1).values[:, -1] for i, n in enumerate(counts)])


def check_cuts(device: torch.device) -> None:
    """RuntimeError where `cuts` is not what PyTorch's own selection gives on this device."""
    z = torch.rand(2, 64, 1_000, generator=torch.Generator().manual_seed(0)).sub(0.5).relu()
    found = cuts(z.to(device), torch.tensor([30, 700], dtype=torch.int32, device=device))
    right = torch.stack([z[0].topk(30).values[:, -1], z[1].topk(700).values[:, -1]])
    if not torch.equal(found.cpu(), right):
        raise RuntimeError(f"TopK's selection is wrong on {device}: use another version of Triton.")


@cuts.register_fake
def _(z: Tensor, k: Tensor) -> Tensor:
    return z.new_empty(z.shape[:2])
