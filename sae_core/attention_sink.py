"""The one rule by which the first token of a row is an attention sink, and what follows from it.

A model without BOS parks unused attention on whatever token comes first: its activation is then
tens to thousands of times as long as any other, and says nothing of the token. Counted, it makes up
most of the variance, so that an FVU is small whatever the SAE does with all other tokens. Models
with BOS have the sink there, and BOS counts nowhere anyway.

The rule (docs/metrics.md): of a model without BOS, the first token of a row is a sink at a site

- if the median norm of first tokens' activations is more than `NORM_RATIO` times that of others, or
- if leaving them out moves FVU by more than `FVU_SHARE` of itself (from `LEAST_ROWS` rows on). As
  long as there is no SAE, the reconstruction error is taken as given, so that FVU moves as the
  inverse of the variance.

It is then treated as special tokens are: it keeps its activation and counts in no statistic.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.config import Site
from sae_core.corpus import TokenBatch, TokenRow, batches
from sae_core.metrics import ReconstructionStats
from sae_core.placement import in_float64
from sae_core.sae import SAE
from sae_core.sites import activations

NORM_RATIO = 10.0
"""Norms of first tokens over those of others from which on they are outliers."""
FVU_SHARE = 0.1
"""Share of an FVU by which leaving first tokens out may move it."""
LEAST_ROWS = 8
"""With fewer first tokens, one of them moves any FVU by chance."""
PROBE_ROWS = 64
"""Rows on which it is decided where the whole text is not at hand."""
_PROBE_BATCH = 8
_ENCODED = 2**24
"""Elements of the largest array over tokens and features: 64 MB in float32."""


def is_sink(
    first: Float[Tensor, " rows"], others: Float[Tensor, " tokens"], fvu_moves: float = math.nan
) -> bool:
    """The rule, from the norms of first tokens and of others, and the share of FVU (without first
    tokens) by which leaving them out moves it; NaN where that is not known.
    """
    if not len(first) or not len(others):
        return False
    if float(first.median()) > NORM_RATIO * float(others.median()):
        return True
    return len(first) >= LEAST_ROWS and abs(fvu_moves) > FVU_SHARE


def first_of_rows(tokenizer: Any, mask: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """Which counted tokens can be sinks: the first of each row, if the tokenizer has no BOS."""
    first = torch.zeros_like(mask)
    if tokenizer.bos_token_id is None:
        first[:, 0] = mask[:, 0]
    return first


def without_first(batch: TokenBatch) -> TokenBatch:
    """The same rows, their first tokens counting nowhere."""
    mask = batch.mask.clone()
    mask[:, 0] = False
    return replace(batch, mask=mask)


class FirstTokenStats:
    """Statistics of a stream of activations in which first tokens are kept apart until it is known
    whether they are sinks.
    """

    def __init__(self, d_out: int, d_sae: int, device: torch.device | str = "cpu") -> None:
        self._first = ReconstructionStats(d_out, d_sae, device)
        self._others = ReconstructionStats(d_out, d_sae, device)
        self._norms: dict[str, tuple[list[Tensor], list[Tensor]]] = {
            "read": ([], []),
            "written": ([], []),
        }

    def update(
        self,
        x: Float[Tensor, "tokens d_in"],
        y: Float[Tensor, "tokens d_out"],
        recon: Float[Tensor, "tokens d_out"],
        acts: Float[Tensor, "tokens d_sae"],
        first: Bool[Tensor, " tokens"],
    ) -> None:
        """Count these tokens; `recon`, of what was read (`x`), should be `y`."""
        if not bool(first.any()):
            self._others.update(y, recon, acts)
        else:
            self._first.update(y[first], recon[first], acts[first])
            self._others.update(y[~first], recon[~first], acts[~first])
        for values, (of_first, of_others) in zip((x, y), self._norms.values(), strict=True):
            norms = torch.linalg.vector_norm(values, dim=-1, dtype=torch.float32).cpu()
            here = first.cpu()
            of_first.append(norms[here])
            of_others.append(norms[~here])

    def read(
        self,
        sae: SAE,
        x: Float[Tensor, "tokens d_in"],
        y: Float[Tensor, "tokens d_out"],
        first: Bool[Tensor, " tokens"],
    ) -> None:
        """`update` with what an SAE makes of `x`, in parts that need little memory."""
        size = max(1, _ENCODED // sae.cfg.d_sae)
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            acts = sae.encode(x[part])
            self.update(x[part], y[part], sae.output(acts, x[part]), acts, first[part])

    @property
    def sink(self) -> bool:
        """Whether the first tokens so far are sinks."""
        if not self._first.tokens:
            return False
        with_all = (self._first + self._others).result()["fvu"]
        without = self._others.result()["fvu"]
        moves = with_all / without - 1 if without else math.nan
        return any(
            is_sink(torch.cat(first), torch.cat(others), moves)
            for first, others in self._norms.values()
        )

    @property
    def first_tokens(self) -> int:
        """First tokens counted so far."""
        return self._first.tokens

    def stats(self, *, without_first: bool) -> ReconstructionStats:
        """The statistics of all tokens, or of those that are not first."""
        return self._others if without_first else self._first + self._others


@torch.no_grad()
def sink_at(
    model: Any, tokenizer: Any, sites: Sequence[Site], rows: Iterable[TokenRow]
) -> list[Site]:
    """At which of these sites the first token is a sink, by the rule as it is without an SAE.

    Looks at the first `PROBE_ROWS` rows. None for a tokenizer with BOS, whose model does not run.
    """
    if tokenizer.bos_token_id is not None:
        return []
    device = next(model.parameters()).device
    parts: dict[Site, tuple[list[Tensor], list[Tensor]]] = {site: ([], []) for site in sites}
    few = (row for row, _ in zip(rows, range(PROBE_ROWS), strict=False))
    for batch in batches(few, tokenizer, _PROBE_BATCH):
        first = first_of_rows(tokenizer, batch.mask)
        captured = activations(model, batch.input_ids.to(device), list(sites))
        for site, (of_first, of_others) in parts.items():
            x = captured[site].float().cpu()
            of_first.append(x[first])
            of_others.append(x[batch.mask & ~first])
    return [
        site
        for site, (of_first, of_others) in parts.items()
        if _is_sink_without_sae(torch.cat(of_first), torch.cat(of_others))
    ]


def _is_sink_without_sae(first: Float[Tensor, "rows d"], others: Float[Tensor, "tokens d"]) -> bool:
    def variance(x: Tensor) -> float:
        return float((in_float64(x) - in_float64(x).mean(0)).square().sum(-1).mean())

    whole, rest = variance(torch.cat([first, others])), variance(others)
    moves = rest / whole - 1 if whole else math.nan
    return is_sink(first.norm(dim=-1), others.norm(dim=-1), moves)
