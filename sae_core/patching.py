"""Patching: features of one text take the activations that they have on another.

At token b of text B, feature i is set to the activation that it has at the aligned token a of text
A, and B's reconstruction error is kept (`sae_core.arms`):

    y'        = y_B + sum over i of (a_i^A - a_i^B) W_dec[i]
    kl        = KL(P_B || P')        nats: how far B's prediction moves
    kl_from_a = KL(P_A || P')        nats: how far it still is from A's; KL(P_A || P_B) before
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.arms import Arms
from sae_core.compare import Comparison, divergence
from sae_core.edits import Edit
from sae_core.sites import activations
from sae_core.splice import SplicedLM


@dataclass(frozen=True, kw_only=True)
class Patch:
    """Each feature's patch alone, and all of them together as the last arm."""

    features: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]
    """Where activations come from, tokens of A, and where they go, tokens of B."""
    read: tuple[tuple[int, int], ...]
    """After which tokens of A and B predictions are compared."""
    a: np.ndarray
    """Activations at the pairs' tokens in A, `[pairs, features]`; `b` those in B before."""
    b: np.ndarray
    kl: np.ndarray
    """From B's prediction to the patched one, nats `[arms, read]`."""
    kl_from_a: np.ndarray
    """From A's prediction to the patched one, nats `[arms, read]`."""
    kl_before: np.ndarray
    """From A's prediction to B's, nats `[read]`."""
    log_probs_a: Float[Tensor, "read vocab"]
    """Next-token log-probabilities, float64: A's, B's, and B's with all patches together."""
    log_probs_b: Float[Tensor, "read vocab"]
    log_probs_patched: Float[Tensor, "read vocab"]

    def __repr__(self) -> str:
        """What was patched, and what it came to at the last prediction, in one line."""
        return (
            f"Patch({len(self.features)} features at {len(self.pairs)} tokens; KL from A "
            f"{self.kl_before[-1]:.3g}, patched {self.kl_from_a[-1, -1]:.3g})"
        )


@torch.no_grad()
def patch(
    texts: Comparison,
    sae_name: str,
    features: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    *,
    read: Sequence[tuple[int, int]] | None = None,
    memory: int | None = None,
) -> Patch:
    """Put the activations of `features` at tokens of A in place of those at tokens of B.

    `read` lists after which tokens of A and B predictions are compared (None: the last ones);
    `memory` is that of `Arms.run`. Raises ValueError for tokens that do not exist or keep their
    activation, for no feature or pair, and for an unknown SAE or feature.
    """
    lm, chosen = texts.lm, list(dict.fromkeys(features))
    where = [(len(texts.a) - 1, len(texts.b) - 1)] if read is None else list(read)
    if not chosen or not pairs or not where:
        raise ValueError("a patch needs a feature, a pair of tokens, and a prediction.")
    lm.check_features(sae_name, chosen)
    values = _acts(lm, texts.a, sae_name, chosen, [a for a, _ in pairs])
    values_b = _acts(lm, texts.b, sae_name, chosen, [b for _, b in pairs])
    alone = [
        [
            Edit(feature=feature, mode="set", value=float(value), positions=(b,), sae=sae_name)
            for (a, b), value in zip(pairs, values[:, column], strict=True)
            # There both have what only rounding could tell apart.
            if not texts.is_shared(a, b)
        ]
        for column, feature in enumerate(chosen)
    ]
    arms = [*alone, [edit for arm in alone for edit in arm]]
    own = [texts.log_probs(a, b) for a, b in where]
    log_p, log_q = (torch.stack(each) for each in zip(*own, strict=True))
    kl = np.zeros((len(arms), len(where)))
    kl_from_a, before = kl.copy(), np.array([divergence(*each) for each in own])
    patched = log_q.clone()
    for batch in Arms(lm, texts.b, [sae_name]).run(arms, read=[b for _, b in where], memory=memory):
        moved, unedited = batch.log_probs
        # From the row without edits, whose products have the same shape, to B's own prediction.
        change = (moved - unedited) * batch.changed[:, :, None].to(moved.device)
        rows = list(batch.arms)
        kl[rows] = batch.kl().cpu().numpy()
        nearer = torch.linalg.vecdot(log_p.exp().to(change.device)[None], change)
        kl_from_a[rows] = np.maximum(0, before - nearer.cpu().numpy())
        if len(arms) - 1 in rows:
            patched += change[rows.index(len(arms) - 1)].to(patched.device)
    return Patch(
        features=tuple(chosen),
        pairs=tuple(pairs),
        read=tuple(where),
        a=values,
        b=values_b,
        kl=kl,
        kl_from_a=kl_from_a,
        kl_before=before,
        log_probs_a=log_p,
        log_probs_b=log_q,
        log_probs_patched=patched,
    )


def _acts(
    lm: SplicedLM, ids: list[int], sae_name: str, features: list[int], tokens: list[int]
) -> np.ndarray:
    """Activations of features at some tokens of a text, `[tokens, features]`.

    ValueError for a token that there is not, or that keeps its activation.
    """
    if outside := [token for token in tokens if not 0 <= token < len(ids)]:
        raise ValueError(
            f"token {outside[0]} is not of the text: it has tokens 0 to {len(ids) - 1}."
        )
    sae, site, target = lm.sae(sae_name), lm.site(sae_name), lm.target(sae_name)
    with lm.lock:
        captured = activations(lm.model, torch.tensor([ids], device=lm.device), [site, target])
    x, y = captured[site][0], captured[target][0]
    kept = lm.is_special(ids)
    kept[0] |= lm.has_sink(sae, x, y)
    if left := [token for token in tokens if kept[token]]:
        raise ValueError(
            f"token {left[0]} is a special token or an attention sink, which keeps its "
            "activation: choose another."
        )
    index = torch.tensor(features, device=sae.W_dec.device)
    return sae.feature_acts(x.float(), index)[tokens].cpu().numpy()
