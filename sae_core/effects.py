"""What carries a prediction: the effect of every active feature on the next token.

The effect of feature i at token p on the prediction after token t >= p is what changes when its
activation there is set to 0, the SAE's error kept:

    kl     = KL(P || P_i)                      nats, P the model's own next-token distribution
    change = log P_i(token) - log P(token)     nats, for a few chosen tokens

The baseline is the model itself, not the splice. These are exact: each is a forward of its own
(`sae_core.arms`). The *estimate* of the target's change is its first-order term, -a g . W_dec[i],
with a the activation and g the gradient of log P(target) with respect to the activation that the
SAE reconstructs at p. One backward gives it for every token and feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.arms import Arms
from sae_core.edits import Edit
from sae_core.head import head
from sae_core.placement import in_float64
from sae_core.sites import rewrite
from sae_core.splice import SplicedLM

_ENCODED = 2**24
"""Elements of the largest array over tokens and features: 64 MB in float32."""


@dataclass(frozen=True, kw_only=True)
class Effects:
    """Effects of features on one prediction. Arrays over (token, feature) pairs have length n."""

    read_at: int
    """The token after which the model predicts."""
    target: int
    """Id of the next token whose change is estimated."""
    tokens: np.ndarray
    """Ids of the next tokens whose changes are told, the likeliest first; the target is one."""
    logp: np.ndarray
    """The model's own log-probabilities of `tokens`, nats."""
    position: np.ndarray
    """The pairs: token number, feature, activation. Exact ones come first, by falling KL, then the
    others by the size of their estimates."""
    feature: np.ndarray
    activation: np.ndarray
    kl: np.ndarray
    """Nats; NaN where it is only estimated."""
    change: np.ndarray
    """Change of the log-probability of each of `tokens`, nats `[n, tokens]`; NaN where it is only
    estimated."""
    estimate: np.ndarray
    """Estimate of the target's change, nats."""
    exact: np.ndarray
    """Whether the pair was truly set to 0."""

    @property
    def dlogp(self) -> np.ndarray:
        """The target's change, nats; NaN where it is only estimated."""
        return self.change[:, int(np.flatnonzero(self.tokens == self.target)[0])]

    def rank_correlation(self) -> float:
        """Spearman's, of estimates and exact changes of the target over the exact pairs: how far
        estimates can be believed. NaN for fewer than two pairs, or where all are alike.
        """
        ranks = [_ranks(values[self.exact]) for values in (self.estimate, self.dlogp)]
        a, b = (each - each.mean() if len(each) else each for each in ranks)
        norm = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float(a @ b) / norm if norm > 0 else float("nan")

    def __repr__(self) -> str:
        """How many pairs, and the largest effect, in one line."""
        count = f"{len(self.feature):,} pairs, {int(self.exact.sum()):,} exact"
        if not self.exact.any():
            return f"Effects({count})"
        return (
            f"Effects({count}; feature {self.feature[0]} at token {self.position[0]}: "
            f"KL {self.kl[0]:.3g}, change {self.dlogp[0]:.3g})"
        )


def effects(
    lm: SplicedLM,
    ids: Sequence[int],
    sae_name: str,
    position: int,
    *,
    read_at: int | None = None,
    target: int | None = None,
    tokens: int = 8,
    memory: int | None = None,
) -> Effects:
    """The exact effect of each feature that is active at token `position`.

    On the prediction after token `read_at` (None: that token itself). `target` is the id of the
    next token whose change is estimated as well (None: the model's likeliest); `tokens` is of how
    many of the likeliest the change is told. `memory` is that of `Arms.run`. Raises ValueError for
    tokens that do not exist or keep their activation, and for an unknown SAE.
    """
    last = position if read_at is None else read_at
    _check(ids, position, last)
    study = _Study(lm, ids, last, sae_name, target, tokens)
    if not study.counted[position]:
        raise ValueError(
            f"token {position} is a special token or an attention sink, which keeps its "
            "activation: choose another."
        )
    pairs = study.estimated(position, position + 1)
    return study.measured(pairs, np.arange(len(pairs.feature)), memory)


def effects_of_all_tokens(
    lm: SplicedLM,
    ids: Sequence[int],
    sae_name: str,
    read_at: int,
    *,
    exact: int = 30,
    target: int | None = None,
    tokens: int = 8,
    memory: int | None = None,
) -> Effects:
    """Estimates for each feature that is active at any token up to `read_at`, and the exact effects
    of the `exact` pairs with the largest ones.

    Other parameters, and errors, as in `effects`.
    """
    _check(ids, read_at, read_at)
    study = _Study(lm, ids, read_at, sae_name, target, tokens)
    pairs = study.estimated(0, read_at + 1)
    largest = np.argsort(-np.abs(pairs.estimate), kind="stable")[: max(0, exact)]
    return study.measured(pairs, largest, memory)


def _check(ids: Sequence[int], position: int, read_at: int) -> None:
    """ValueError if there is no such token, or the prediction comes before it."""
    if not 0 <= position <= read_at < len(ids):
        raise ValueError(
            f"the effect of token {position} on the prediction after token {read_at} is not "
            f"defined: give tokens from 0 to {len(ids) - 1}, the second not before the first."
        )


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """Active features of some tokens, with the estimated change of the target."""

    position: np.ndarray
    feature: np.ndarray
    activation: np.ndarray
    estimate: np.ndarray


class _Study:
    """A text with the prediction that is explained, after token `last`, and one SAE."""

    def __init__(
        self,
        lm: SplicedLM,
        ids: Sequence[int],
        last: int,
        sae_name: str,
        target: int | None,
        tokens: int,
    ) -> None:
        self.lm, self.name, self.sae, self.last = lm, sae_name, lm.sae(sae_name), last
        # Nothing later matters, but to whether the first token is an attention sink.
        whole = lm.tokenizer.bos_token_id is None
        self.arms = Arms(lm, ids if whole else ids[: last + 1], [sae_name])
        self.x = self.arms.base.sites[lm.site(sae_name)][0]
        y = self.arms.base.sites[lm.target(sae_name)][0]
        self.counted = ~torch.tensor(self.arms.special)
        """Which tokens' features count: neither special ones' nor an attention sink's."""
        self.counted[:1] &= not lm.has_sink(self.sae, self.x, y)
        logp = in_float64(self.arms.logits([self.last])[0]).log_softmax(-1)
        if target is not None and not 0 <= target < len(logp):
            raise ValueError(f"target {target} is not a token's id: give 0 to {len(logp) - 1}.")
        likeliest = logp.topk(min(max(1, tokens), len(logp))).indices.tolist()
        self.target = likeliest[0] if target is None else target
        self.tokens = list(dict.fromkeys([*likeliest, self.target]))
        self.logp = logp[self.tokens]

    def estimated(self, start: int, stop: int) -> _Pairs:
        """The pairs of tokens start to stop - 1, by token, then feature."""
        gradient = self._gradient(start, stop)
        size = max(1, _ENCODED // self.sae.cfg.d_sae)
        parts: list[tuple[Tensor, ...]] = []
        with torch.no_grad():
            for first in range(start, stop, size):
                here = slice(first, min(first + size, stop))
                acts = self.sae.encode(self.x[here].float())
                acts = acts * self.counted[here, None].to(acts.device)
                token, feature = acts.nonzero(as_tuple=True)
                slopes = gradient[here.start - start : here.stop - start] @ self.sae.W_dec.T
                activation = acts[token, feature]
                estimate = -activation * slopes[token, feature]
                parts.append((token + first, feature, activation, estimate))
        columns = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
        position, feature, activation, estimate = columns
        return _Pairs(position=position, feature=feature, activation=activation, estimate=estimate)

    def _gradient(self, start: int, stop: int) -> Float[Tensor, "pos d_out"]:
        """Of the target's log-probability with respect to what the SAE reconstructs, float32."""
        lm, leaves = self.lm, []

        def leaf(_x: Tensor, y: Tensor) -> Tensor:
            leaves.append(y.detach().requires_grad_())
            return leaves[-1]

        where = (lm.site(self.name), lm.target(self.name))
        with torch.enable_grad(), lm.lock, rewrite(lm.model, *where, leaf):
            after = self.arms.after(self.name)
            hidden = self.arms.base.resumed(1, start, self.last + 1, after)
            logp = head(lm.model, hidden[0, -1]).float().log_softmax(-1)[self.target]
            (gradient,) = torch.autograd.grad(logp, leaves)
        return gradient[0, : stop - start].float().to(self.sae.W_dec.device)

    def measured(self, pairs: _Pairs, chosen: np.ndarray, memory: int | None) -> Effects:
        """All pairs, the chosen ones set to 0 one by one."""
        edits = [
            [
                Edit(
                    feature=int(pairs.feature[pair]),
                    mode="ablate",
                    positions=(int(pairs.position[pair]),),
                    sae=self.name,
                )
            ]
            for pair in chosen
        ]
        exact = np.zeros(len(pairs.feature), dtype=bool)
        exact[chosen] = True
        kl = np.full(len(pairs.feature), np.nan)
        change = np.full((len(pairs.feature), len(self.tokens)), np.nan)
        for batch in self.arms.run(edits, read=[self.last], memory=memory):
            rows = chosen[list(batch.arms)]
            log_q, log_p = batch.log_probs
            moved = (log_q - log_p)[:, 0, self.tokens] * batch.changed.to(log_q.device)
            change[rows] = moved.cpu().numpy()
            kl[rows] = batch.kl()[:, 0].cpu().numpy()
        # NaN sorts last: exact ones by KL, the others by estimate.
        order = np.lexsort((-np.abs(pairs.estimate), -kl))
        return Effects(
            read_at=self.last,
            target=self.target,
            tokens=np.asarray(self.tokens, dtype=np.int64),
            logp=self.logp.cpu().numpy(),
            position=pairs.position[order],
            feature=pairs.feature[order],
            activation=pairs.activation[order],
            kl=kl[order],
            change=change[order],
            estimate=pairs.estimate[order],
            exact=exact[order],
        )


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 on, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    first = np.cumsum(counts) - counts
    return (first + (counts - 1) / 2)[inverse]
