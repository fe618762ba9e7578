"""What the studies measure on: a bundle's language model, its SAEs, and activations of text."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.bundle import BUNDLE_FILE
from sae_core.config import Site
from sae_core.corpus import TokenRow, batches
from sae_core.formats.saelens import load_sae
from sae_core.language_model import load_language_model
from sae_core.placement import chosen_device, chosen_dtype
from sae_core.sae import JumpReLUSAE
from sae_core.sites import activations
from sae_core.threshold_lab import TrainingUnits, training_units

ROWS = 64
"""Rows in one forward of the model."""


@dataclass(frozen=True)
class Demo:
    """A bundle whose model is loaded."""

    folder: Path
    model: Any
    tokenizer: Any
    device: torch.device

    @classmethod
    def load(cls, folder: Path) -> "Demo":
        """On the GPU, in bfloat16, where there is one."""
        device = chosen_device("auto")
        dtype = chosen_dtype("auto", device)
        model, tokenizer = load_language_model(str(folder / "model"), dtype, device)
        return cls(folder, model, tokenizer, device)

    @property
    def sae_names(self) -> list[str]:
        """The bundle's SAEs, in its order."""
        return json.loads((self.folder / BUNDLE_FILE).read_text(encoding="utf-8"))["saes"]

    def sae(self, name: str) -> JumpReLUSAE:
        """One of them; ValueError unless it is a JumpReLU SAE."""
        sae = load_sae(self.folder / "saes" / name)
        if not isinstance(sae, JumpReLUSAE):
            raise ValueError(f"{name} is no JumpReLU SAE, and has no thresholds to study.")
        return sae.to(self.device)

    @torch.no_grad()
    def activations(
        self, rows: Sequence[TokenRow], sites: Sequence[str]
    ) -> dict[str, Float[Tensor, "tokens width"]]:
        """Activations of all tokens that count, in the order of the text, in the model's dtype."""
        places = [Site.parse(site) for site in sites]
        parts: dict[Site, list[Tensor]] = {place: [] for place in places}
        for batch in batches(rows, self.tokenizer, ROWS):
            counted = batch.mask.flatten().nonzero()[:, 0].to(self.device)
            at_sites = activations(self.model, batch.input_ids.to(self.device), places)
            for place, x in at_sites.items():
                parts[place].append(x.flatten(0, 1).index_select(0, counted))
        return {str(place): torch.cat(parts[place]) for place in places}


def units_of(sae: JumpReLUSAE, x: Float[Tensor, "tokens d_model"]) -> TrainingUnits:
    """The units of its training, from its metadata as far as it has them."""
    return training_units(sae.cfg, float(x[:200_000].float().square().sum(1).mean()))


def bare_units(scale: float, bandwidth: float) -> TrainingUnits:
    """Of a rectangle's window alone: with no penalty to compare with."""
    return TrainingUnits(
        scale=scale,
        bandwidth=bandwidth,
        kernel="rectangle",
        penalty=None,
        l0_target=None,
        frequency_scale=None,
        other_penalties=(),
        stated=(),
    )
