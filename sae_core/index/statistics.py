"""Statistics of every feature of one SAE, gathered while activations stream by.

All arithmetic on activations is float32, sums are float64 or integers. A chunk of rows is handled
by whole-tensor operations: dense ones `[rows, pos, d_sae]` for what concerns every pre-activation,
sparse ones on the active (token, feature) pairs for the rest.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.index.feature_histograms import DoublingHistogram, WindowHistogram
from sae_core.index.index_config import EARLY, IndexConfig
from sae_core.index.pairs import PairCounts
from sae_core.index.selection import (
    MERGE_AT,
    Best,
    Candidates,
    IntervalSample,
    priorities,
    sample_exponent,
)
from sae_core.metrics import fvu, squared_deviation
from sae_core.sae import SAE

_WINDOW_SD = 6.0
"""Half-width of the histogram of pre-activations, in standard deviations."""
_CPU_CHUNK, _GPU_CHUNK = 2**21, 2**27
"""Pre-activations computed at once: what a CPU's cache holds, what a GPU needs to be busy."""


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


def histogram_width(sae: SAE, x: Float[Tensor, "tokens d_model"]) -> Float[Tensor, " d_sae"]:
    """Bin widths of the histograms of pre-activations: 56 bins span 12 standard deviations on `x`.

    Rounded to a quarter of an octave, so that rounding errors of the deviation do not show.
    """
    pre = sae.pre_acts(x).double()
    sd = pre.std(0, correction=0)
    sd = torch.maximum(sd, 1e-3 * sae.effective_threshold().abs().double()).clamp(min=1e-6)
    octaves = torch.log2(sd * (2 * _WINDOW_SD / WindowHistogram.BINS))
    return torch.exp2((octaves * 4).round() / 4).float()


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
        window = cfg.before + 1 + cfg.after
        self._offsets = torch.arange(-cfg.before, cfg.after + 1, device=device)
        self.best = {
            (name, unit): Best(d_sae, k, unit, window, device)
            for name, k in (("top", cfg.top), ("near_miss", cfg.near_misses))
            for unit in ("document", "row")
            if k
        }
        self.sample = IntervalSample(self.threshold, window)
        self._buffers: dict[str, list[Candidates]] = {"top": [], "near_miss": [], "sample": []}
        self._buffered = 0

    def update(self, chunk: Chunk) -> None:
        """Count the tokens of these rows, which follow those of the last call."""
        limit = _CPU_CHUNK if self._device.type == "cpu" else _GPU_CHUNK
        rows, length = chunk.ids.shape
        step = max(1, limit // (length * self.sae.cfg.d_sae))
        for first in range(0, rows, step):
            part = slice(first, first + step)
            self._update(
                Chunk(
                    chunk.x[part],
                    chunk.y[part],
                    chunk.ids[part],
                    chunk.valid[part],
                    chunk.skip,
                    chunk.row[part],
                    chunk.start[part],
                    chunk.document[part],
                    chunk.source[part],
                )
            )

    def _update(self, chunk: Chunk) -> None:
        x = chunk.x.float()
        pre = self.sae.pre_acts(x)
        acts = self.sae.activate(pre)
        self._reconstruction(x, chunk.y, acts, chunk.valid)
        self.pre_acts.add(pre[chunk.valid])
        # Special tokens and padding: neither active nor a near miss.
        row, place = (~chunk.valid).nonzero(as_tuple=True)
        acts[row, place] = 0
        pre[row, place] = -torch.inf

        fired = acts > 0
        per_row = fired.sum(1)
        self.active += per_row.sum(0)
        self.early += fired[:, chunk.skip : chunk.skip + EARLY].sum((0, 1))
        self.act_sum += acts.sum((0, 1), dtype=torch.float64)
        self._count_sources(chunk.source, per_row)

        strongest, where = acts.max(1)
        largest = strongest.amax(0)
        self.max_act = torch.maximum(self.max_act, largest)
        self.acts.widen(largest)
        self._offer_best("top", chunk, acts, strongest, where, floor=0.0)
        if self._cfg.near_misses:
            closest, where = pre.masked_fill_(fired, -torch.inf).max(1)
            self._offer_best("near_miss", chunk, acts, closest, where, floor=-torch.inf)
        self._active_tokens(chunk, acts, fired)
        if self._buffered > max(MERGE_AT, 2 * len(self.sample.kept)):
            self.merge()

    def _reconstruction(self, x: Tensor, y: Tensor, acts: Tensor, valid: Tensor) -> None:
        wide = y[valid].double()
        self.tokens += len(wide)
        self.y_sum += wide.sum(0)
        self.y_square += wide.square().sum()
        self.error += (wide - self.sae.output(acts, x)[valid].double()).square().sum()

    def _count_sources(self, source: Tensor, per_row: Tensor) -> None:
        needed = int(source.max()) + 1
        if needed > len(self.by_source):
            more = self.by_source.new_zeros((needed - len(self.by_source), per_row.shape[1]))
            self.by_source = torch.cat([self.by_source, more])
        self.by_source.index_add_(0, source, per_row)

    def _offer_best(
        self,
        name: str,
        chunk: Chunk,
        acts: Tensor,
        value: Float[Tensor, "rows d_sae"],
        where: Int[Tensor, "rows d_sae"],
        floor: float,
    ) -> None:
        """Buffer each row's best token of the features whose best list it may enter."""
        # A list of documents is never harder to enter than the list of rows.
        bar = self.best[name, "document"].bar.clamp(min=floor)
        row, feature = (value > bar).nonzero(as_tuple=True)
        self._offer(name, chunk, acts, row, where[row, feature], feature, value[row, feature])

    def _active_tokens(self, chunk: Chunk, acts: Tensor, fired: Tensor) -> None:
        length, d_sae = acts.shape[1:]
        flat = fired.view(-1).nonzero()[:, 0]
        feature = flat % d_sae
        token = flat // d_sae
        value = acts.view(-1)[flat]
        self.pairs.add(feature * self._vocab_size + chunk.ids.view(-1)[token])
        self.acts.add(feature, value)
        if not self._cfg.per_interval:
            return
        row, position = token // length, token % length
        place = chunk.start[row] + position - chunk.skip
        priority = priorities(place, self._cfg.seed)
        exponent = sample_exponent(self.acts.largest)
        keep = self.sample.matters(feature, value, priority, exponent)
        self._offer(
            "sample",
            chunk,
            acts,
            row[keep],
            position[keep],
            feature[keep],
            value[keep],
            priority[keep],
        )

    def _offer(
        self,
        name: str,
        chunk: Chunk,
        acts: Tensor,
        row: Tensor,
        position: Tensor,
        feature: Tensor,
        value: Tensor,
        priority: Tensor | None = None,
    ) -> None:
        length, d_sae = acts.shape[1:]
        near = position[:, None] + self._offsets
        inside = (near >= 0) & (near < length)
        flat = (row[:, None] * length + near.clamp(0, length - 1)) * d_sae + feature[:, None]
        window = (acts.view(-1)[flat] / self.pre_acts.width[feature][:, None]) * inside
        self._buffers[name].append(
            Candidates(
                feature,
                chunk.document[row],
                chunk.row[row],
                position - chunk.skip,
                torch.zeros_like(feature) if priority is None else priority,
                value,
                window.half(),
            )
        )
        self._buffered += len(feature)

    def merge(self) -> None:
        """Take what is buffered into what is kept."""
        for name in ("top", "near_miss"):
            if self._buffers[name]:
                new = Candidates.cat(self._buffers[name])
                self.best[name, "document"].merge(new)
                self.best[name, "row"].merge(new)
        if self._buffers["sample"]:
            new = Candidates.cat(self._buffers["sample"])
            self.sample.merge(new, sample_exponent(self.acts.largest))
        self._buffers = {name: [] for name in self._buffers}
        self._buffered = 0

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
            "pre_acts": self.pre_acts.counts.cpu(),
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
        self.pre_acts.counts = state["pre_acts"].to(self._device)
        self.pre_acts.width = state["width"].to(self._device)
        self.pairs.load(state["pairs"])
        for (name, unit), best in self.best.items():
            best.load(state["best"][f"{name}/{unit}"])
        self.sample.load(state["sample"], sample_exponent(self.acts.largest))
