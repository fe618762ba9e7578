"""One prediction of a text, ready to be explained: `sae_core.effects` says what its numbers mean.

The text runs once as it is (`sae_core.arms`); everything that is asked of the prediction afterwards
goes on from that run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.arms import ArmBatch, Arms
from sae_core.edits import Edit
from sae_core.effect_values import Effects, JointEffect
from sae_core.head import head
from sae_core.placement import in_float64
from sae_core.sites import rewrite
from sae_core.splice import SplicedLM
from sae_core.tokens import token_texts

_ENCODED = 2**24
"""Elements of the largest array over tokens and features: 64 MB in float32."""

Objective = Callable[[Float[Tensor, " vocab"]], Float[Tensor, ""]]
"""A number made of one token's logits, float32, whose gradient is wanted."""

Pair = tuple[int, int]
"""Number of a token, and of a feature on it."""


class Prediction:
    """What the model predicts after token `read_at` of a text, with one SAE to explain it by.

    `target` is the id of the next token whose change is estimated (None: the model's likeliest);
    `tokens` is of how many of the likeliest the changes are told. Raises ValueError for a token or
    target that does not exist and for an unknown SAE.
    """

    def __init__(
        self,
        lm: SplicedLM,
        ids: Sequence[int],
        sae_name: str,
        read_at: int,
        *,
        target: int | None = None,
        tokens: int = 8,
    ) -> None:
        if not 0 <= read_at < len(ids):
            raise ValueError(
                f"there is no prediction after token {read_at}: give one from 0 to {len(ids) - 1}."
            )
        self.lm, self.name, self.sae, self.read_at = lm, sae_name, lm.sae(sae_name), read_at
        # Nothing later matters, but to whether the first token is an attention sink.
        whole = lm.tokenizer.bos_token_id is None
        self.arms = Arms(lm, ids if whole else ids[: read_at + 1], [sae_name])
        self.x = self.arms.base.sites[lm.site(sae_name)][0]
        self.y = self.arms.base.sites[lm.target(sae_name)][0]
        self.counted = counted_tokens(self.arms, sae_name)
        logp = in_float64(self.arms.logits([read_at])[0]).log_softmax(-1)
        if target is not None and not 0 <= target < len(logp):
            raise ValueError(f"target {target} is not a token's id: give 0 to {len(logp) - 1}.")
        likeliest = logp.topk(min(max(1, tokens), len(logp))).indices.tolist()
        self.target = likeliest[0] if target is None else target
        self.tokens = list(dict.fromkeys([*likeliest, self.target]))
        """Ids of the next tokens whose changes are told, the likeliest first, and the target."""
        self.logp = logp[self.tokens].cpu().numpy()
        """The model's own log-probabilities of these, nats."""
        self._all_logp = logp

    def at(self, position: int, *, estimates: bool = True, memory: int | None = None) -> Effects:
        """The exact effect of each feature that is active at token `position`; ValueError if there
        is none such up to `read_at`, or it keeps its activation.

        Without `estimates` those are NaN, which saves a forward of the later blocks and a backward.
        """
        if not 0 <= position <= self.read_at:
            raise ValueError(
                f"token {position} has no effect on the prediction after token {self.read_at}: "
                f"give one from 0 to {self.read_at}."
            )
        self._check_counted(position)
        pairs = self._pairs(position, position + 1, estimates=estimates)
        return self._measured(pairs, np.arange(len(pairs.feature)), memory)

    def of_all_tokens(self, exact: int = 30, *, memory: int | None = None) -> Effects:
        """Estimates for each feature that is active at any token up to `read_at`, and the exact
        effects of the `exact` pairs with the largest ones.
        """
        pairs = self._pairs(0, self.read_at + 1)
        largest = np.argsort(-np.abs(pairs.estimate), kind="stable")[: max(0, exact)]
        return self._measured(pairs, largest, memory)

    def together(self, pairs: Sequence[Pair], *, memory: int | None = None) -> JointEffect:
        """What (token, feature) pairs do when all are set to 0 at once, and each alone; a pair that
        is named twice counts once.

        ValueError for a feature or token that does not exist, for a token that keeps its
        activation, and for no pairs.
        """
        if not pairs:
            raise ValueError("no features are named: name those to set to 0 together.")
        for position, _ in pairs:
            if not 0 <= position <= self.read_at:
                raise ValueError(
                    f"token {position} has no effect on the prediction after token "
                    f"{self.read_at}: give one from 0 to {self.read_at}."
                )
            self._check_counted(position)
        pairs = list(dict.fromkeys(pairs))
        alone = [[self._ablation(pair)] for pair in pairs]
        arms = [*alone, [edit for each in alone for edit in each]]
        kl, change = np.zeros(len(arms)), np.zeros((len(arms), len(self.tokens)))
        becomes, becomes_logp = np.zeros(len(arms), dtype=np.int64), np.zeros(len(arms))
        for batch in self.arms.run(arms, read=[self.read_at], memory=memory):
            rows = list(batch.arms)
            kl[rows], change[rows], becomes[rows], becomes_logp[rows] = self._of_batch(batch)
        return JointEffect(
            pairs=tuple(pairs),
            tokens=np.asarray(self.tokens, dtype=np.int64),
            kl=float(kl[-1]),
            change=change[-1],
            becomes=int(becomes[-1]),
            becomes_logp=float(becomes_logp[-1]),
            kl_alone=kl[:-1],
            change_alone=change[:-1],
        )

    @torch.no_grad()
    def spliced(self) -> tuple[np.ndarray, float]:
        """Log-probabilities of `tokens` with the SAE's reconstruction in place of every activation
        that counts, nats, and KL in nats from the model's own distribution.
        """
        recon = torch.cat(
            [
                self.sae.output(self.sae.encode(part), part)
                for part in self.x[: self.read_at + 1].float().split(self._rows())
            ]
        )
        kept = ~self.counted[: self.read_at + 1]

        def splice(_x: Tensor, y: Tensor) -> Tensor:
            made = recon.to(y.device, y.dtype)
            return torch.where(kept.to(y.device)[:, None], y, made)

        where = (self.lm.site(self.name), self.lm.target(self.name))
        with self.lm.lock, rewrite(self.lm.model, *where, splice):
            after = self.arms.after(self.name)
            hidden = self.arms.base.resumed(1, 0, self.read_at + 1, after)
        log_q = in_float64(head(self.lm.model, hidden[0, -1])).log_softmax(-1)
        log_p = self._all_logp.to(log_q.device)
        kl = float(torch.linalg.vecdot(log_p.exp(), log_p - log_q))
        return log_q[self.tokens].cpu().numpy(), max(0.0, kl)

    def _pairs(self, start: int, stop: int, *, estimates: bool = True) -> "_Pairs":
        """The pairs of tokens start to stop - 1, by token, then feature."""
        if estimates:
            gradient = gradient_of(
                self.arms,
                self.name,
                start,
                self.read_at,
                lambda logits: logits.log_softmax(-1)[self.target],
            )
        else:
            gradient = None
        parts: list[tuple[Tensor, ...]] = []
        size = self._rows()
        with torch.no_grad():
            for first in range(start, stop, size):
                here = slice(first, min(first + size, stop))
                acts = self.sae.encode(self.x[here].float())
                acts = acts * self.counted[here, None].to(acts.device)
                token, feature = acts.nonzero(as_tuple=True)
                activation = acts[token, feature]
                if gradient is None:
                    estimate = torch.full_like(activation, torch.nan)
                else:
                    slopes = gradient[here.start - start : here.stop - start] @ self.sae.W_dec.T
                    estimate = -activation * slopes[token, feature]
                parts.append((token + first, feature, activation, estimate))
        columns = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
        position, feature, activation, estimate = columns
        return _Pairs(position=position, feature=feature, activation=activation, estimate=estimate)

    def _measured(self, pairs: "_Pairs", chosen: np.ndarray, memory: int | None) -> Effects:
        """All pairs, the chosen ones set to 0 one by one."""
        count = len(pairs.feature)
        edits = [
            [self._ablation((int(pairs.position[pair]), int(pairs.feature[pair])))]
            for pair in chosen
        ]
        exact = np.zeros(count, dtype=bool)
        exact[chosen] = True
        kl = np.full(count, np.nan)
        change = np.full((count, len(self.tokens)), np.nan)
        becomes, becomes_logp = np.full(count, -1, dtype=np.int64), np.full(count, np.nan)
        for batch in self.arms.run(edits, read=[self.read_at], memory=memory):
            rows = chosen[list(batch.arms)]
            kl[rows], change[rows], becomes[rows], becomes_logp[rows] = self._of_batch(batch)
        # NaN sorts last: exact ones by KL, the others by estimate.
        order = np.lexsort((-np.abs(pairs.estimate), -kl))
        return Effects(
            read_at=self.read_at,
            target=self.target,
            tokens=np.asarray(self.tokens, dtype=np.int64),
            logp=self.logp,
            position=pairs.position[order],
            feature=pairs.feature[order],
            activation=pairs.activation[order],
            kl=kl[order],
            change=change[order],
            becomes=becomes[order],
            becomes_logp=becomes_logp[order],
            estimate=pairs.estimate[order],
            exact=exact[order],
            texts=self._texts({*self.tokens, self.target, *becomes[exact].tolist()}),
        )

    def _texts(self, ids: set[int]) -> dict[int, str]:
        """Texts of ids, each by itself."""
        return {each: token_texts([each], self.lm.vocabulary)[0] for each in sorted(ids)}

    def _of_batch(self, batch: ArmBatch) -> tuple[np.ndarray, ...]:
        """KL, changes of `tokens`, likeliest token and its log-probability, of each arm."""
        log_q, log_p = batch.log_probs
        moved = (log_q - log_p)[:, 0, self.tokens] * batch.changed.to(log_q.device)
        logp, token = log_q[:, 0].max(-1)
        columns = (batch.kl()[:, 0], moved, token, logp)
        return tuple(column.cpu().numpy() for column in columns)

    def _check_counted(self, position: int) -> None:
        """ValueError for a token whose features have no effects."""
        if not self.counted[position]:
            raise ValueError(
                f"token {position} is a special token or an attention sink, which keeps its "
                "activation: choose another."
            )

    def _ablation(self, pair: Pair) -> Edit:
        position, feature = pair
        return Edit(feature=feature, mode="ablate", positions=(position,), sae=self.name)

    def _rows(self) -> int:
        """How many tokens are encoded at once."""
        return max(1, _ENCODED // self.sae.cfg.d_sae)


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """Active features of some tokens, with the estimated change of the target or NaN."""

    position: np.ndarray
    feature: np.ndarray
    activation: np.ndarray
    estimate: np.ndarray


def counted_tokens(arms: Arms, sae_name: str) -> Tensor:
    """Which tokens' features count, bool `[pos]`: neither special ones' nor an attention sink's."""
    lm = arms.lm
    x, y = (arms.base.sites[site][0] for site in (lm.site(sae_name), lm.target(sae_name)))
    counted = ~torch.tensor(arms.special)
    counted[:1] &= not lm.has_sink(lm.sae(sae_name), x, y)
    return counted


def gradient_of(
    arms: Arms, sae_name: str, start: int, read_at: int, objective: Objective
) -> Float[Tensor, "pos d_out"]:
    """Of a number made of the logits after token `read_at`, with respect to what the SAE
    reconstructs at the tokens from `start` to it, float32.
    """
    lm = arms.lm
    leaves: list[Tensor] = []

    def leaf(_x: Tensor, y: Tensor) -> Tensor:
        leaves.append(y.detach().requires_grad_())
        return leaves[-1]

    with (
        torch.enable_grad(),
        lm.lock,
        rewrite(lm.model, lm.site(sae_name), lm.target(sae_name), leaf),
    ):
        hidden = arms.base.resumed(1, start, read_at + 1, arms.after(sae_name))
        value = objective(head(lm.model, hidden[0, -1]).float())
        (gradient,) = torch.autograd.grad(value, leaves)
    return gradient[0].float().to(lm.sae(sae_name).W_dec.device)
