"""The arrays of pages that say what the decoder rows say, packed: they wait for no text."""

import numpy as np

from sae_core.index.feature_pages import FEATURES, packed
from sae_core.index.in_processes import in_processes
from sae_core.index.logits import TopLogits

_PAGES = 16
"""Pages whose arrays are packed together."""


def decoder_arrays(
    logits: TopLogits, near: np.ndarray, cosine: np.ndarray
) -> list[dict[str, bytes]]:
    """Those of each page; `near`, `cosine [d_sae, k]` are each feature's nearest by decoder."""
    arrays = {
        "raises": logits.raises.numpy(),
        "raises_logit": logits.raises_logit.numpy(),
        "lowers": logits.lowers.numpy(),
        "lowers_logit": logits.lowers_logit.numpy(),
        "neighbour": near,
        "cosine": cosine,
    }

    def of_page(number: int) -> dict[str, bytes]:
        some = slice(number * FEATURES, (number + 1) * FEATURES)
        page = {name: array[some] for name, array in arrays.items()}
        return packed(page | {"cosine": np.rint(page["cosine"] * 32767)})

    pages = -(-len(near) // FEATURES)

    def block(number: int) -> list[dict[str, bytes]]:
        return list(map(of_page, range(number * _PAGES, min((number + 1) * _PAGES, pages))))

    with in_processes(block, -(-pages // _PAGES)) as blocks:
        return [page for block in blocks for page in block]
