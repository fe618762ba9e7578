"""What an SAE's features do on many texts, as arrays: `feature_activations`."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from sae_core.corpus import Document, TokenRow, batches, token_rows
from sae_core.sites import activations
from sae_core.splice import SplicedLM

CONTEXT_SIZE = 128
"""Tokens of a row, BOS included, unless another size is given."""


@dataclass(frozen=True, kw_only=True)
class FeatureActivations:
    """The active features of some texts: arrays of one length, an entry for each (token, feature),
    by text, then token, then feature.
    """

    text: np.ndarray
    """Number of the text."""
    position: np.ndarray
    """Place of the token in its text, the first after BOS being 0."""
    token: np.ndarray
    """The token's id."""
    feature: np.ndarray
    activation: np.ndarray
    tokens: int
    """How many tokens were counted: neither special ones nor an attention sink."""
    texts: int
    """How many texts there were, those without an active feature included."""
    d_sae: int

    def __len__(self) -> int:
        """How many entries there are."""
        return len(self.feature)

    def columns(self) -> dict[str, np.ndarray]:
        """The arrays by name, as a data frame or a file takes them."""
        names = ("text", "position", "token", "feature", "activation")
        return {name: getattr(self, name) for name in names}

    def top_features(self, count: int = 10) -> list[tuple[int, float, float]]:
        """Features by falling mean activation over all tokens: (feature, mean, share of tokens on
        which it fires).
        """
        sums = np.bincount(self.feature, self.activation, self.d_sae)
        fires = np.bincount(self.feature, minlength=self.d_sae)
        order = np.argsort(-sums, kind="stable")[:count]
        counted = max(1, self.tokens)
        return [(int(i), float(sums[i] / counted), float(fires[i] / counted)) for i in order]

    def dense(self) -> torch.Tensor:
        """The largest activation of each feature in each text, float32 `[texts, d_sae]`; 0 where it
        does not fire.
        """
        made = torch.zeros(self.texts * self.d_sae)
        flat = torch.from_numpy(self.text * self.d_sae + self.feature)
        made.scatter_reduce_(0, flat, torch.from_numpy(self.activation), "amax")
        return made.view(self.texts, self.d_sae)


@torch.no_grad()
def feature_activations(
    lm: SplicedLM,
    sae_name: str,
    texts: Iterable[str],
    *,
    context_size: int = CONTEXT_SIZE,
    batch_rows: int = 16,
) -> FeatureActivations:
    """Every active feature of every token of the texts, which are cut into rows of `context_size`.

    The model runs up to the SAE's site. ValueError for an unknown SAE or a context size below 2.
    """
    sae, site = lm.sae(sae_name), lm.site(sae_name)
    numbers = itertools.count()
    documents = (Document(next(numbers), text, "", "", "") for text in texts)
    rows = token_rows(documents, lm.tokenizer, context_size)
    columns: list[tuple[np.ndarray, ...]] = []
    counted = 0
    for batch in batches(rows, lm.tokenizer, batch_rows):
        with lm.lock:
            x = activations(lm.model, batch.input_ids.to(lm.device), [site])[site].float()
        mask = batch.mask.clone()
        for i, row in enumerate(batch.rows):
            own = x[i, : len(row.ids)]
            mask[i, 0] &= not lm.has_sink(sae, own, own)
        acts = sae.encode(x) * mask.to(x.device)[..., None]
        row, at, feature = acts.nonzero(as_tuple=True)
        activation = acts[row, at, feature]
        counted += int(mask.sum())
        columns.append(_placed(batch.rows, lm, row, at, feature, activation))
    kinds = (np.int64, np.int64, np.int64, np.int64, np.float32)
    empty = [np.zeros(0, dtype=kind) for kind in kinds]
    joined = [np.concatenate(each) for each in zip(empty, *columns, strict=True)]
    order = np.lexsort((joined[3], joined[1], joined[0]))
    text, position, token, feature, activation = (each[order] for each in joined)
    return FeatureActivations(
        text=text,
        position=position,
        token=token,
        feature=feature,
        activation=activation,
        tokens=counted,
        texts=next(numbers),
        d_sae=sae.cfg.d_sae,
    )


def _placed(rows: list[TokenRow], lm: SplicedLM, *entries: torch.Tensor) -> tuple[np.ndarray, ...]:
    """Text, position, token, feature and activation of entries of a batch."""
    row, at, feature, activation = (each.cpu().numpy() for each in entries)
    bos = lm.tokenizer.bos_token_id is not None
    number = np.array([each.document.number for each in rows])
    offset = np.array([each.offset for each in rows])
    ids = np.zeros((len(rows), max(len(each.ids) for each in rows)), dtype=np.int64)
    for i, each in enumerate(rows):
        ids[i, : len(each.ids)] = each.ids
    return number[row], offset[row] + at - bos, ids[row, at], feature, activation
