"""Generated texts as the unedited model reads them: what fires on each new token, and how likely it
was.

While a text is generated with edits, the model's activations carry the edits themselves: a feature
that is set fires by decree. Whether the *text* came to be about what the feature stands for is seen
when the model reads it afresh, without edits. Texts that go on from one prompt are read as rows of
one batch over its keys and values (`sae_core.prefix_cache`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.config import Site
from sae_core.head import chunks, head
from sae_core.placement import in_float64
from sae_core.resume import BaseForward
from sae_core.sae import SAE
from sae_core.sites import capture
from sae_core.splice import SplicedLM

MEMORY = {"cuda": 2**30}
"""Bytes that a batch of texts takes unless the caller says otherwise."""
MEMORY_ELSEWHERE = 2**28

_ENCODED = 2**24
"""Elements of the largest array over tokens and features: 64 MB in float32."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One text's new tokens as the unedited model reads them. Arrays over them have length n."""

    acts: Float[np.ndarray, "n watched"]
    """Activations of the watched features, 0 at special tokens."""
    logp: Float[np.ndarray, " n"]
    """Log-probability of each token given all before it, nats."""
    special: np.ndarray
    """Which tokens are special: they count in no share."""

    def firing_share(self, watched: int = 0) -> float:
        """Share of the new tokens on which a watched feature fires; NaN for a text without any."""
        counted = self.acts[~self.special, watched]
        return float((counted > 0).mean()) if len(counted) else float("nan")

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood of the new tokens, special ones too, nats per token; NaN for
        a text without any.
        """
        return float(-self.logp.mean()) if len(self.logp) else float("nan")


@torch.no_grad()
def readback(
    lm: SplicedLM,
    ids: Sequence[int],
    texts: Sequence[Sequence[int]],
    watch: Sequence[tuple[str, int]],
    *,
    memory: int | None = None,
) -> list[Reading]:
    """Each of `texts`, the new tokens' ids after the prompt `ids`, read by the model without edits.

    `watch` lists (SAE name, feature) whose activations each token gets, of any of the loaded SAEs.
    Texts may differ in length and be empty. `memory` bounds the bytes of a batch, of at least one
    text. Raises ValueError for a prompt without tokens, for an unknown SAE or feature, and for a
    model that keeps no keys and values.
    """
    if not ids:
        raise ValueError("a prompt without tokens cannot be continued.")
    for name, feature in watch:
        lm.check_features(name, [feature])
    study = _Study(lm, list(ids), watch)
    limit = memory or MEMORY.get(lm.device.type, MEMORY_ELSEWHERE)
    readings: dict[int, Reading] = {}
    # Sorted, so that texts read together are about as long as one another.
    longest_first = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
    while longest_first:
        longest = len(texts[longest_first[0]])
        count = max(1, limit // study.bytes_of_row(longest))
        rows, longest_first = longest_first[:count], longest_first[count:]
        readings.update(zip(rows, study.read([list(texts[row]) for row in rows]), strict=True))
    return [readings[row] for row in range(len(texts))]


class _Study:
    """A prompt whose keys and values are kept, and the features to look for."""

    def __init__(self, lm: SplicedLM, ids: list[int], watch: Sequence[tuple[str, int]]) -> None:
        self.lm, self.watch = lm, list(watch)
        self.start, self.last = len(ids) - 1, ids[-1]
        self.features = {
            name: torch.tensor([f for n, f in watch if n == name], device=lm.sae(name).W_enc.device)
            for name in dict.fromkeys(name for name, _ in watch)
        }
        with lm.lock:
            # The prompt's last token is read again with each text: it predicts the first new one.
            self.base = BaseForward(lm.model, ids[:-1]) if self.start else None

    def bytes_of_row(self, new: int) -> int:
        """About what one text of that many new tokens takes."""
        config = self.lm.model.config.get_text_config()
        width, size, tokens = int(config.hidden_size), self.lm.model.dtype.itemsize, new + 1
        inner = int(getattr(config, "intermediate_size", None) or 4 * width)
        heads, stop = int(config.num_attention_heads), self.start + tokens
        # Keys and values are joined to the prompt's, then repeated for heads that share them.
        attention = stop * 4 * width * size + 3 * 4 * heads * tokens * stop
        return attention + tokens * (10 * width + 3 * inner + 2 * width * len(self.features)) * size

    def read(self, texts: list[list[int]]) -> Iterator[Reading]:
        """Texts as rows of one batch, right-padded: in a causal model that changes nothing."""
        longest = max(map(len, texts))
        rows = [[self.last, *text, *[self.last] * (longest - len(text))] for text in texts]
        row_ids = torch.tensor(rows, device=self.lm.device)
        hidden, acts = self._forward(row_ids)
        logp = self._log_probs(hidden[:, :-1], row_ids[:, 1:])
        for row, text in enumerate(texts):
            special = np.asarray(self.lm.is_special(text), dtype=bool)
            kept = acts[row, 1 : len(text) + 1]
            yield Reading(
                # Adding 0 turns the -0.0 of a screened-out negative into 0.0.
                acts=np.where(special[:, None], np.float32(0), kept + np.float32(0)),
                logp=logp[row, : len(text)],
                special=special,
            )

    def _forward(
        self, ids: Int[Tensor, "rows pos"]
    ) -> tuple[Float[Tensor, "rows pos hidden"], Float[np.ndarray, "rows pos watched"]]:
        """What the head reads, and the watched features' activations in the order of `watch`."""
        lm = self.lm
        sites: list[Site] = sorted({lm.site(name) for name in self.features}, key=str)
        cache = {"use_cache": False}
        if self.base is not None:
            from sae_core.prefix_cache import prefix_cache

            cache = {
                "use_cache": True,
                "past_key_values": prefix_cache(self.base.keys, self.start),
            }
        with lm.lock, capture(lm.model, sites) as captured:
            hidden = lm.model.base_model(input_ids=ids, **cache).last_hidden_state
        acts = np.zeros((*ids.shape, len(self.watch)), dtype=np.float32)
        for name, features in self.features.items():
            columns = [w for w, (other, _) in enumerate(self.watch) if other == name]
            acts[..., columns] = _acts(lm.sae(name), captured[lm.site(name)], features)
        return hidden, acts

    def _log_probs(
        self, hidden: Float[Tensor, "rows pos hidden"], ids: Int[Tensor, "rows pos"]
    ) -> Float[np.ndarray, "rows pos"]:
        """Log-probability of each of `ids` by the state before it."""
        states, targets = hidden.flatten(0, 1), ids.flatten()
        parts = [np.zeros(0)]
        for part in chunks(self.lm.model, len(states)):
            logits = head(self.lm.model, states[part]).float()
            wanted = targets[part, None].to(logits.device)
            logp = logits.log_softmax(-1).gather(-1, wanted)[:, 0]
            parts.append(in_float64(logp).cpu().numpy())
        return np.concatenate(parts).reshape(ids.shape)


def _acts(
    sae: SAE, x: Float[Tensor, "rows pos d_model"], features: Tensor
) -> Float[np.ndarray, "rows pos n"]:
    """Activations of some features, encoded in parts of so few tokens that a wide SAE needs no
    more.
    """
    flat = x.flatten(0, 1)
    size = max(1, _ENCODED // sae.cfg.d_sae)
    parts = [
        sae.feature_acts(flat[start : start + size].float(), features).cpu().numpy()
        for start in range(0, len(flat), size)
    ]
    return np.concatenate(parts).reshape(*x.shape[:2], len(features))
