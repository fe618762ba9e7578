"""Several SAEs in one model, each off, spliced, or edited with its error kept: what each costs
alone, and all of them together.

A combination runs as `SplicedLM.analyse` runs one SAE: the text is a single row up to the first
site, where it becomes two, as it is and with the combination. So one SAE spliced alone has the
numbers of `analyse`, bit for bit. Later sites read what earlier ones changed; SAEs of one site act
one after another, in the order given.

    delta  = loss of the combination - loss of the model
    beyond = delta of all - sum of the deltas of each alone       likewise for KL
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sae_core.conditions import conditions_of, resolved, where_met
from sae_core.edits import Condition, Edit, Steering
from sae_core.head import hidden_states
from sae_core.metrics import affected, token_comparison
from sae_core.sae import SAE
from sae_core.sites import activations, rewrite
from sae_core.splice import SplicedLM

State = Literal["off", "spliced", "edited"]
Met = dict[Condition, Tensor]

_ENCODED = 2**24
"""Elements of the largest array over tokens and features: 64 MB in float32."""


@dataclass(frozen=True, kw_only=True)
class SpliceCost:
    """What one combination costs: means over the predictions that it can affect."""

    saes: tuple[str, ...]
    """The SAEs that are not off."""
    predictions: int
    """Over how many the means are."""
    base_loss: float
    """Nats; NaN where no prediction can be affected. `loss` is the combination's."""
    loss: float
    kl: float
    """From the model's next-token distribution to the combination's, nats."""

    @property
    def delta(self) -> float:
        """Loss of the combination minus that of the model, nats."""
        return self.loss - self.base_loss


@dataclass(frozen=True, kw_only=True)
class SpliceCosts:
    """Each SAE alone, and all together."""

    each: tuple[SpliceCost, ...]
    together: SpliceCost

    @property
    def delta_beyond(self) -> float:
        """What all cost beyond the sum of each alone, nats; `kl_beyond` the same of KL."""
        return self.together.delta - sum(cost.delta for cost in self.each)

    @property
    def kl_beyond(self) -> float:
        """As `delta_beyond`."""
        return self.together.kl - sum(cost.kl for cost in self.each)

    def __repr__(self) -> str:
        """The deltas in one line."""
        alone = ", ".join(f"{cost.saes[0]} {cost.delta:.3g}" for cost in self.each)
        return f"SpliceCosts({alone}; together {self.together.delta:.3g})"


def splice_costs(
    lm: SplicedLM,
    ids: Sequence[int],
    states: Mapping[str, State],
    edits: Sequence[Edit] = (),
) -> SpliceCosts:
    """What SAEs in these states cost on a text, each alone and all together.

    `edits` are those of the SAEs that are `edited`. Raises ValueError for a text without tokens, an
    unknown SAE or feature, and edits of an SAE that is not edited, or an edited one without edits.
    """
    if not ids:
        raise ValueError("a text without tokens has no loss.")
    own: dict[str, list[Edit]] = {}
    for edit in edits:
        own.setdefault(lm.edited_sae(edit), []).append(resolved(lm, edit))
    for name, state in states.items():
        lm.sae(name)
        if state == "edited" and name not in own:
            raise ValueError(f"SAE {name} is edited, but there is no edit of it: add one.")
    for name in own:
        if states.get(name) != "edited":
            raise ValueError(
                f"there is an edit of SAE {name}, which is {states.get(name, 'off')}: let it be "
                "edited."
            )
    on: dict[str, State] = {name: state for name, state in states.items() if state != "off"}
    met = _met(lm, ids, [edit for each in own.values() for edit in each])

    def cost(which: Mapping[str, State]) -> SpliceCost:
        return _cost(lm, ids, which, own, met)

    each = tuple(cost({name: state}) for name, state in on.items())
    return SpliceCosts(each=each, together=each[0] if len(on) == 1 else cost(on))


def _met(lm: SplicedLM, ids: Sequence[int], edits: Sequence[Edit]) -> Met:
    """Where the conditions of edits are met, as the unedited model reads the text."""
    conditions = conditions_of(edits)
    sites = sorted({lm.site(condition.sae) for condition in conditions}, key=str)
    with lm.lock:
        captured = activations(lm.model, torch.tensor([list(ids)], device=lm.device), sites)
    return where_met(lm, conditions, captured)


@torch.no_grad()
def _cost(
    lm: SplicedLM,
    ids: Sequence[int],
    on: Mapping[str, State],
    edits: Mapping[str, list[Edit]],
    met: Met,
) -> SpliceCost:
    row = torch.tensor([list(ids)], device=lm.device)
    special = torch.tensor(lm.is_special(ids))
    counted = ~special if not on else torch.zeros_like(special)

    def changer(name: str, state: State) -> Callable[[Tensor, Tensor], Tensor]:
        sae = lm.sae(name)

        def change(x: Tensor, y: Tensor) -> Tensor:
            kept = special.clone()
            kept[:1] |= lm.has_sink(sae, x[0], y[0])
            counted.logical_or_(~kept)
            # One row before the first change, the model's and the combination's after it.
            if state == "spliced":
                recon = _reconstruction(sae, x[-1]).to(y.dtype)
                new = torch.where(kept.to(y.device)[:, None], y[-1], recon)
            else:
                steering = Steering(sae, [edits[name]], len(ids), counts=False)
                edited = steering(x[-1:], y[-1:], 0, [kept.tolist()], met)
                new = y[-1] if edited is None else edited[0]
            return torch.stack([y[0], new])

        return change

    with lm.lock, ExitStack() as stack:
        for name, state in on.items():
            where = (lm.site(name), lm.target(name))
            stack.enter_context(rewrite(lm.model, *where, changer(name, state)))
        hidden = hidden_states(lm.model, row)
    base, [(loss, kl)] = token_comparison(lm.model, hidden[:1], [hidden[-1:]], row)
    means = affected(counted).numpy()

    def mean(values: Tensor) -> float:
        chosen = values[0].cpu().numpy()[means]
        return float(chosen.mean(dtype=np.float64)) if len(chosen) else float("nan")

    return SpliceCost(
        saes=tuple(on),
        predictions=int(means.sum()),
        base_loss=mean(base),
        loss=mean(loss),
        kl=mean(kl),
    )


def _reconstruction(sae: SAE, x: Tensor) -> Tensor:
    """Of a text's activations, in parts of so few tokens that a wide SAE needs no more."""
    size = max(1, _ENCODED // sae.cfg.d_sae)
    parts = (x[start : start + size].float() for start in range(0, len(x), size))
    return torch.cat([sae.output(sae.encode(part), part) for part in parts])
