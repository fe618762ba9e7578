"""One edit's change, made along another direction with the same norm: the controls of a proof.

At a token where an edit takes the target feature's activation from a to a', it changes the model's
activation by

    (a' - a) W_dec[f],      of norm |a' - a| |W_dec[f]|

A control is changed at that token by as much along a unit vector u of its own:

    (a' - a) |W_dec[f]| u

`a` is read in the control's own text. The two are pushed alike wherever their texts agree, and by
what the edit would have done there where they do not. With u = W_dec[f] / |W_dec[f]| it is the edit
itself; with the negative of that, the wrong sign.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.edits import Edit, Steering
from sae_core.sae import SAE


class PushedSteering(Steering):
    """`Steering` in which edits of one feature write along other directions in some arms.

    `directions` has a unit vector for each of these arms, and None for an arm whose edits are made
    as they are. ValueError for a feature that no arm edits.
    """

    def __init__(
        self,
        sae: SAE,
        arms: Sequence[Sequence[Edit]],
        prompt_length: int,
        feature: int,
        directions: Sequence[Float[Tensor, " d_out"] | None],
    ) -> None:
        super().__init__(sae, arms, prompt_length)
        if feature not in self._features:
            raise ValueError(f"feature {feature} is not edited, so nothing can be pushed for it.")
        column = self._features.index(feature)
        norm = torch.linalg.vector_norm(self._rows[column].float())
        self._decoder: Float[Tensor, "arms edited d_out"] = self._rows.repeat(len(arms), 1, 1)
        for arm, direction in enumerate(directions):
            if direction is not None:
                self._decoder[arm, column] = norm * direction.to(norm.device)

    def _written(self, change: Float[Tensor, "arms pos edited"]) -> Float[Tensor, "arms pos d_out"]:
        """By each arm's own decoder rows."""
        return change @ self._decoder
