"""Held-out text at one site, the way the studies of features' effects read it, and intervals.

`HeldOut` has every token that counts, with what is around it; `Drawn` has the gradients of one
prediction a row; `interval` is of 95 %, by a bootstrap.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.paper.demo import Demo
from sae_core.config import Site
from sae_core.corpus import TokenRow, batches
from sae_core.evaluation import drawn_tokens
from sae_core.head import head, hidden_states
from sae_core.sae import SAE
from sae_core.sites import activations, rewrite

ROWS = 32
RESAMPLES = 1_000
CHUNK = 2**14


@dataclass(frozen=True)
class HeldOut:
    """All tokens that count, in the order of the text."""

    x: Float[Tensor, "tokens d_model"]
    ids: Int[Tensor, " tokens"]
    previous: Int[Tensor, " tokens"]
    """Id of the token before, of whatever kind."""
    position: Int[Tensor, " tokens"]
    """Number of the token in its row."""
    row: Int[Tensor, " tokens"]

    @classmethod
    @torch.no_grad()
    def read(cls, demo: Demo, rows: Sequence[TokenRow], site: str) -> "HeldOut":
        """Of these rows, on the model's device."""
        place = Site.parse(site)
        parts: list[tuple[Tensor, ...]] = []
        for number, batch in enumerate(batches(rows, demo.tokenizer, ROWS)):
            ids, mask = (t.to(demo.device) for t in (batch.input_ids, batch.mask))
            x = activations(demo.model, ids, [place])[place][mask]
            row, position = mask.nonzero(as_tuple=True)
            before = ids[row, (position - 1).clamp(min=0)]
            parts.append((x, ids[mask], before, position, row + number * ROWS))
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def parts(self) -> list[slice]:
        """Slices of so few tokens that all features' activations on them fit."""
        return [slice(at, at + CHUNK) for at in range(0, len(self.x), CHUNK)]


@torch.no_grad()
def activations_of(
    sae: SAE, held: HeldOut, features: Int[Tensor, " n"]
) -> Float[Tensor, "tokens n"]:
    """Activations of some features on all tokens."""
    return torch.cat([sae.encode(held.x[part].float())[:, features] for part in held.parts()])


@dataclass(frozen=True)
class Drawn:
    """One token of each row that has one, and what its prediction's gradient is there."""

    x: Float[Tensor, "predictions d_model"]
    gradient: Float[Tensor, "predictions d_model"]
    """Of the correct next token's logit, centred over the vocabulary."""
    row: Int[Tensor, " predictions"]
    token: Int[Tensor, " predictions"]

    @classmethod
    def read(cls, demo: Demo, rows: Sequence[TokenRow], site: str, seed: int = 0) -> "Drawn":
        """The same tokens and gradients as in `sae_core.evaluation.uniformity`, once for all SAEs
        of a site: nothing in them depends on the SAE.
        """
        place = Site.parse(site)
        generator = torch.Generator().manual_seed(seed)
        parts: list[tuple[Tensor, ...]] = []
        for number, batch in enumerate(batches(rows, demo.tokenizer, 16)):
            usable, token = drawn_tokens(batch.mask, generator)
            if not len(token):
                continue
            row = usable.nonzero()[:, 0] + number * 16
            ids, at = batch.input_ids[usable].to(demo.device), token.to(demo.device)
            x, gradient = _gradient(demo.model, ids, at, place)
            parts.append((x, gradient, row, token))
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))

    @torch.no_grad()
    def effects(self, sae: SAE) -> tuple[Float[Tensor, "n d_sae"], Float[Tensor, "n d_sae"]]:
        """Linear effects of all features, activation times gradient, and the activations."""
        acts = sae.encode(self.x)
        return acts * (self.gradient @ sae.W_dec.T), acts


def _gradient(model: Any, ids: Tensor, at: Tensor, place: Site) -> tuple[Tensor, Tensor]:
    every = torch.arange(len(ids), device=ids.device)
    leaf: list[Tensor] = []

    def track(_x: Tensor, y: Tensor) -> Tensor:
        leaf.append(y.detach().requires_grad_())
        return leaf[0]

    with torch.enable_grad(), rewrite(model, place, place, track):
        logits = head(model, hidden_states(model, ids)[every, at]).float()
        correct = logits[every, ids[every, at + 1]] - logits.mean(-1)
        (gradient,) = torch.autograd.grad(correct.sum(), leaf[0])
    return leaf[0].detach()[every, at].float(), gradient[every, at].float()


def interval(top: Float[Tensor, " n"], bottom: Float[Tensor, " n"] | None = None) -> list[float]:
    """Mean of `top`, or the sum of `top` over that of `bottom`, and the ends of its interval of
    95 % from a bootstrap over the entries: the same draws wherever there are as many.
    """
    top = top.double().cpu()
    count = len(top)
    below = torch.ones_like(top) if bottom is None else bottom.double().cpu()
    chosen = torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(0))
    drawn = top[chosen].sum(1) / below[chosen].sum(1)
    drawn = drawn[drawn.isfinite()]
    value = float(top.sum() / below.sum())
    if not len(drawn):
        return [value, float("nan"), float("nan")]
    return [value, *drawn.quantile(torch.tensor([0.025, 0.975], dtype=drawn.dtype)).tolist()]
