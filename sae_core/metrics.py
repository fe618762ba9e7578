"""Every number Jumpscope shows, defined once.

Special tokens (BOS, EOS, padding) keep their original activation and count in no statistic. A loss
at token t is that of predicting token t from the tokens before it, so the first token has none.
Means of losses are over the predictions that a splice can affect (`affected`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, nll_loss

from sae_core.definitions import DEFINITIONS as DEFINITIONS
from sae_core.definitions import HIGH_FREQUENCY as HIGH_FREQUENCY
from sae_core.head import chunks, head
from sae_core.placement import in_float64, wide_device

_ROUNDING = 1e-12
"""Share of the sum of squares up to which a difference of float64 sums is rounding alone."""


def fvu(squared_error: float | Tensor, squared_deviation: float | Tensor) -> float:
    """FVU from its two sums; NaN where nothing deviates: no tokens, or all alike."""
    deviation = float(squared_deviation)
    return float(squared_error) / deviation if deviation > 0 else float("nan")


def squared_deviation(
    squares: Float[Tensor, ""], total: Float[Tensor, " d_model"], tokens: int
) -> float:
    """Sum over tokens of squared deviations from their mean, from float64 sums over tokens: of
    squares, and of the activations. 0 where there is no more than rounding.
    """
    deviation = float(squares) - float(total.square().sum()) / max(tokens, 1)
    return deviation if deviation > _ROUNDING * float(squares) else 0.0


def affected(replaced: Bool[Tensor, "*rows pos"]) -> Bool[Tensor, "*rows pos"]:
    """Of the tokens that count, which are those whose activation a splice replaces: the ones that
    have another before them in their row.

    Only their prediction can change. The first token after BOS is predicted from BOS alone, which
    keeps its activation.
    """
    before = replaced.long().cumsum(-1) - replaced.long()
    return replaced & (before > 0)


def uniformity_by_token(
    effects: Float[Tensor, "tokens d_sae"], acts: Float[Tensor, "tokens d_sae"]
) -> Float[Tensor, " tokens"]:
    """Of the features that are active, from their effects: exp(entropy(|e| / sum |e|)) over their
    number, float64; NaN where none is active or none matters.
    """
    size = in_float64(effects).abs()
    total = size.sum(-1, keepdim=True)
    share = size / total.clamp(min=torch.finfo(torch.float64).tiny)
    effective = (-torch.special.xlogy(share, share).sum(-1)).exp()
    uniformity = effective / acts.ne(0).sum(-1).to(effective.device)
    return torch.where(total[:, 0] > 0, uniformity, float("nan"))


class ReconstructionStats:
    """L0, FVU and frequencies of a stream of activations; sums in float64, exact in any order."""

    def __init__(self, d_model: int, d_sae: int, device: torch.device | str = "cpu") -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=wide_device(device))

        self._tokens = 0
        self._error, self._square, self._sum = zeros(), zeros(), zeros(d_model)
        self._active = torch.zeros(d_sae, dtype=torch.long, device=wide_device(device))

    def update(
        self,
        x: Float[Tensor, "tokens d_model"],
        recon: Float[Tensor, "tokens d_model"],
        acts: Float[Tensor, "tokens d_sae"],
    ) -> None:
        """Count these tokens (special ones left out by the caller); `recon` should be `x`."""
        self._tokens += len(x)
        wide = in_float64(x)
        self._error += (wide - in_float64(recon)).square().sum()
        self._square += wide.square().sum()
        self._sum += wide.sum(0)
        self._active += acts.ne(0).sum(0).to(self._active.device)

    def __add__(self, other: "ReconstructionStats") -> "ReconstructionStats":
        """The statistics of both streams together."""
        both = ReconstructionStats(len(self._sum), len(self._active), self._sum.device)
        both._tokens = self._tokens + other._tokens
        both._error = self._error + other._error
        both._square = self._square + other._square
        both._sum = self._sum + other._sum
        both._active = self._active + other._active
        return both

    @property
    def tokens(self) -> int:
        """Tokens counted so far."""
        return self._tokens

    def mean(self) -> Float[Tensor, " d_model"]:
        """Mean activation, float64."""
        return self._sum / max(self._tokens, 1)

    def frequency(self) -> Float[Tensor, " d_sae"]:
        """Share of tokens on which each feature is active, float64."""
        return in_float64(self._active) / max(self._tokens, 1)

    def result(self) -> dict[str, float]:
        """`l0`, `fvu`, `dead`, `high_frequency`; NaN where the sample does not define one."""
        if not self._tokens:
            return dict.fromkeys(("l0", "fvu", "dead", "high_frequency"), float("nan"))
        frequency = self.frequency()
        deviation = squared_deviation(self._square, self._sum, self._tokens)
        return {
            "l0": float(frequency.sum()),
            "fvu": fvu(self._error, deviation),
            "dead": float(in_float64(self._active == 0).mean()),
            "high_frequency": float(in_float64(frequency >= HIGH_FREQUENCY).mean()),
        }


def token_losses(
    model: Any, hidden: Float[Tensor, "batch pos hidden"], ids: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos"]:
    """Cross-entropy of each token given those before it, nats, float32; NaN for the first.

    `hidden` are the hidden states before the model's head (`sae_core.head`).
    """
    states, targets = hidden[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    losses = []
    for part in chunks(model, len(states)):
        logits = head(model, states[part]).float()
        # The head of a model that is spread over devices may be on another one than the states.
        losses.append(cross_entropy(logits, targets[part].to(logits.device), reduction="none"))
    return _by_token(losses, ids)


def token_comparison(
    model: Any,
    base: Float[Tensor, "batch pos hidden"],
    others: Sequence[Float[Tensor, "batch pos hidden"]],
    ids: Int[Tensor, "batch pos"],
) -> tuple[
    Float[Tensor, "batch pos"], list[tuple[Float[Tensor, "batch pos"], Float[Tensor, "batch pos"]]]
]:
    """`token_losses` of base, and for each of the others its own and KL(base || other) of the
    distributions of each token.
    """
    targets = ids[:, 1:].flatten()
    states = [each[:, :-1].flatten(0, 1) for each in (base, *others)]
    losses: list[list[Tensor]] = [[] for _ in states]
    divergences: list[list[Tensor]] = [[] for _ in others]
    for part in chunks(model, len(targets)):

        def log_softmax(hidden: Tensor, part: slice = part) -> Tensor:
            return head(model, hidden[part]).float().log_softmax(-1)

        log_p = log_softmax(states[0])
        p = log_p.exp()
        # The head of a model that is spread over devices may be on another one than the states.
        wanted = targets[part].to(log_p.device)
        losses[0].append(nll_loss(log_p, wanted, reduction="none"))
        for other, own, kl in zip(states[1:], losses[1:], divergences, strict=True):
            log_q = log_softmax(other)
            own.append(nll_loss(log_q, wanted, reduction="none"))
            kl.append(torch.linalg.vecdot(p, log_p - log_q))
    by_token = [_by_token(each, ids) for each in losses]
    return by_token[0], [
        (own, _by_token(kl, ids)) for own, kl in zip(by_token[1:], divergences, strict=True)
    ]


def _by_token(parts: list[Tensor], ids: Tensor) -> Tensor:
    """One number for every token but the first of a row, as an array like `ids`."""
    batch, length = ids.shape
    if length < 2:
        return torch.full((batch, length), float("nan"))
    values = torch.cat(parts).view(batch, length - 1)
    return torch.nn.functional.pad(values, (1, 0), value=float("nan"))
