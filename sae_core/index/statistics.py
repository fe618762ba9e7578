"""Statistics of every feature of one SAE, gathered while activations stream by.

All arithmetic on activations is float32, sums are float64 or integers. Nearly every statistic is of
active tokens, and near misses have to beat those kept already, so a batch is reduced to two lists
of (feature, token) entries (`batch_lists`) and everything else is work on these. Only the histogram
of pre-activations is of every token; it is taken on a sample of them, at the end.

What is counted, and which candidates are kept, depends on which tokens were read and neither on
their order nor on who read them: statistics of parts of a text can be joined to those of all of it
(`absorb`).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.index.batch_lists import BatchLists, BatchTokens
from sae_core.index.counted_tokens import Chunk, Tokens
from sae_core.index.feature_histograms import (
    HALF_WINDOW,
    DoublingHistogram,
    deviations,
    exact_power_of_two,
    of_all_tokens,
    window_counts,
)
from sae_core.index.feature_pages import WINDOW_BINS
from sae_core.index.index_config import IndexConfig
from sae_core.index.listed_entries import Entries, feature_blocks, places_of
from sae_core.index.listed_sums import listed_sums
from sae_core.index.pairs import PairCounts
from sae_core.index.selection import (
    MERGE_AT,
    Best,
    Candidates,
    IntervalSample,
    largest_of_run,
    priorities,
    sample_exponent,
)
from sae_core.index.token_sample import TokenSample
from sae_core.index.windows import Active, Windows
from sae_core.metrics import fvu, squared_deviation
from sae_core.sae import SAE

_GPU_TOKENS = 2**13
"""Tokens counted together on a GPU, at least, so that the host's work is shared by many."""
_WINDOW_SD = 6.0
"""Half-width of the histogram of pre-activations, in standard deviations."""


class FeatureStatistics:
    """Accumulators for one SAE; `update` takes the stream, or rows of it, in order; `state` makes
    checkpoints.
    """

    def __init__(self, sae: SAE, cfg: IndexConfig, vocab_size: int) -> None:
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
        self.inputs = TokenSample(device)
        self.pairs = PairCounts(device)
        self.best = {
            (name, unit): Best(d_sae, k, unit, device)
            for name, k in (("top", cfg.top), ("near_miss", cfg.near_misses))
            for unit in ("document", "row")
            if k
        }
        self.sample = IntervalSample(self.threshold)
        self._buffers: dict[str, list[Candidates]] = {"top": [], "near_miss": [], "sample": []}
        self._waiting: list[Tokens] = []
        self._lists = BatchLists(sae, self.threshold, cfg.near_misses)

    def update(self, chunk: Chunk) -> None:
        """Count the tokens of these rows, later ones than before; a GPU's once many wait."""
        self._waiting.append(Tokens.of(chunk))
        if sum(map(len, self._waiting)) >= (_GPU_TOKENS if chunk.x.is_cuda else 1):
            self._flush()

    def _flush(self) -> None:
        """Count the tokens that wait."""
        if not self._waiting:
            return
        tokens, self._waiting = Tokens.cat(self._waiting), []
        if not len(tokens):
            return
        bars = [None, None]
        if self._cfg.near_misses:
            # A list of documents is never harder to enter than the list of rows.
            bars = [self.best["near_miss", unit].bar for unit in ("document", "row")]
        x = tokens.x.float()
        batch = BatchTokens(x=x, row=tokens.row, column=tokens.position, document=tokens.document)
        active, near = self._lists.of(batch, *bars)

        self.tokens += len(tokens)
        self._reconstruction(x, tokens.y, active)
        place = tokens.row << 16 | tokens.position
        priority = priorities(tokens.key, self._cfg.seed)
        self.inputs.add(tokens.x, priority, place, self.tokens)
        self._count(active, tokens.early, tokens.source)
        self.pairs.add(active.feature * self._vocab_size + tokens.ids[active.token])
        self._offer(tokens, active, near, priority)
        self._merge_full()

    def _reconstruction(self, x: Tensor, y: Tensor, active: Entries) -> None:
        """Sums for FVU; features are added up in order of their numbers."""
        wide = y.to(torch.float64, copy=True)
        self.y_sum += wide.sum(0)
        self.y_square += wide.square().sum()
        W_dec = self.sae.W_dec.detach()
        recon = listed_sums(W_dec, active.feature, active.token, active.value, len(x))
        wide -= self.sae.completed(recon + self.sae.b_dec, x)
        self.error += wide.square_().sum()

    def _count(self, active: Entries, early: Tensor, source: Tensor) -> None:
        feature, value = active.feature, active.value
        d_sae = len(self.active)
        self.active += torch.bincount(feature, minlength=d_sae)
        self.early += torch.bincount(feature[early[active.token]], minlength=d_sae)
        self.act_sum.index_add_(0, feature, value.double())
        largest = torch.zeros_like(self.max_act).scatter_reduce_(0, feature, value, "amax")
        self.max_act = torch.maximum(self.max_act, largest)
        self.acts.widen(largest - self.threshold)
        self.acts.add(feature, value)
        self._room_for_sources(int(source.max()) + 1)
        key = source[active.token] * d_sae + feature
        self.by_source.view(-1).scatter_add_(0, key, torch.ones_like(key))

    def _room_for_sources(self, needed: int) -> None:
        if needed > len(self.by_source):
            more = self.by_source.new_zeros((needed - len(self.by_source), len(self.active)))
            self.by_source = torch.cat([self.by_source, more])

    def _offer(self, tokens: Tokens, active: Entries, near: Entries, priority: Tensor) -> None:
        """Buffer the entries that may be kept as contexts; `priority` of each token."""
        around = Active(active.feature, active.token, active.value, tokens.row, tokens.position)

        def windows(entries: Entries) -> Windows:
            before, after = self._cfg.before, self._cfg.after
            return around.windows(entries.feature, entries.token, before, after)

        def offer(name: str, entries: Entries, windows: Windows) -> None:
            token = entries.token
            drawn = priority[token] if name == "sample" else torch.zeros_like(token)
            self._buffers[name].append(
                Candidates(
                    entries.feature.int(),
                    tokens.document[token].int(),
                    tokens.row[token].int(),
                    tokens.position[token].short(),
                    drawn,
                    entries.value,
                    windows,
                )
            )

        offered = {"top": self._may_be_best("top", tokens, active)}
        if self._cfg.per_interval:
            drawn = priority.index_select(0, active.token)
            exponent = sample_exponent(self.acts.largest)
            offered["sample"] = self.sample.matters(active.feature, active.value, drawn, exponent)
        # Some are offered as both, above all of the first tokens: their windows are found once.
        place = places_of(torch.stack(list(offered.values())).any(0))
        some = active[place]
        of_some = windows(some)
        for name, mask in offered.items():
            chosen = places_of(mask.index_select(0, place))
            offer(name, some[chosen], of_some[chosen])
        if self._cfg.near_misses:
            near = near[self._may_be_best("near_miss", tokens, near)]
            offer("near_miss", near, windows(near))

    def _may_be_best(self, name: str, tokens: Tokens, entries: Entries) -> Bool[Tensor, " n"]:
        """Which of these entries, sorted by feature, then token, could still be among the best:
        of rows, or, if it is the best of its document among these, of documents.
        """
        feature, value = entries.feature, entries.value
        bars = (self.best[name, unit].bar.index_select(0, feature) for unit in ("row", "document"))
        of_rows, of_documents = (value > bar for bar in bars)
        row, document = (
            each.index_select(0, entries.token) for each in (tokens.row, tokens.document)
        )
        of_documents &= largest_of_run(value, feature, document)
        return (of_rows & largest_of_run(value, feature, row)) | of_documents

    def _merge_full(self) -> None:
        """Merge the buffers that have grown beyond what is kept already."""
        kept = {
            "top": len(self.best["top", "row"].kept),
            "near_miss": len(self.best["near_miss", "row"].kept) if self._cfg.near_misses else 0,
            "sample": len(self.sample.kept),
        }
        for name, buffer in self._buffers.items():
            # The first near misses set bars, which keep lists short: a CPU needs them soon.
            opening = self._device.type == "cpu" and self._lists.opening
            first = name == "near_miss" and (opening or not kept[name])
            if first or sum(map(len, buffer)) > max(MERGE_AT, kept[name]):
                self._merge(name)

    def merge(self) -> None:
        """Take what waits and what is buffered into what is kept."""
        self._flush()
        for name in self._buffers:
            self._merge(name)

    def settle(self) -> None:
        """Count what waits, and `release`: nothing will come. `merge` is left to who asks for
        candidates, as it takes long.
        """
        self._flush()
        self.release()

    def release(self) -> None:
        """Free what only counting takes, and leave the SAE as it was, until the next `update`."""
        self._lists.release()

    def _merge(self, name: str) -> None:
        if not self._buffers[name]:
            return
        new = Candidates.joined(self._buffers[name])
        if name == "sample":
            self.sample.merge(new, sample_exponent(self.acts.largest))
        else:
            self.best[name, "document"].merge(new)
            self.best[name, "row"].merge(new)

    def pre_activations(self) -> tuple[Float[Tensor, " d_sae"], Int[Tensor, "d_sae 58"]]:
        """Histograms of the pre-activations of all tokens (`window_counts`): bin widths, counts.

        56 bins span about twelve standard deviations. Widths are powers of two; where what is right
        of the threshold is counted on all tokens, in bins of its own, no less than those are wide.
        """
        self.merge()
        x = self.inputs.inputs(self.tokens).reshape(-1, self.sae.cfg.d_model)
        exponents, sampled = [], []
        for some, pre in feature_blocks(self.sae, x):
            threshold = self.threshold[some]
            sd = torch.maximum(deviations(pre), 1e-3 * threshold.abs()).clamp(min=1e-6)
            exponent = torch.log2(sd * (2 * _WINDOW_SD / WINDOW_BINS)).round().long()
            if self._lists.columnwise:
                exponent = torch.maximum(exponent, self.acts.finest[some])
            exponents.append(exponent)
            sampled.append(window_counts(pre, threshold, exact_power_of_two(exponent)))
        exponent = torch.cat(exponents)
        right = self.acts.wider(exponent, HALF_WINDOW) if self._lists.columnwise else None
        counts = of_all_tokens(torch.cat(sampled), self.tokens, right)
        return exact_power_of_two(exponent), counts

    def totals(self) -> dict[str, float]:
        """`l0`, `fvu` and `dead` as `sae_core.metrics` defines them; NaN where no token does."""
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
        """What a checkpoint needs: tensors, where they are and as long as they are, and plain
        values.
        """
        self.merge()
        return {
            "tokens": self.tokens,
            "sums": {name: getattr(self, name) for name in self._SUMS},
            "acts": self.acts.state(),
            "inputs": self.inputs.state(),
            "pairs": self.pairs.state(),
            "best": {f"{n}/{unit}": best.state() for (n, unit), best in self.best.items()},
            "sample": self.sample.state(),
        }

    def parts(self) -> Iterator[dict[str, Any]]:
        """`state` in parts, so that whoever absorbs one after another has one at a time."""
        state = self.state()
        best, pairs, sample = (state.pop(name) for name in ("best", "pairs", "sample"))
        yield state
        yield {"pairs": pairs}
        yield from ({"best": {name: kept}} for name, kept in best.items())
        yield {"sample": sample}

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.tokens = state["tokens"]
        for name in self._SUMS:
            setattr(self, name, state["sums"][name].to(self._device))
        self.acts.load(state["acts"])
        self.inputs.load(state["inputs"])
        self.pairs.load(state["pairs"])
        for (name, unit), best in self.best.items():
            best.load(state["best"][f"{name}/{unit}"])
        self.sample.load(state["sample"], sample_exponent(self.acts.largest))

    def absorb(
        self,
        state: dict[str, Any],
        *,
        rows: int = 0,
        documents: int = 0,
        sources: Sequence[int] | None = None,
    ) -> None:
        """Add the state of statistics of other tokens for the same SAE and settings; or its `parts`
        one after another.

        `rows` and `documents` are added to its numbers of these; its source i is `sources[i]` here,
        or i.
        """
        self.merge()
        if "sums" in state:
            self._add_sums(state["sums"], sources)
            self.tokens += state["tokens"]
            self.acts.absorb(state["acts"])
            self.inputs.absorb(state["inputs"], rows)
        if "pairs" in state:
            self.pairs.absorb(state["pairs"])
        for (name, unit), best in self.best.items():
            if kept := state.get("best", {}).get(f"{name}/{unit}"):
                best.absorb(kept, rows, documents)
        if "sample" in state:
            exponent = sample_exponent(self.acts.largest)
            self.sample.absorb(state["sample"], exponent, rows, documents)

    def _add_sums(self, sums: dict[str, Tensor], sources: Sequence[int] | None) -> None:
        sums = {name: tensor.to(self._device) for name, tensor in sums.items()}
        theirs = sums.pop("by_source")
        place = torch.arange(len(theirs)) if sources is None else torch.tensor(sources).long()
        self._room_for_sources(int(place.max()) + 1 if len(place) else 0)
        self.by_source.index_add_(0, place[: len(theirs)].to(self._device), theirs)
        self.max_act = torch.maximum(self.max_act, sums.pop("max_act"))
        for name, tensor in sums.items():
            getattr(self, name).add_(tensor)

    def handed_over(self) -> None:
        """Begin to count anew, after somebody has absorbed the state. Candidates stay, with the
        bars that they set: absorbed again, they change nothing.
        """
        self.tokens = 0
        for name in self._SUMS:
            getattr(self, name).zero_()
        self.acts.clear()
        self.inputs.clear()
        self.pairs.clear()
