"""The two halves of the text that the comparison measures on, and measuring in blocks of one."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.paper.demo import Demo
from benchmarks.paper.quality import batch_losses
from sae_core.corpus import TokenRow, batches, documents, token_rows
from sae_core.metrics import HIGH_FREQUENCY, fvu
from sae_core.sae import SAE

_CHUNK = 32


def halves(
    paths: Sequence[str], tokenizer: Any, context_size: int, rows: tuple[int, int]
) -> tuple[list[TokenRow], list[TokenRow]]:
    """Full rows of the selection text and of the report text, so many of each, evenly spread.

    Works go to the halves in turn, the longest first. ValueError for too little text.
    """
    by_title: dict[str, list[TokenRow]] = {}
    for row in token_rows(documents(list(paths)), tokenizer, context_size):
        if len(row.ids) == context_size:
            by_title.setdefault(row.document.title, []).append(row)
    works = sorted(by_title, key=lambda title: (-len(by_title[title]), title))
    chosen = []
    for half, wanted in enumerate(rows):
        # The longest to the report, the next two to the selection, and so on: 0 1 1 0 0 1 1 0 ...
        own = [w for k, w in enumerate(works) if (((k + 1) // 2) % 2 == 0) == bool(half)]
        held = [row for work in own for row in by_title[work]]
        if len(held) < wanted:
            raise ValueError(f"half of the text has {len(held)} full rows but {wanted} are needed.")
        chosen.append([held[k * len(held) // wanted] for k in range(wanted)])
    return chosen[0], chosen[1]


class Text:
    """Rows to measure on, all full: activations of sites, and the model's own losses."""

    def __init__(
        self, demo: Demo, rows: Sequence[TokenRow], sites: Sequence[str], blocks: int
    ) -> None:
        """`blocks`: equal stretches of rows; ValueError unless they divide the rows."""
        if len(rows) % blocks:
            raise ValueError(f"{len(rows)} rows cannot be cut into {blocks} equal blocks.")
        self._demo, self._blocks, self._rows = demo, blocks, len(rows)
        self._x = demo.activations(rows, sites)
        self._batches = list(batches(rows, demo.tokenizer, 2 * _CHUNK))
        self.tokens = len(next(iter(self._x.values())))
        if self.tokens % len(rows):
            raise ValueError("rows of the text differ in how many tokens count.")
        self._base = self._losses(None, None)
        self._deviation = {
            site: self._by_block((x.float() - x.float().mean(0)).double().square().sum(1))
            for site, x in self._x.items()
        }

    def _by_block(self, each: Float[Tensor, " tokens"]) -> Float[Tensor, " blocks"]:
        return each.double().view(self._blocks, -1).sum(1).cpu()

    def deviations(self) -> dict[str, list[float]]:
        """Squared deviations from the mean, each block's over the mean block's."""
        return {site: (d / d.mean()).tolist() for site, d in self._deviation.items()}

    @torch.no_grad()
    def of(
        self, sae: SAE, site: str, *, loss: bool = True, by_block: bool = True
    ) -> dict[str, Any]:
        """L0, FVU, dead and frequent features, and delta LM loss (nats per token) if `loss`;
        `errors` and `losses` are those of the blocks, errors over the mean block's deviation.
        """
        x = self._x[site]
        per_row = self.tokens // self._rows
        errors, active = [], torch.zeros(sae.cfg.d_sae, dtype=torch.long, device=x.device)
        for raw in x.split(_CHUNK * per_row):
            acts = sae.encode(raw.float())
            errors.append((raw.float() - sae.decode(acts)).square().sum(1))
            active += acts.ne(0).sum(0)
        by_blocks = self._by_block(torch.cat(errors))
        deviation = self._deviation[site]
        frequency = active.double() / self.tokens
        found: dict[str, Any] = {
            "l0": float(frequency.sum()),
            "fvu": fvu(by_blocks.sum(), deviation.sum()),
            "dead": float((active == 0).double().mean()),
            "high_frequency": float((frequency >= HIGH_FREQUENCY).double().mean()),
        }
        if by_block:
            found["errors"] = (by_blocks / deviation.mean()).tolist()
        if loss:
            delta = self._losses(sae, site) - self._base
            found["delta_lm_loss"] = float(delta.mean())
            if by_block:
                found["losses"] = delta.tolist()
        return found

    @torch.no_grad()
    def _losses(self, sae: SAE | None, site: str | None) -> Float[Tensor, " blocks"]:
        """Mean loss of each block, over what a splice can affect."""
        sums = []
        for batch in self._batches:
            losses, counted = batch_losses(self._demo, batch, sae, site)
            losses = torch.where(counted, losses, 0.0)
            sums.append(losses.double().sum(1) / counted.sum(1))
        return torch.cat(sums).view(self._blocks, -1).mean(1).cpu()
