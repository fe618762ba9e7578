"""How good an SAE is on held-out text: one pass at the site, one forward of the model with it."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from benchmarks.paper.demo import Demo
from sae_core.config import Site
from sae_core.corpus import TokenBatch, TokenRow, batches
from sae_core.evaluation import only_where
from sae_core.head import hidden_states
from sae_core.metrics import ReconstructionStats, affected, token_losses
from sae_core.sae import SAE, JumpReLUSAE
from sae_core.sites import rewrite

_CHUNK = 2**14
_ROWS = 64


class Quality:
    """Of SAEs of any of some sites, all on the same tokens."""

    def __init__(
        self,
        demo: Demo,
        rows: Sequence[TokenRow],
        loss_rows: Sequence[TokenRow],
        sites: Sequence[str],
    ) -> None:
        """`loss_rows`: for the delta LM loss, which costs more."""
        self._demo = demo
        self._x = demo.activations(rows, sites)
        self._batches = list(batches(loss_rows, demo.tokenizer, _ROWS))
        self._base = self._loss(None, None)

    @property
    def tokens(self) -> tuple[int, int]:
        """Of reconstruction, and of the delta LM loss."""
        predicted = sum(int(affected(batch.mask).sum()) for batch in self._batches)
        return len(next(iter(self._x.values()))), predicted

    @torch.no_grad()
    def of(self, sae: JumpReLUSAE, site: str) -> dict[str, Any]:
        """L0, FVU, dead and high-frequency features, delta LM loss (nats per token)."""
        stats = ReconstructionStats(sae.cfg.d_model, sae.cfg.d_sae, self._demo.device)
        for raw in self._x[site].split(_CHUNK):
            x = raw.float()
            acts = sae.encode(x)
            stats.update(x, sae.decode(acts), acts)
        return {**stats.result(), "delta_lm_loss": self._loss(sae, site) - self._base}

    @torch.no_grad()
    def _loss(self, sae: JumpReLUSAE | None, site: str | None) -> float:
        total = count = 0.0
        for batch in self._batches:
            losses, counted = batch_losses(self._demo, batch, sae, site)
            total += float(losses[counted].sum())
            count += float(counted.sum())
        return total / count


def batch_losses(
    demo: Demo, batch: TokenBatch, sae: SAE | None, site: str | None
) -> tuple[Float[Tensor, "rows pos"], Bool[Tensor, "rows pos"]]:
    """Each token's loss, with `sae` spliced in at `site` if there is one, and which tokens a
    splice can affect.
    """
    ids = batch.input_ids.to(demo.device)
    if sae is None:
        hidden = hidden_states(demo.model, ids)
    else:
        place = Site.parse(str(site))
        with rewrite(demo.model, place, place, only_where(batch.mask, lambda x, _: sae(x))):
            hidden = hidden_states(demo.model, ids)
    return token_losses(demo.model, hidden, ids), affected(batch.mask).to(demo.device)
