"""Which features to open first: a stated, deterministic rule."""

from collections.abc import Sequence

import numpy as np

from sae_core.index.signature import Signature

RULE = (
    "Features that fire on 0.01 % to 2 % of tokens, at least 40 % of it on the few words of their "
    "signature, ranked by how much these words say (bits, and how many there are); none whose "
    "decoder is close to one chosen before (cosine above 0.3) or whose words are the same. Where "
    "there are too few such features, others that fire follow by the same ranking."
)
KEPT = 96
_FREQUENCY = (1e-4, 2e-2)
_SHARE = 0.4
_COSINE = 0.3


def rank_features(
    signatures: Sequence[Signature], frequency: np.ndarray, near: np.ndarray, cosine: np.ndarray
) -> list[list[int | str]]:
    """Up to `KEPT` features worth opening, best first, each with a reason of a few words.

    `frequency [d_sae]`; `near`, `cosine [d_sae, k]` are each feature's nearest by decoder.
    """
    fitting = (
        (frequency >= _FREQUENCY[0])
        & (frequency <= _FREQUENCY[1])
        & (np.array([signature.share for signature in signatures]) >= _SHARE)
    )
    candidates = np.flatnonzero(frequency > 0).tolist()
    candidates.sort(key=lambda i: (not fitting[i], -_score(signatures[i]), i))
    found: list[list[int | str]] = []
    barred: set[int] = set()
    words: set[str] = set()
    for feature in candidates:
        signature = signatures[feature]
        own = {word.casefold() for word in signature.words}
        close = set(near[feature][cosine[feature] > _COSINE].tolist())
        if feature in barred or own & words or close & {int(row[0]) for row in found}:
            continue
        found.append([feature, _reason(signature)])
        barred |= close
        words |= own
        if len(found) == KEPT:
            break
    return found


def _score(signature: Signature) -> float:
    return signature.bits * float(np.log2(1 + len(signature.words)))


def _reason(signature: Signature) -> str:
    if not signature.words:
        return "fires on many tokens"
    noun = "one word" if len(signature.words) == 1 else f"{len(signature.words)} words"
    return f"{100 * signature.share:.0f} % of its firing is on {noun}"
