"""Mistakes planted into the demo's SAEs, and SAEs in closed form, for the tests of the check."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from sae_core.check import Check, check_sae
from sae_core.check.sae_check import TEXT
from sae_core.config import SAEConfig, Site
from sae_core.corpus import Document, token_rows
from sae_core.sae import SAE
from sae_core.sites import activations
from sae_core.splice import SplicedLM

RESID, MLP = "resid_post-layer_4-l0_32", "mlp_out-layer_6-l0_32"
PASSAGES = TEXT.read_text(encoding="utf-8").strip().split("\n%\n")
TOKENS = 600
FEW = PASSAGES[:2]
"""What SAEs in closed form are fitted to and checked on: 700 tokens."""


def planted(sae: SAE, change: Callable[[Any], object] = lambda sae: None, **cfg: Any) -> SAE:
    """A copy of an SAE with a mistake in it."""
    other = copy.deepcopy(sae)
    change(other)
    other.cfg = replace(other.cfg, **cfg)
    return other


def declaring(sae: SAE, l0: float, fvu: float) -> SAE:
    return planted(sae, metadata={"declared": {"l0": l0, "fvu": fvu}})


def unscaled(by: float) -> Callable[[Any], None]:
    """Weights as they were before the scale of training was folded in."""

    def change(sae: Any) -> None:
        for name in ("b_enc", "b_dec", "threshold"):
            getattr(sae, name).data /= by

    return change


def pre_bias(sae: Any) -> None:
    """Weights as they were before b_dec was folded into b_enc."""
    sae.b_enc.data += sae.b_dec @ sae.W_enc


def red(lm: SplicedLM, sae: SAE, convention: str) -> Check:
    """The check, which must name this convention."""
    result = check_sae(lm, sae, tokens=TOKENS)
    assert (result.verdict, result.convention) == ("red", convention), result.sentence
    return result


def rows(lm: SplicedLM, texts: Sequence[str], context_size: int) -> list[Any]:
    documents = [Document(number, text, "", "", "") for number, text in enumerate(texts)]
    return list(token_rows(documents, lm.tokenizer, context_size))


def captured(
    lm: SplicedLM, sites: Sequence[Site], *, context_size: int, bos: bool
) -> dict[Site, torch.Tensor]:
    """Activations of the ordinary tokens of the first passages, with BOS before them or without."""
    parts: dict[Site, list[torch.Tensor]] = {site: [] for site in sites}
    for row in rows(lm, FEW, context_size):
        ids = torch.from_numpy(row.ids).long()[None]
        result = activations(lm.model, ids if bos else ids[:, 1:], sites)
        for site in sites:
            parts[site].append(result[site][0, 1:] if bos else result[site][0])
    return {site: torch.cat(part) for site, part in parts.items()}


def fitted(
    x: torch.Tensor,
    y: torch.Tensor,
    site: Site,
    site_out: Site | None,
    *,
    features: int,
    context_size: int,
    share: float = 0.08,
) -> SAE:
    """An SAE in closed form: random directions that fire on a share of x, decoder by ridge on y."""
    sae: Any = SAE.build(
        SAEConfig(
            architecture="jumprelu",
            d_model=x.shape[1],
            d_sae=features,
            site=site,
            site_out=site_out,
            context_size=context_size,
        )
    )
    directions = torch.randn(x.shape[1], features, generator=torch.Generator().manual_seed(0))
    directions /= directions.norm(dim=0)
    sae.W_enc.data = directions
    sae.b_enc.data = -x.mean(0) @ directions
    sae.threshold.data = ((x - x.mean(0)) @ directions).quantile(1 - share, dim=0).clamp(min=1e-3)
    acts = sae.encode(x)
    centred, mean = acts - acts.mean(0), y.mean(0)
    gram = centred.T @ centred
    ridge = gram + 1e-3 * gram.diagonal().mean() * torch.eye(features)
    sae.W_dec.data = torch.linalg.solve(ridge, centred.T @ (y - mean))
    sae.b_dec.data = mean - acts.mean(0) @ sae.W_dec
    return sae
