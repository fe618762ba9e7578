"""A step whose features are shared out is the step of all features: dense, sparse, too full."""

import pytest
import torch
from torch import Tensor

from sae_core.config import Architecture
from sae_core.jumprelu import KERNELS, Kernel
from tests.shards import in_threads
from tests.steps import Shape, Toy, control, distance, raw, settled
from training.kernels import plain, plain_lists
from training.kernels.shards import ShardKernels
from training.losses.feature_pairs import Every
from training.shard import ALONE, Shard, features_dim
from training.sparse_step import SparseStep
from training.step import DenseStep

SHAPE = Shape(37, 120, 61)
TOLERANCE = 2e-6
"""Of float32 sums that are split otherwise, in the norm."""


def _steps(toy: Toy, kind: str, most: float, count: int) -> tuple[dict[str, Tensor], list[bool]]:
    """The state after `count` steps in parts, put together, and which steps were sparse."""

    def work(shard: Shard) -> tuple[dict[str, Tensor], list[bool]]:
        mine = toy.part(shard)
        step = mine.dense
        kinds = []
        if kind == "sparse":
            step = mine.sparse(ShardKernels(shard, plain), most)
        elif kind == "listed":
            step = mine.listed(plain_lists, most)
        for i in range(count):
            step(raw(SHAPE, i), control(i))
            kinds.append(not isinstance(step, DenseStep) and step._fitted)
        if isinstance(step, SparseStep):
            settled(mine, step, count)
        return mine.state.tensors, kinds

    parts = in_threads(3, work)
    whole = {}
    for name, first in parts[0][0].items():
        tensors = [tensors[name] for tensors, _ in parts]
        dim = features_dim(name)
        if dim is None:
            assert all(torch.equal(t, first) for t in tensors), name
            whole[name] = first
        else:
            whole[name] = torch.cat(tensors, dim=dim)
    assert all(kinds == parts[0][1] for _, kinds in parts)
    return whole, parts[0][1]


def _assert_close(result: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert result.keys() == expected.keys()
    for name, tensor in expected.items():
        assert distance(result[name], tensor) < TOLERANCE, name


@pytest.mark.parametrize("targeted", [True, False])
def test_dense_steps(targeted: bool) -> None:
    toy = Toy(SHAPE, targeted=targeted)
    result, _ = _steps(toy, "dense", 0, 3)
    for i in range(3):
        toy.dense(raw(SHAPE, i), control(i))
    _assert_close(result, toy.state.tensors)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
@pytest.mark.parametrize("kernel", KERNELS)
def test_sparse_steps(kernel: Kernel, beta1: float) -> None:
    toy = Toy(SHAPE, kernel=kernel, beta1=beta1)
    result, kinds = _steps(toy, "sparse", 0.9, 3)
    assert kinds == [True] * 3
    for i in range(3):
        toy.dense(raw(SHAPE, i), control(i))
    _assert_close(result, toy.state.tensors)


@pytest.mark.parametrize("architecture", ["gated", "standard", "topk"])
def test_listed_steps(architecture: Architecture) -> None:
    toy = Toy(SHAPE, architecture=architecture)
    toy.bury(9)
    result, kinds = _steps(toy, "listed", 0.5, 3)
    assert kinds == [True] * 3
    for i in range(3):
        toy.dense(raw(SHAPE, i), control(i))
    _assert_close(result, toy.state.tensors)


def test_listed_steps_are_dense_where_one_part_is_too_full() -> None:
    toy = Toy(SHAPE, architecture="standard")
    with torch.no_grad():
        toy.start["b_enc"][:40] -= 1
        toy.start["b_enc"][80:] += 0.5
        for name, p in toy.state.plain.items():
            p.copy_(toy.start[name])
    result, kinds = _steps(toy, "listed", 0.2, 2)
    assert kinds == [False] * 2
    for i in range(2):
        toy.dense(raw(SHAPE, i), control(i))
    _assert_close(result, toy.state.tensors)


def test_where_one_part_is_too_full_all_take_the_dense_step() -> None:
    toy = Toy(SHAPE)
    with torch.no_grad():
        # The first process's features are hardly ever active, the last one's often.
        toy.start["threshold"][:40] = 2.0
        toy.start["threshold"][80:] = 0.01
    counts = _entries(toy)
    assert counts[0] < 0.1 < 0.3 < counts[2]
    result, kinds = _steps(toy, "sparse", 0.2, 2)
    assert kinds == [False] * 2
    with torch.no_grad():
        for name, p in toy.state.plain.items():
            p.copy_(toy.start[name])
    for i in range(2):
        toy.dense(raw(SHAPE, i), control(i))
    _assert_close(result, toy.state.tensors)


def _entries(toy: Toy) -> list[float]:
    """The share of a third's pairs that are active."""
    p = toy.start
    z = (raw(SHAPE, 0) / float(toy.setting.scale) - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    on = (z > p["threshold"]).float()
    return [float(part.mean()) for part in on.chunk(3, dim=1)]


def test_the_largest_of_all_parts() -> None:
    z = torch.randn(50, 60, generator=torch.Generator().manual_seed(0))
    # More than a part has, and fewer.
    for k in (4, 35):
        alone = Every(z, torch.float32, ALONE).largest(torch.zeros(60), k).values

        def work(shard: Shard, k: int = k) -> Tensor:
            mine = Every(shard.mine(z, 1), torch.float32, shard)
            return mine.largest(torch.zeros(20), k).values

        assert torch.equal(torch.cat(in_threads(3, work), dim=1), alone)


def test_parts_of_tensors() -> None:
    assert [
        features_dim(n) for n in ("W_enc", "a.second.W_dec", "touched", "totals.tokens_since_fired")
    ] == [*(1, 0, 0, 0)]
    for name in ("b_dec", "sae-lr_0.001.first.b_dec", "multiplier", "totals.scalars", "mean.a/1"):
        assert features_dim(name) is None
    whole = torch.arange(12).view(2, 6)
    parts = [Shard(rank, 3).mine(whole, 1) for rank in range(3)]
    assert torch.equal(torch.cat(parts, dim=1), whole)
    assert ALONE.mine(whole, 1) is whole
    assert ALONE.sum(whole) is whole
