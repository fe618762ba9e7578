"""Uniformity of active features' effects on the tokens of one text, as `sae_core.evaluation` has it
of many rows: the effects are the linear ones, activation times gradient.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from sae_core.arms import Arms
from sae_core.metrics import uniformity_by_token
from sae_core.prediction import Objective, counted_tokens, gradient_of
from sae_core.splice import SplicedLM


def uniformity_of_text(
    lm: SplicedLM, ids: Sequence[int], sae_name: str, *, most: int = 64
) -> tuple[float, int]:
    """Uniformity of active features' effects, the mean over tokens, and over how many.

    As `sae_core.evaluation.uniformity`, on every token of one text that counts and has a next one
    that does, or on `most` of them, evenly spread. One short backward a token. NaN where no token
    defines it.
    """
    arms = Arms(lm, ids, [sae_name])
    counted = counted_tokens(arms, sae_name)
    usable = [t for t in range(len(ids) - 1) if counted[t] and not arms.special[t + 1]]
    if len(usable) > most:
        usable = [usable[i * len(usable) // most] for i in range(most)]
    values = uniformities(arms, sae_name, {token: ids[token + 1] for token in usable})
    values = values[~np.isnan(values)]
    return (float(values.mean()) if len(values) else float("nan")), len(values)


def uniformities(arms: Arms, sae_name: str, correct: Mapping[int, int]) -> np.ndarray:
    """Of tokens that count, each with the id of the one that comes next, in their order; NaN where
    no feature is active or matters.
    """
    if not correct:
        return np.zeros(0)
    lm, tokens = arms.lm, list(correct)
    sae, x = lm.sae(sae_name), arms.base.sites[lm.site(sae_name)][0]

    def centred(token: int) -> Objective:
        return lambda logits: logits[correct[token]] - logits.mean()

    gradients = [gradient_of(arms, sae_name, token, token, centred(token)) for token in tokens]
    with torch.no_grad():
        acts = sae.encode(x[tokens].float())
        effects = acts * (torch.cat(gradients) @ sae.W_dec.T)
        return uniformity_by_token(effects, acts).cpu().numpy()
