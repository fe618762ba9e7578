"""Which feature will steer: how well pushing it makes the model write what it stands for.

The *output score* of Arad, Mueller and Belinkov, "SAEs Are Good for Steering - If You Select the
Right Features" (arXiv 2505.20063), with the constants of their published code. T is the set of the
20 tokens that the feature's decoder row raises most (its logit lens). A neutral prompt is read with
the feature's activation at the last token raised by ten times the largest activation of any feature
there, the SAE's error kept. With p the next-token distribution after that, over a vocabulary V, and
r(t) the rank of token t in it, 0 for the likeliest:

    output score = (1 - min over T of r(t) / |V|) * max over T of p(t)

Beside it stands the *side effect*: KL in nats from the model's own next-token distribution to the
one after a push of equal size for all features, half the norm of the activation at that token:

    y' = y + 0.5 ||y|| W_dec[i] / ||W_dec[i]||

The paper scores on one prompt, the first of `PROMPTS`; both numbers here are means over all.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.arms import ArmBatch, Arms
from sae_core.edits import Edit
from sae_core.index.logits import top_logits
from sae_core.placement import in_float64
from sae_core.progress_bar import Progress, silent
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text, special_ids

PROMPTS = (
    "From my experience,",
    "I once heard that",
    "The news mentioned",
    "Then the man said:",
)
"""The paper's neutral prompt, and three of the beginnings on which its steering was judged."""
LENS_TOKENS = 20
"""Tokens that stand for what a feature writes."""
FACTOR = 10.0
"""Push of the score, in multiples of the largest activation of any feature at the token."""
SIZE = 0.5
"""Push of the side effect, in multiples of the activation's norm."""
_PUSHES = 2
_Measured = Callable[[ArmBatch, Tensor], Tensor]
"""A number of each arm, from a batch and which features its arms are of."""


@dataclass(frozen=True, kw_only=True)
class OutputScores:
    """Two numbers for each feature, NaN where they are not defined."""

    score: Float[np.ndarray, " features"]
    """From 0 to 1; NaN where the decoder row is 0, where the SAE has no logit lens (it writes what
    the MLP reads), and where no prompt's last token has an active feature."""
    side_effect: Float[np.ndarray, " features"]
    """Nats, 0 or more; NaN where the decoder row is 0."""

    def columns(self) -> tuple[list[float | None], list[float | None]]:
        """Both as an index has them, None for NaN."""
        score, effect = (
            [None if math.isnan(value) else value for value in column.tolist()]
            for column in (self.score, self.side_effect)
        )
        return score, effect


def settings() -> dict[str, Any]:
    """What the scores of an index were measured with, as its meta entry `output_scores`."""
    return {
        "prompts": list(PROMPTS),
        "lens_tokens": LENS_TOKENS,
        "factor": FACTOR,
        "size": SIZE,
    }


def arms_of(features: int, prompts: Sequence[str] = PROMPTS) -> int:
    """How many tokens are run for the scores of so many features: each is an arm of one token."""
    return features * _PUSHES * len(prompts)


def are_due(wanted: Literal["auto", "on", "off"], arms: int, tokens: int) -> bool:
    """Whether an index of so many tokens has scores; `auto`: if their arms are at most a tenth.

    A token of an arm and one that is read take about the same time: the first skips what comes
    before the SAE and has the head, the second has all features' statistics.
    """
    return wanted == "on" or (wanted == "auto" and 10 * arms <= tokens)


def output_scores(
    lm: SplicedLM,
    sae_name: str,
    features: Sequence[int] | None = None,
    *,
    prompts: Sequence[str] = PROMPTS,
    memory: int | None = None,
    progress: Progress = silent,
) -> OutputScores:
    """Output score and side effect of some features, or of all.

    `memory` is that of `Arms.run`, `progress` is told of arms (`arms_of` says how many there are).
    The logit lens is that of an index (docs/format.md), in which special tokens do not count.
    Raises ValueError for an unknown SAE or feature, and for no prompts or an empty one.
    """
    sae = lm.sae(sae_name)
    ids = torch.arange(sae.cfg.d_sae) if features is None else torch.tensor(list(features))
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < sae.cfg.d_sae:
        raise ValueError(f"features must be from 0 to {sae.cfg.d_sae - 1}.")
    if not prompts or not all(prompts):
        raise ValueError("output scores need prompts with a text.")
    where = ids.to(sae.W_dec.device)
    lens = top_logits(lm.model, sae, LENS_TOKENS, special_ids(lm.tokenizer), where).raises
    norms = sae.W_dec.detach()[where].float().norm(dim=1).cpu()
    scores, effects = [], []
    for prompt in prompts:
        each = _Prompt(lm, sae_name, prompt, memory, progress)
        scores.append(each.scores(ids, norms, lens))
        effects.append(each.side_effects(ids, norms))
    return OutputScores(
        # A prompt that has nothing to multiply leaves the others' mean.
        score=torch.stack(scores).nanmean(0).numpy(),
        side_effect=torch.stack(effects).nanmean(0).numpy(),
    )


class _Prompt:
    """One prompt, at whose last token features are pushed."""

    def __init__(
        self, lm: SplicedLM, sae_name: str, prompt: str, memory: int | None, progress: Progress
    ) -> None:
        self._name, self._memory, self._progress = sae_name, memory, progress
        tokens = encode_text(lm.tokenizer, prompt)
        self._last = len(tokens) - 1
        self._arms = Arms(lm, tokens, [sae_name])
        sae, sites = lm.sae(sae_name), self._arms.base.sites
        with torch.no_grad():
            acts = sae.encode(sites[lm.site(sae_name)][:, -1].float().to(sae.W_dec.device))
        self._largest = float(acts.max())
        self._norm = float(sites[lm.target(sae_name)][0, -1].float().norm())

    def scores(
        self, ids: Int[Tensor, " n"], norms: Float[Tensor, " n"], lens: Int[Tensor, "n k"]
    ) -> Float[Tensor, " n"]:
        """Each feature's score on this prompt, float64."""

        def score(batch: ArmBatch, rows: Tensor) -> Tensor:
            log_probs = batch.log_probs[0][:, 0]
            likeliest = log_probs.gather(1, lens[rows].to(log_probs.device)).max(dim=1).values
            # Of T the likeliest token has the smallest rank.
            rank = (log_probs > likeliest[:, None]).sum(1)
            return (1 - rank / log_probs.shape[1]) * likeliest.exp()

        defined = lens.shape[1] > 0 and self._largest > 0
        due = (norms > 0) & defined
        return self._each(ids, torch.full_like(norms, FACTOR * self._largest), due, score)

    def side_effects(
        self, ids: Int[Tensor, " n"], norms: Float[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Each feature's KL on this prompt, nats, float64."""
        pushes = SIZE * self._norm / norms.clamp(min=torch.finfo(norms.dtype).tiny)
        return self._each(ids, pushes, norms > 0, lambda batch, _: batch.kl()[:, 0])

    def _each(self, ids: Tensor, pushes: Tensor, due: Tensor, measured: _Measured) -> Tensor:
        """`measured` of the arms in which features are raised by `pushes`, NaN where not `due`."""
        rows = due.nonzero()[:, 0]
        values = in_float64(torch.full(ids.shape, torch.nan))
        arms = [
            [Edit(feature=f, mode="add", value=v, positions=(self._last,), sae=self._name)]
            for f, v in zip(ids[rows].tolist(), pushes[rows].tolist(), strict=True)
        ]
        for batch in self._arms.run(arms, memory=self._memory):
            some = rows[list(batch.arms)]
            values[some] = in_float64(measured(batch, some)).cpu()
            self._progress(len(some))
        self._progress(len(ids) - len(rows))
        return values
