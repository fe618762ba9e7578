"""The k largest pre-activations of each token, and their lists, by PyTorch's own operations."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from training.kernels.entries import Lists

_LARGEST_GROUP = 64


def largest(
    z: Float[Tensor, "batch d_sae"],
    bias: Float[Tensor, " d_sae"],
    k: int,
    group_maxima: Callable[[Tensor, Tensor, int], Tensor],
) -> tuple[Int[Tensor, "batch k"], Float[Tensor, "batch k"]]:
    """Features and pre-activations; `z` lacks its bias.

    Only the k groups of neighbouring features with the largest maxima are looked at: what is larger
    than the k-th of those maxima lies in them, and k of their features are at least as large.
    """
    d_sae = z.shape[1]
    size = min(_LARGEST_GROUP, 1 << (int((d_sae / k) ** 0.5).bit_length() - 1))
    if size < 4:  # nothing to be gained
        top = (z.float() + bias).topk(k, dim=1, sorted=False)
        return top.indices, top.values
    groups = group_maxima(z, bias, size).topk(k, dim=1, sorted=False).indices
    within = torch.arange(size, device=z.device)
    features = (groups[:, :, None] * size + within).flatten(start_dim=1)
    exists = features < d_sae
    features = features.clamp(max=d_sae - 1)
    values = torch.where(exists, z.gather(1, features).float() + bias[features], float("-inf"))
    top = values.topk(k, dim=1, sorted=False)
    return features.gather(1, top.indices), top.values


def lists_of(
    features: Int[Tensor, "batch k"], values: Float[Tensor, "batch k"], d_sae: int
) -> Lists:
    """The lists of these entries, for which there is room; the same in whatever order they come."""
    batch, k = features.shape
    device = features.device
    features, ranked = features.sort(dim=1)
    values = values.gather(1, ranked)
    feature = features.flatten().int()
    owner, by_feature = feature.sort(stable=True)
    place = torch.empty_like(owner)
    place[by_feature] = torch.arange(batch * k, dtype=torch.int32, device=device)
    ends = torch.arange(1, d_sae + 1, dtype=torch.int32, device=device)
    column_start = torch.zeros(d_sae + 1, dtype=torch.int32, device=device)
    column_start[1:] = torch.searchsorted(owner, ends, out_int32=True)
    return Lists(
        row_start=torch.arange(0, batch * k + 1, k, dtype=torch.int32, device=device),
        feature=feature,
        place=place,
        column_start=column_start,
        owner=owner,
        token=(by_feature // k).int(),
        z=values.flatten()[by_feature],
        order=column_start.diff().argsort(descending=True, stable=True),
    )
