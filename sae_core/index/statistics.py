"""Statistics of every feature of one SAE, gathered while activations stream by.

All arithmetic on activations is float32, sums are float64 or integers. Nearly every statistic is of
active tokens, and near misses have to beat those kept already, so a batch is reduced to two lists
of (feature, token) entries (`batch_lists`) and everything else is work on these. Only the histogram
of pre-activations is of every token; it is taken on a sample of them.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from sae_core.index.batch_lists import BatchLists, BatchTokens
from sae_core.index.feature_histograms import DoublingHistogram, WindowHistogram
from sae_core.index.index_config import EARLY, IndexConfig
from sae_core.index.listed_entries import Entries, feature_blocks
from sae_core.index.pairs import PairCounts
from sae_core.index.selection import (
    MERGE_AT,
    Best,
    Candidates,
    IntervalSample,
    priorities,
    sample_exponent,
)
from sae_core.index.windows import Active
from sae_core.metrics import fvu, squared_deviation
from sae_core.sae import SAE

_GPU_TOKENS = 2**14
"""Tokens counted together on a GPU, so that the host's part of the work is shared by many."""
_WINDOW_SD = 6.0
"""Half-width of the histogram of pre-activations, in standard deviations."""
HISTOGRAM_TOKENS = 2**13
"""Twice as many tokens at the stream's start, and as many of each doubling of its length from there
on, are in the histograms of pre-activations."""


@dataclass(frozen=True)
class Chunk:
    """Rows of the stream as tensors on the SAE's device; the first `skip` tokens are BOS."""

    x: Float[Tensor, "rows pos d_model"]
    """What the SAE reads, and what it reconstructs."""
    y: Float[Tensor, "rows pos d_out"]
    ids: Int[Tensor, "rows pos"]
    valid: Bool[Tensor, "rows pos"]
    skip: int
    row: Int[Tensor, " rows"]
    """Number of each row in the stream."""
    start: Int[Tensor, " rows"]
    """Place in the stream of each row's first token after BOS."""
    document: Int[Tensor, " rows"]
    source: Int[Tensor, " rows"]


@dataclass(frozen=True)
class _Tokens:
    """Tokens that count, row after row; columns of equal length."""

    x: Float[Tensor, "n d_model"]
    y: Float[Tensor, "n d_out"]
    ids: Int[Tensor, " n"]
    row: Int[Tensor, " n"]
    """Number of the row in the stream."""
    position: Int[Tensor, " n"]
    """Token of the row, BOS not counted."""
    place: Int[Tensor, " n"]
    """In the stream."""
    early: Bool[Tensor, " n"]
    document: Int[Tensor, " n"]
    source: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.x)

    @classmethod
    def cat(cls, parts: "list[_Tokens]") -> "_Tokens":
        """All parts, in order."""
        names = [field.name for field in fields(cls)]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def histogram_width(sae: SAE, x: Float[Tensor, "tokens d_model"]) -> Float[Tensor, " d_sae"]:
    """Bin widths of the histograms of pre-activations: 56 bins span 12 standard deviations on `x`.

    Rounded to a quarter of an octave, so that rounding errors of the deviation do not show.
    """
    sd = torch.cat([pre.double().std(1, correction=0) for _, pre in feature_blocks(sae, x)])
    sd = torch.maximum(sd, 1e-3 * sae.effective_threshold().abs().double()).clamp(min=1e-6)
    octaves = torch.log2(sd * (2 * _WINDOW_SD / WindowHistogram.BINS))
    return torch.exp2((octaves * 4).round() / 4).float()


def histogram_stride(place: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Of how many tokens about `place` in the stream one is in the histograms of pre-activations,
    and how often it counts there: the largest power of two that is at most `place` over
    `HISTOGRAM_TOKENS`, or 1.
    """
    exponent = torch.frexp((place // HISTOGRAM_TOKENS).clamp(min=1).double()).exponent - 1
    return torch.ones_like(place) << exponent


class FeatureStatistics:
    """Accumulators for one SAE; `update` takes the stream in order, `state` makes checkpoints."""

    def __init__(
        self, sae: SAE, cfg: IndexConfig, width: Float[Tensor, " d_sae"], vocab_size: int
    ) -> None:
        """`width`: bin widths of the histograms of pre-activations (`histogram_width`)."""
        self.sae, self._cfg, self._vocab_size = sae, cfg, vocab_size
        d_sae, d_out = sae.cfg.d_sae, sae.cfg.width_out
        self._device = device = sae.W_dec.device
        self.threshold = sae.effective_threshold().float()
        self.tokens = 0
        self.active = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self.early = torch.zeros_like(self.active)
        self.act_sum = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self.max_act = torch.zeros(d_sae, device=device)
        self.y_sum = torch.zeros(d_out, dtype=torch.float64, device=device)
        self.y_square = torch.zeros((), dtype=torch.float64, device=device)
        self.error = torch.zeros((), dtype=torch.float64, device=device)
        self.by_source = torch.zeros((0, d_sae), dtype=torch.int64, device=device)
        self.acts = DoublingHistogram(self.threshold)
        self.pre_acts = WindowHistogram(self.threshold, width)
        self.pairs = PairCounts(device)
        self.best = {
            (name, unit): Best(d_sae, k, unit, device)
            for name, k in (("top", cfg.top), ("near_miss", cfg.near_misses))
            for unit in ("document", "row")
            if k
        }
        self.sample = IntervalSample(self.threshold)
        self._buffers: dict[str, list[Candidates]] = {"top": [], "near_miss": [], "sample": []}
        self._waiting: list[_Tokens] = []
        self._lists = BatchLists(sae, self.threshold, cfg.near_misses)

    def update(self, chunk: Chunk) -> None:
        """Count the tokens of these rows, which follow those of the last call: at once, or on a GPU
        together with those of the next calls, until `merge`.
        """
        row, column = chunk.valid.nonzero(as_tuple=True)
        position = column - chunk.skip
        self._waiting.append(
            _Tokens(
                x=chunk.x[row, column],
                y=chunk.y[row, column],
                ids=chunk.ids[row, column],
                row=chunk.row[row],
                position=position,
                place=chunk.start[row] + position,
                early=column < chunk.skip + EARLY,
                document=chunk.document[row],
                source=chunk.source[row],
            )
        )
        if sum(map(len, self._waiting)) >= (_GPU_TOKENS if chunk.x.is_cuda else 1):
            self._flush()

    def _flush(self) -> None:
        """Count the tokens that wait."""
        if not self._waiting:
            return
        tokens = _Tokens.cat(self._waiting)
        self._waiting = []
        if not len(tokens):
            return
        near_bar = None
        if self._cfg.near_misses:
            # A list of documents is never harder to enter than the list of rows.
            near_bar = self.best["near_miss", "document"].bar
        x, row = tokens.x.float(), tokens.row - tokens.row[0]
        batch = BatchTokens(x=x, row=row, column=tokens.position, document=tokens.document)
        active, near = self._lists.of(batch, near_bar)

        self.tokens += len(tokens)
        self._reconstruction(x, tokens.y, active)
        self._histogram(x, tokens.place, active)
        self._count(active, tokens.early, tokens.source)
        self.pairs.add(active.feature * self._vocab_size + tokens.ids[active.token])
        self._offer(tokens, active, near)
        self._merge_full()

    def _reconstruction(self, x: Tensor, y: Tensor, active: Entries) -> None:
        """Sums for FVU; features are added up in order of their numbers."""
        wide = y.double()
        self.y_sum += wide.sum(0)
        self.y_square += wide.square().sum()
        token, order = active.token.sort(stable=True)
        bounds = torch.searchsorted(token, torch.arange(len(x), device=token.device))
        W_dec = self.sae.W_dec.detach()
        recon = functional.embedding_bag(
            active.feature[order],
            W_dec,
            bounds,
            mode="sum",
            per_sample_weights=active.value[order].to(W_dec.dtype),
        )
        self.error += (wide - self.sae.completed(recon + self.sae.b_dec, x).double()).square().sum()

    def _histogram(self, x: Tensor, place: Tensor, active: Entries) -> None:
        """Pre-activations of the sample's tokens; of active entries those of all tokens."""
        if self._lists.columnwise:
            self.pre_acts.add_active(active.feature, active.value)
        stride = histogram_stride(place)
        chosen = priorities(place, self._cfg.seed) % stride == 0
        for weight in stride.unique().tolist():
            some = x[chosen & (stride == weight)]
            if len(some):
                for features, pre in feature_blocks(self.sae, some):
                    self.pre_acts.add(pre, features, weight)

    def _count(self, active: Entries, early: Tensor, source: Tensor) -> None:
        feature, value = active.feature, active.value
        d_sae = len(self.active)
        self.active += torch.bincount(feature, minlength=d_sae)
        self.early += torch.bincount(feature[early[active.token]], minlength=d_sae)
        self.act_sum.index_add_(0, feature, value.double())
        largest = torch.zeros_like(self.max_act).scatter_reduce_(0, feature, value, "amax")
        self.max_act = torch.maximum(self.max_act, largest)
        self.acts.widen(largest)
        self.acts.add(feature, value)
        needed = int(source.max()) + 1
        if needed > len(self.by_source):
            more = self.by_source.new_zeros((needed - len(self.by_source), d_sae))
            self.by_source = torch.cat([self.by_source, more])
        key = source[active.token] * d_sae + feature
        self.by_source.view(-1).scatter_add_(0, key, torch.ones_like(key))

    def _offer(self, tokens: "_Tokens", active: Entries, near: Entries) -> None:
        """Buffer the entries that may be kept as contexts."""
        around = Active(active.feature, active.token, active.value, tokens.row, tokens.position)

        def offer(name: str, entries: Entries, priority: Tensor) -> None:
            feature, token = entries.feature, entries.token
            scale = self.pre_acts.width[feature]
            windows = around.windows(feature, token, scale, self._cfg.before, self._cfg.after)
            self._buffers[name].append(
                Candidates(
                    feature.int(),
                    tokens.document[token].int(),
                    tokens.row[token].int(),
                    tokens.position[token].short(),
                    priority,
                    entries.value,
                    windows,
                )
            )

        bar = self.best["top", "document"].bar
        top = active[active.value > bar[active.feature]]
        offer("top", top, torch.zeros_like(top.feature))
        if self._cfg.near_misses:
            offer("near_miss", near, torch.zeros_like(near.feature))
        if self._cfg.per_interval:
            priority = priorities(tokens.place[active.token], self._cfg.seed)
            exponent = sample_exponent(self.acts.largest)
            keep = self.sample.matters(active.feature, active.value, priority, exponent)
            offer("sample", active[keep], priority[keep])

    def _merge_full(self) -> None:
        """Merge the buffers that have grown beyond what is kept already."""
        kept = {
            "top": len(self.best["top", "row"].kept),
            "near_miss": len(self.best["near_miss", "row"].kept) if self._cfg.near_misses else 0,
            "sample": len(self.sample.kept),
        }
        for name, buffer in self._buffers.items():
            # The first near misses set the bar that keeps the lists short.
            first = name == "near_miss" and not kept[name]
            if first or sum(map(len, buffer)) > max(MERGE_AT, kept[name]):
                self._merge(name)

    def merge(self) -> None:
        """Take what waits and what is buffered into what is kept."""
        self._flush()
        for name in self._buffers:
            self._merge(name)

    def settle(self) -> None:
        """`merge`, and free the memory that only counting takes, until the next `update`."""
        self.merge()
        self._lists.release()

    def _merge(self, name: str) -> None:
        if not self._buffers[name]:
            return
        new = Candidates.cat(self._buffers[name])
        self._buffers[name] = []
        if name == "sample":
            self.sample.merge(new, sample_exponent(self.acts.largest))
        else:
            self.best[name, "document"].merge(new)
            self.best[name, "row"].merge(new)

    def pre_activation_counts(self) -> Int[Tensor, "d_sae 58"]:
        """Histograms of pre-activations of all tokens (`WindowHistogram.scaled`)."""
        return self.pre_acts.scaled(self.tokens, self._lists.columnwise)

    def totals(self) -> dict[str, float]:
        """`l0`, `fvu` and `dead` so far, as `sae_core.metrics` defines them; NaN where the tokens
        define none.
        """
        if not self.tokens:
            return dict.fromkeys(("l0", "fvu", "dead"), float("nan"))
        deviation = squared_deviation(self.y_square, self.y_sum, self.tokens)
        return {
            "l0": float(self.active.sum()) / self.tokens,
            "fvu": fvu(self.error, deviation),
            "dead": float((self.active == 0).double().mean()),
        }

    _SUMS = ("active", "early", "act_sum", "max_act", "y_sum", "y_square", "error", "by_source")

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs: tensors on the CPU and plain values."""
        self.merge()
        return {
            "tokens": self.tokens,
            "sums": {name: getattr(self, name).cpu() for name in self._SUMS},
            "acts": self.acts.state(),
            "pre_acts": self.pre_acts.state(),
            "width": self.pre_acts.width.cpu(),
            "pairs": self.pairs.state(),
            "best": {f"{n}/{unit}": best.state() for (n, unit), best in self.best.items()},
            "sample": self.sample.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.tokens = state["tokens"]
        for name in self._SUMS:
            setattr(self, name, state["sums"][name].to(self._device))
        self.acts.load(state["acts"])
        self.pre_acts.load(state["pre_acts"])
        self.pre_acts.width = state["width"].to(self._device)
        self.pairs.load(state["pairs"])
        for (name, unit), best in self.best.items():
            best.load(state["best"][f"{name}/{unit}"])
        self.sample.load(state["sample"], sample_exponent(self.acts.largest))
