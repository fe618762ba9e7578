"""Conditions of edits: where other features fire as the unedited model reads the same text.

A condition is read without any edit, so it does not depend on what the edits under it do, and the
feature may be of an SAE that reads anywhere in the model, also after the edited one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae_core.config import Site
from sae_core.edits import Condition, Edit
from sae_core.sites import capture
from sae_core.splice import SplicedLM


def resolved(lm: SplicedLM, edit: Edit) -> Edit:
    """The edit with the names of its SAE and of its condition's; ValueError for one that is not
    loaded, or a feature that it does not have.
    """
    name = lm.edited_sae(edit)
    if edit.condition is None:
        return replace(edit, sae=name)
    condition = replace(edit.condition, sae=edit.condition.sae or name)
    lm.check_features(condition.sae, [condition.feature])
    return replace(edit, sae=name, condition=condition)


def conditions_of(edits: Iterable[Edit]) -> list[Condition]:
    """The conditions of some edits, each once."""
    return list(dict.fromkeys(edit.condition for edit in edits if edit.condition is not None))


def where_met(
    lm: SplicedLM, conditions: Iterable[Condition], activations: Mapping[Site, Tensor]
) -> dict[Condition, Bool[Tensor, "rows pos"]]:
    """Where resolved conditions are met, from the unedited model's activations at their sites."""
    met = {}
    for condition in conditions:
        sae = lm.sae(condition.sae)
        column = torch.tensor([condition.feature], device=sae.W_enc.device)
        x = activations[lm.site(condition.sae)]
        met[condition] = sae.feature_acts(x.float(), column)[..., 0] > condition.above
    return met


class UneditedReader:
    """The unedited model that reads along with a generation, over keys and values of its own.

    `arms` are resolved edits. Only arms with conditions are read, each token once.
    """

    def __init__(self, lm: SplicedLM, arms: Sequence[Sequence[Edit]]) -> None:
        self._lm, self._count = lm, len(arms)
        self._rows = [a for a, arm in enumerate(arms) if conditions_of(arm)]
        self._conditions = conditions_of(edit for arm in arms for edit in arm)
        self._cache: Any = None

    @torch.no_grad()
    def read(
        self, ids: Int[Tensor, "arms n"], start: int
    ) -> dict[Condition, Bool[Tensor, "arms n"]]:
        """Where the conditions are met on tokens that begin at number `start`; those before it have
        been read. The caller holds the model's lock.
        """
        if not self._conditions:
            return {}
        from sae_core.prefix_cache import keeps_keys

        lm, rows = self._lm, ids[self._rows]
        alike = not start and bool((rows == rows[:1]).all()) and keeps_keys(lm.model)
        sites = {lm.site(condition.sae) for condition in self._conditions}
        with capture(lm.model, sorted(sites, key=str)) as captured:
            output = lm.model(
                input_ids=(rows[:1] if alike else rows).to(lm.device),
                past_key_values=self._cache if start else None,
                use_cache=True,
                logits_to_keep=1,
            )
        self._cache = output.past_key_values
        if alike:  # as of a prompt
            self._cache.batch_repeat_interleave(len(rows))
        met = {}
        for condition, fires in where_met(lm, self._conditions, captured).items():
            met[condition] = torch.zeros(self._count, fires.shape[1], device=fires.device) > 0
            met[condition][self._rows] = fires
        return met
