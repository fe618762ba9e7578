"""What the parts of a sparse step pass to each other.

An *entry* is a pair (token, feature) whose pre-activation z matters: *active* ones have z above the
threshold; *near* ones have it within the reach of the threshold's kernel, above or below. Nothing
else contributes to the loss or to any gradient.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.jumprelu import Kernel, half_width
from training.losses.base import Limits


@dataclass(frozen=True)
class Entries:
    """A batch's entries: the active ones token by token, active and near ones by feature.

    Both lists have room for a fixed number of entries; the last of the starts says how many there
    are, which may be more than there is room for: then the lists are incomplete, and nothing may
    be changed on their account.
    """

    row_start: Int[Tensor, " batch_1"]
    """Where each token's active entries begin in `feature` and `act`; then their number."""
    feature: Int[Tensor, " room"]
    """Ascending for each token."""
    act: Float[Tensor, " room"]
    """Activation, in the dtype of the products."""
    column_start: Int[Tensor, " d_sae_1"]
    """Where each feature's entries begin in `token` and `z`; then their number."""
    token: Int[Tensor, " room"]
    """Ascending for each feature. A few entries may lie just outside the window: each user of the
    list applies the exact conditions to z."""
    z: Float[Tensor, " room"]
    """Pre-activation with its bias, float32."""


@dataclass(frozen=True)
class Lists:
    """A batch's entries in two orders, for losses that calculate with numbers of each entry
    (`training.sparse_features`): those numbers are in the order of the list by feature.

    As in `Entries`, there may be more entries than there is room for. What is not used of a list is
    0, so that calculating with all of it does no harm.
    """

    row_start: Int[Tensor, " batch_1"]
    """Where each token's entries begin in `feature` and `place`; then their number."""
    feature: Int[Tensor, " room"]
    """Ascending for each token."""
    place: Int[Tensor, " room"]
    """Of each entry of the list by token, its place in the list by feature."""
    column_start: Int[Tensor, " d_sae_1"]
    """Where each feature's entries begin in `owner`, `token` and `z`; then their number."""
    owner: Int[Tensor, " room"]
    """The feature of each entry."""
    token: Int[Tensor, " room"]
    """Ascending for each feature. A few entries may have a z of just below 0, and are not in the
    list by token."""
    z: Float[Tensor, " room"]
    """Pre-activation with its bias, float32."""
    order: Int[Tensor, " d_sae"]
    """Features by their number of entries, most first."""

    def entries(self, act: Float[Tensor, " room"]) -> Entries:
        """With these activations."""
        by_token = act.index_select(0, self.place)
        return Entries(
            self.row_start, self.feature, by_token, self.column_start, self.token, self.z
        )


@dataclass(frozen=True)
class Objective:
    """What a kernel is compiled for, of the loss."""

    bandwidth: float
    kernel: Kernel
    targeted: bool
    """Whether an L0 is to be reached."""
    limits: Limits
    """Of the multiplier, if so."""

    @property
    def reach(self) -> float:
        """How far from the threshold the kernel is not 0, in units of the pre-activations."""
        return self.bandwidth * half_width(self.kernel)


@dataclass(frozen=True)
class Residual:
    """What the reconstruction leaves."""

    gradient: Float[Tensor, "batch d_model"]
    """2 (recon - x) / batch, in the dtype of the products."""
    sums: Float[Tensor, "parts 2"]
    """Squared errors, and squared deviations from the mean, in parts that add up to them."""


@dataclass(frozen=True)
class Weights:
    """Both matrices one row per feature, with their second moments; all changed in place.

    Without a first moment (`beta1` 0), a row is touched only in steps in which its feature is
    active: at other times its gradient is 0, so that Adam leaves the weights as they are and only
    shrinks the second moment, by BETA2 a step; that is made up for when the row is touched again.
    With one, every step touches every row.
    """

    W_enc: Float[Tensor, "d_sae d_model"]
    W_dec: Float[Tensor, "d_sae d_model"]
    v_enc: Float[Tensor, "d_sae d_model"]
    v_dec: Float[Tensor, "d_sae d_model"]
    enc_products: Float[Tensor, "d_sae d_model"]
    """W_enc in the dtype of the products; W_enc itself if that is float32."""
    dec_products: Float[Tensor, "d_sae d_model"]
    """Likewise W_dec."""
    touched: Int[Tensor, " d_sae"]
    """The step (from 1) whose second moments `v_enc` and `v_dec` hold."""
    beta1: float = 0.0
    """Adam's."""
    m_enc: Float[Tensor, "d_sae d_model"] | None = None
    """First moments; None if `beta1` is 0."""
    m_dec: Float[Tensor, "d_sae d_model"] | None = None
    """Likewise W_dec's."""


@dataclass(frozen=True)
class Gathered:
    """What the entries add up to for each feature; 0 where it has none."""

    b_enc: Float[Tensor, " d_sae"]
    """Gradient."""
    threshold: Float[Tensor, " d_sae"]
    """Gradient."""
    active: Float[Tensor, " d_sae"]
    """Tokens on which the feature is active."""
    in_window: Float[Tensor, " d_sae"]
    """Tokens on which z is within half a bandwidth of the threshold."""
    through_encoder: Float[Tensor, "parts d_model"]
    """W_enc times the gradient of b_enc, in parts that add up to it."""


SLACK = 1e-6
"""Entries this far outside the window, relative to the numbers compared, are listed as well: the
comparison that lists them is rounded otherwise than the one that decides."""


def room(batch: int, d_sae: int, share: float) -> int:
    """Entries that a list holds which is made for `share` of all pairs."""
    return max(1, int(batch * d_sae * share))


def starts(counts: Int[Tensor, " n_1"]) -> Int[Tensor, " n_1"]:
    """Where lists of `counts[1:]` entries begin, one after another; `counts[0]` is 0."""
    return torch.cumsum(counts, dim=0, dtype=torch.int32)
