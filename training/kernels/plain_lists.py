"""What a loss over lists of entries takes, in plain PyTorch: what `fused_lists` must equal.

Numbers of entries are in the order of the list by feature (`Lists`).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from training.kernels.entries import Lists
from training.kernels.plain import centre, listed, padded, sorted_starts
from training.kernels.shards import partial_recon

__all__ = [
    "above",
    "centre",
    "decoder_gradients",
    "encoder_gradient",
    "group_maxima",
    "partial_recon",
    "sums",
]


def above(
    z: Float[Tensor, "batch d_sae"],
    bias: Float[Tensor, " d_sae"],
    threshold: Float[Tensor, " d_sae"],
    room: int,
) -> Lists:
    """The pairs for which `z`, which lacks its bias, is above the threshold with it."""
    value = z.float() + bias
    on = value > threshold
    row, feature = on.nonzero().unbind(dim=1)
    owner, token = on.T.nonzero().unbind(dim=1)
    places = torch.zeros(z.shape, dtype=torch.int32, device=z.device)
    places[token, owner] = torch.arange(len(token), dtype=torch.int32, device=z.device)
    column_start = sorted_starts(owner, len(bias))
    return Lists(
        row_start=sorted_starts(row, len(z)),
        feature=padded(feature.int(), room),
        place=padded(places[row, feature].clamp(max=room - 1), room),
        column_start=column_start,
        owner=padded(owner.int(), room),
        token=padded(token.int(), room),
        z=padded(value[token, owner], room),
        order=column_start.diff().argsort(descending=True, stable=True),
    )


def group_maxima(
    z: Float[Tensor, "batch d_sae"], bias: Float[Tensor, " d_sae"], size: int
) -> Float[Tensor, "batch groups"]:
    """The largest pre-activation in each group of `size` neighbouring features (the last group may
    be smaller).
    """
    value = z.float() + bias
    missing = -value.shape[1] % size
    value = torch.nn.functional.pad(value, (0, missing), value=float("-inf"))
    return value.unflatten(1, (-1, size)).amax(dim=2)


def decoder_gradients(
    lists: Lists,
    act: Float[Tensor, " room"] | None,
    rows: Float[Tensor, "batch d_model"],
    W_dec: Float[Tensor, "d_sae d_model"],
    along: Float[Tensor, " d_sae"] | None = None,
) -> tuple[Float[Tensor, " room"], Float[Tensor, "d_sae d_model"] | None]:
    """For a reconstruction whose gradient is `rows`: the gradient of each entry's activation, and,
    with the activations `act` (both in the dtype of the products), that of W_dec, to which
    `along` times its rows are added.
    """
    owner, token = listed(lists.column_start, lists.token)
    gradient = rows[token.long()].float()
    d_act = torch.zeros_like(lists.z)
    d_act[: len(owner)] = (gradient * W_dec[owner]).sum(dim=1)
    if act is None:
        return d_act, None
    d_W = torch.zeros_like(W_dec)
    d_W.index_add_(0, owner, act[: len(owner)].float()[:, None] * gradient)
    return d_act, d_W if along is None else d_W + along[:, None] * W_dec


def encoder_gradient(
    lists: Lists, d_z: Float[Tensor, " room"], centred: Float[Tensor, "batch d_model"]
) -> Float[Tensor, "d_sae d_model"]:
    """The gradient of W_enc, one row per feature, from those of pre-activations; `centred` is in
    the dtype of the products, which `d_z` is taken to.
    """
    owner, token = listed(lists.column_start, lists.token)
    shape = (len(lists.column_start) - 1, centred.shape[1])
    rows = d_z[: len(owner)].to(centred.dtype).float()[:, None] * centred[token.long()].float()
    return torch.zeros(shape, device=centred.device).index_add_(0, owner, rows)


def sums(lists: Lists, values: Float[Tensor, " room"]) -> Float[Tensor, " d_sae"]:
    """Sums over each feature's entries."""
    owner, used = listed(lists.column_start, values)
    out = torch.zeros(len(lists.column_start) - 1, device=values.device)
    return out.index_add_(0, owner, used)
