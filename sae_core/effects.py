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

from sae_core.effect_values import Effects as Effects
from sae_core.effect_values import JointEffect as JointEffect
from sae_core.prediction import Prediction
from sae_core.splice import SplicedLM


def effects(
    lm: SplicedLM,
    ids: Sequence[int],
    sae_name: str,
    position: int,
    *,
    read_at: int | None = None,
    target: int | None = None,
    tokens: int = 8,
    estimates: bool = True,
    memory: int | None = None,
) -> Effects:
    """The exact effect of each feature that is active at token `position`.

    On the prediction after token `read_at` (None: that token itself). `target` is the id of the
    next token whose change is estimated as well (None: the model's likeliest); `tokens` is of how
    many of the likeliest the change is told. Without `estimates` those are NaN and take no time.
    `memory` is that of `Arms.run`. Raises ValueError for tokens that do not exist or keep their
    activation, and for an unknown SAE.
    """
    last = position if read_at is None else read_at
    _check(ids, position, last)
    prediction = Prediction(lm, ids, sae_name, last, target=target, tokens=tokens)
    return prediction.at(position, estimates=estimates, memory=memory)


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
    prediction = Prediction(lm, ids, sae_name, read_at, target=target, tokens=tokens)
    return prediction.of_all_tokens(exact, memory=memory)


def joint_effect(
    lm: SplicedLM,
    ids: Sequence[int],
    sae_name: str,
    pairs: Sequence[tuple[int, int]],
    read_at: int,
    *,
    target: int | None = None,
    tokens: int = 8,
    memory: int | None = None,
) -> JointEffect:
    """What several (token, feature) pairs do to the prediction after token `read_at` when all are
    set to 0 at once, beside what each does alone.

    Other parameters, and errors, as in `effects`; ValueError for no pairs.
    """
    _check(ids, read_at, read_at)
    prediction = Prediction(lm, ids, sae_name, read_at, target=target, tokens=tokens)
    return prediction.together(pairs, memory=memory)


def _check(ids: Sequence[int], position: int, read_at: int) -> None:
    """ValueError if there is no such token, or the prediction comes before it."""
    if not 0 <= position <= read_at < len(ids):
        raise ValueError(
            f"the effect of token {position} on the prediction after token {read_at} is not "
            f"defined: give tokens from 0 to {len(ids) - 1}, the second not before the first."
        )
