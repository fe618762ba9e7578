"""A language model with SAEs spliced in: what fires, and what the splice costs.

Generation with edits is in `sae_core.generation`.
"""

import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_core.config import Site
from sae_core.edits import Edit
from sae_core.generation import GenerationStep, generate
from sae_core.metrics import token_kl, token_losses
from sae_core.sae import SAE
from sae_core.sites import activations, replace, site_width
from sae_core.tokens import special_ids, vocabulary


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """One text through the model, without and with an SAE. Arrays over tokens have length T."""

    ids: np.ndarray
    special: np.ndarray
    """True at tokens that keep their activation and count in no statistic."""
    base_loss: np.ndarray
    """Nats for predicting token t from those before it, NaN at 0; `spliced_loss`, `kl` likewise."""
    spliced_loss: np.ndarray
    kl: np.ndarray
    sq_error: np.ndarray
    """Squared reconstruction error, 0 at special tokens; `sq_deviation` from the mean likewise."""
    sq_deviation: np.ndarray
    token: np.ndarray
    """The active features as three arrays: token number, feature, activation; by token, then
    falling activation."""
    feature: np.ndarray
    activation: np.ndarray
    totals: dict[str, int | float] = field(default_factory=dict)
    """tokens, l0, fvu, ce_base, ce_spliced, delta_lm_loss, kl as in `sae_core.metrics`."""


class SplicedLM:
    """A causal language model, its tokenizer and SAEs by name.

    Forwards run under a lock, one at a time, because hooks belong to the module: an instance may be
    used from several threads. Raises ValueError when an SAE's width is not that of its site.
    """

    def __init__(self, model: Any, tokenizer: Any, saes: Mapping[str, SAE]) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.device: torch.device = next(model.parameters()).device
        self.vocabulary = vocabulary(tokenizer)
        # A model's vocabulary may be padded beyond its tokenizer's.
        padding = int(model.config.vocab_size) - len(self.vocabulary)
        self.vocabulary += [b""] * max(0, padding)
        self._special = special_ids(tokenizer)
        self.lock = threading.RLock()
        self._saes: dict[str, SAE] = {}
        for name, sae in saes.items():
            self.add(name, sae)

    def add(self, name: str, sae: SAE) -> None:
        """Make an SAE available under `name`; ValueError if it does not fit the model."""
        if sae.cfg.site is None:
            raise ValueError(f"SAE {name} does not say at which site it reads.")
        width = site_width(self.model, sae.cfg.site)
        if width != sae.cfg.d_model:
            raise ValueError(
                f"SAE {name} reads {sae.cfg.d_model} numbers but site {sae.cfg.site} of this model "
                f"has {width}: it belongs to another model."
            )
        self._saes[name] = sae.to(self.device)

    @property
    def sae_names(self) -> list[str]:
        """Names of the SAEs, in the order they were added."""
        return list(self._saes)

    def sae(self, name: str) -> SAE:
        """The SAE called `name`; ValueError naming the known ones if there is none."""
        if name not in self._saes:
            raise ValueError(f"unknown SAE {name!r}: known are {', '.join(self._saes)}.")
        return self._saes[name]

    def site(self, name: str) -> Site:
        """Where the SAE called `name` reads."""
        site = self.sae(name).cfg.site
        assert site is not None
        return site

    def is_special(self, ids: Sequence[int]) -> list[bool]:
        """Which tokens keep their activation and count in no statistic."""
        return [i in self._special for i in ids]

    @torch.no_grad()
    def analyse(self, ids: Sequence[int], sae_name: str, mean: Tensor | None = None) -> Analysis:
        """What fires on a text and what splicing the SAE's reconstruction in costs.

        One forward: the text is a single row up to the site, where the hook makes it two, as it is
        and spliced. `mean` is the mean activation `[d_model]` that FVU's deviations are taken from;
        None takes the text's own.
        """
        sae, site = self.sae(sae_name), self.site(sae_name)
        special = torch.tensor(self.is_special(ids), device=self.device)
        row = torch.tensor([list(ids)], device=self.device)
        seen: list[Tensor] = []

        def splice(x: Tensor) -> Tensor:
            acts = sae.encode(x[0].float())
            recon = sae.decode(acts)
            seen.extend((x[0].float(), acts, recon))
            return torch.stack([x[0], torch.where(special[:, None], x[0], recon.to(x.dtype))])

        with self.lock, replace(self.model, site, splice):
            # Position embeddings and masks of one row serve both: they broadcast.
            logits = self.model(input_ids=row, use_cache=False).logits
        x, acts, recon = seen
        losses = token_losses(logits, row.expand(2, -1))
        kl = token_kl(logits[:1], logits[1:])[0]
        counted = ~special
        x, recon = x[counted].double(), recon[counted].double()
        centre = x.mean(0) if mean is None else mean.to(x)
        sq_error, sq_deviation = (torch.zeros(len(special)).double() for _ in range(2))
        sq_error[counted.cpu()] = (x - recon).square().sum(-1).cpu()
        sq_deviation[counted.cpu()] = (x - centre).square().sum(-1).cpu()
        acts = (acts * counted[:, None]).cpu()
        token, feature = acts.nonzero(as_tuple=True)
        activation = acts[token, feature]
        order = np.lexsort((feature.numpy(), -activation.numpy(), token.numpy()))
        analysis = Analysis(
            ids=np.asarray(ids, dtype=np.int64),
            special=special.cpu().numpy(),
            base_loss=losses[0].cpu().numpy(),
            spliced_loss=losses[1].cpu().numpy(),
            kl=kl.cpu().numpy(),
            sq_error=sq_error.numpy(),
            sq_deviation=sq_deviation.numpy(),
            token=token.numpy()[order],
            feature=feature.numpy()[order],
            activation=activation.numpy()[order],
        )
        analysis.totals.update(_totals(analysis))
        return analysis

    @torch.no_grad()
    def pre_activations(
        self, ids: Sequence[int], sae_name: str, features: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pre-activations and activations `[T, n]` of some features; 0 at special tokens.

        Runs the model only up to the SAE's site.
        """
        sae, site = self.sae(sae_name), self.site(sae_name)
        self.check_features(sae_name, features)
        with self.lock:
            x = activations(self.model, torch.tensor([list(ids)], device=self.device), [site])
        pre_acts = sae.pre_acts(x[site][0].float())
        keep = ~torch.tensor(self.is_special(ids), device=self.device)[:, None]
        columns = list(features)
        acts = sae.activate(pre_acts)[:, columns] * keep
        return (pre_acts[:, columns] * keep).cpu().numpy(), acts.cpu().numpy()

    def check_features(self, sae_name: str, features: Sequence[int]) -> None:
        """ValueError naming the first feature that the SAE does not have."""
        d_sae = self.sae(sae_name).cfg.d_sae
        for feature in features:
            if not 0 <= feature < d_sae:
                raise ValueError(
                    f"feature {feature} does not exist: SAE {sae_name} has features 0 to "
                    f"{d_sae - 1}."
                )

    def generate(
        self, ids: Sequence[int], arms: Sequence[Sequence[Edit]], **options: Any
    ) -> Generator[GenerationStep]:
        """`sae_core.generation.generate` with this model."""
        return generate(self, ids, arms, **options)


def _totals(analysis: Analysis) -> dict[str, int | float]:
    """The text's numbers; NaN where it does not define one (a text of one token has no loss)."""
    counted = ~analysis.special
    with_loss = counted.copy()
    with_loss[:1] = False
    tokens = int(counted.sum())
    deviation = float(analysis.sq_deviation.sum())

    def mean(values: np.ndarray) -> float:
        return float(values[with_loss].mean(dtype=np.float64)) if with_loss.any() else float("nan")

    ce_base, ce_spliced = mean(analysis.base_loss), mean(analysis.spliced_loss)
    return {
        "tokens": tokens,
        "l0": len(analysis.token) / tokens if tokens else float("nan"),
        "fvu": float(analysis.sq_error.sum()) / deviation if deviation else float("nan"),
        "ce_base": ce_base,
        "ce_spliced": ce_spliced,
        "delta_lm_loss": ce_spliced - ce_base,
        "kl": mean(analysis.kl),
    }
