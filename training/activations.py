"""Shuffled activations of a language model, made as they are needed.

    text -> prompts -> model, up to the last layer needed -> buffer on the device -> batches

Special tokens are left out. The buffer works in rounds. A round harvests h fresh tokens, keeps half
of them, drawn at random, for the next round, and serves the other half mixed with those kept by the
round before: a batch is a random draw from two harvests, every token is served once, and a round
depends on two harvests only. That is why a checkpoint needs a place in the text and no activations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_core.config import Site
from sae_core.placement import in_float64, wide_device
from sae_core.progress_bar import Progress, silent
from sae_core.sites import activations, site_width
from training.shard import ALONE, Shard
from training.text import Ahead, Cursor, Prompts, Text

MODEL_TOKENS = 32_768
"""Tokens of one forward of the model, about."""
_CHUNK = 65_536  # rows taken to float64 at once


@dataclass(frozen=True)
class Mark:
    """A place in the activations: `skip` counted tokens into the batch of prompts at `cursor`."""

    cursor: Cursor
    skip: int


class Harvest:
    """The activations of a stream of prompts at several sites, special tokens left out."""

    def __init__(
        self, model: nn.Module, sites: Sequence[Site], text: Text, ahead: int, shard: Shard = ALONE
    ) -> None:
        """`ahead`: batches of prompts that are tokenised ahead; `shard`: of several processes, each
        of which runs the model on its share of a batch's prompts and gets the activations of all.
        """
        self._model = model
        self._sites = list(sites)
        self._text = text
        self._ahead = ahead
        self._shard = shard
        self._device = next(model.parameters()).device
        self._stream: Ahead | None = None
        self._next: Prompts | None = None
        self._left: dict[Site, Tensor] = {}
        self._skipped = 0

    def seek(self, mark: Mark) -> None:
        """Continue from `mark`."""
        self.close()
        self._stream = Ahead(self._text, mark.cursor, self._ahead, self._device.type == "cuda")
        self._run_model()
        self._drop(mark.skip)

    def mark(self) -> Mark:
        """Where the next token comes from."""
        assert self._next is not None, "seek first"
        return Mark(self._next.cursor, self._skipped)

    def take(self, most: int) -> dict[Site, Float[Tensor, "tokens width"]]:
        """The next tokens, at least 1 and at most `most`, the same ones for every site."""
        while self._skipped == len(self._next.counted):  # pyright: ignore[reportOptionalMemberAccess]
            self._run_model()
        taken = {site: x[:most] for site, x in self._left.items()}
        self._drop(most)
        return taken

    def _drop(self, count: int) -> None:
        assert self._next is not None
        self._left = {site: x[count:] for site, x in self._left.items()}
        self._skipped = min(self._skipped + count, len(self._next.counted))

    def _run_model(self) -> None:
        assert self._stream is not None, "seek first"
        prompts = next(self._stream)
        ids = self._share(prompts.input_ids).to(self._device, non_blocking=True)
        # Indices were made on the CPU: a mask would make the device wait for its own count.
        counted = prompts.counted.to(self._device, non_blocking=True)
        at_sites = activations(self._model, ids, self._sites)
        self._left = {
            site: self._shard.gather(x).flatten(0, 1).index_select(0, counted)
            for site, x in at_sites.items()
        }
        self._next = prompts
        self._skipped = 0

    def _share(self, ids: Int[Tensor, "batch pos"]) -> Int[Tensor, "share pos"]:
        """This process's rows, as many as every process has: the last row once more where needed
        (nobody counts it).
        """
        short = -len(ids) % self._shard.world
        if short:
            ids = torch.cat([ids, ids[-1:].expand(short, -1)])
        return self._shard.mine(ids, 0)

    def close(self) -> None:
        """End the background thread."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class ActivationBuffer:
    """Batches of shuffled activations, `[batch, width]` for each site, in the model's own dtype."""

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        text: Text,
        *,
        capacity: int,
        batch: int,
        shard: Shard = ALONE,
    ) -> None:
        """Room for at most `capacity` tokens, which must be at least two batches; of several
        processes (`shard`) each holds the same tokens.
        """
        self.batch_tokens = batch
        self.harvest_tokens, held = self.sizes(capacity, batch)
        self.kept_tokens = held - self.harvest_tokens
        ahead = 2 + 2 * self.harvest_tokens // (text.rows * (text.context_size - 1))
        self._harvest = Harvest(model, sites, text, ahead, shard)
        self._seed = text.seed
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        shapes = {site: (self.tokens_held, site_width(model, site)) for site in sites}
        self._held = {
            site: torch.empty(shape, dtype=self.dtype, device=self.device)
            for site, shape in shapes.items()
        }
        self._start_slots()
        self._round = -1
        self._served = 0
        self._marks = [Mark(Cursor(), 0)]

    @staticmethod
    def sizes(capacity: int, batch: int) -> tuple[int, int]:
        """h, the tokens harvested and served in a round, and the tokens held: with those that are
        kept back, 1.5 h.
        """
        harvest = max(1, capacity * 2 // 3 // batch) * batch
        return harvest, harvest + harvest // 2

    @property
    def tokens_held(self) -> int:
        """Tokens in the buffer after a harvest."""
        return self.harvest_tokens + self.kept_tokens

    def begin(self, progress: Progress = silent) -> None:
        """Fill the buffer from the beginning of the text: `tokens_held` of them, which `progress`
        is told of as they come.
        """
        self._start_slots()
        self._round, self._served = -1, 0
        self._harvest.seek(Mark(Cursor(), 0))
        self._fill(self._kept, progress)
        self._marks = []
        self._next_round(progress)

    def batch(self) -> dict[Site, Float[Tensor, "batch width"]]:
        """The next batch; the same tokens, in the same order, for every site."""
        if self._served == self.harvest_tokens:
            self._next_round()
        slots = self._order[self._served : self._served + self.batch_tokens]
        self._served += self.batch_tokens
        return {site: held.index_select(0, slots) for site, held in self._held.items()}

    def moments(self) -> dict[Site, tuple[float, Float[Tensor, " width"]]]:
        """For each site over the tokens held: mean squared norm, and the mean (float32)."""
        moments = {}
        for site, held in self._held.items():
            home = wide_device(self.device)
            squares = torch.zeros((), dtype=torch.float64, device=home)
            total = torch.zeros(held.shape[1], dtype=torch.float64, device=home)
            for chunk in held.split(_CHUNK):
                chunk = in_float64(chunk)
                squares += chunk.square().sum()
                total += chunk.sum(dim=0)
            mean = (total / len(held)).float().to(self.device)
            moments[site] = (float(squares) / len(held), mean)
        return moments

    def state(self) -> dict[str, Any]:
        """Where the buffer stands, as JSON values; nothing in it depends on the device."""
        return {
            "round": self._round,
            "served": self._served,
            "harvest": self.harvest_tokens,
            "marks": [{"cursor": list(m.cursor), "skip": m.skip} for m in self._marks],
        }

    def tokens_to_restore(self, state: Mapping[str, Any]) -> int:
        """Tokens that `restore` harvests."""
        return self.tokens_held if state["round"] == 0 else 2 * self.harvest_tokens

    def restore(self, state: Mapping[str, Any], progress: Progress = silent) -> None:
        """Continue where `state` was taken, by harvesting its last two rounds again.

        ValueError if the buffer was of another size then, as in versions that made it larger than
        a short run needs.
        """
        was = state.get("harvest", self.harvest_tokens)
        if was != self.harvest_tokens or state["served"] > self.harvest_tokens:
            raise ValueError(
                "the run was begun by another version, with a buffer of another size: go on with "
                "that version, or choose another out folder."
            )
        if state["round"] == 0:
            self.begin(progress)
        else:
            mark = state["marks"][0]
            self._start_slots()
            self._round = state["round"] - 2
            self._harvest.seek(Mark(Cursor(*mark["cursor"]), mark["skip"]))
            self._marks = []
            # What the first of them served beside its own tokens is not needed again.
            self._next_round(progress)
            self._next_round(progress)
        self._served = state["served"]

    def close(self) -> None:
        """End the background thread."""
        self._harvest.close()

    def _start_slots(self) -> None:
        slots = torch.arange(self.tokens_held, device=self.device)
        self._kept, self._free = slots[: self.kept_tokens], slots[self.kept_tokens :]
        self._order = slots[:0]

    def _next_round(self, progress: Progress = silent) -> None:
        self._round += 1
        self._marks = [*self._marks[-1:], self._harvest.mark()]
        fresh = self._free
        self._fill(fresh, progress)
        generator = torch.Generator(self.device).manual_seed(self._seed * 2**32 + self._round)
        fresh = fresh[self._permutation(len(fresh), generator)]
        now, later = fresh[self.kept_tokens :], fresh[: self.kept_tokens]
        mixed = torch.cat([self._kept, now])
        self._order = mixed[self._permutation(len(mixed), generator)]
        self._kept, self._free = later, self._order
        self._served = 0

    def _permutation(self, n: int, generator: torch.Generator) -> Int[Tensor, " n"]:
        return torch.randperm(n, generator=generator, device=self.device)

    def _fill(self, slots: Int[Tensor, " n"], progress: Progress) -> None:
        done = 0
        while done < len(slots):
            taken = self._harvest.take(len(slots) - done)
            count = len(next(iter(taken.values())))
            for site, x in taken.items():
                self._held[site].index_copy_(0, slots[done : done + count], x)
            done += count
            progress(count)


def buffer_capacity(buffer_tokens: int, steps: int, batch: int) -> int:
    """Room that a run of `steps` batches asks for: `buffer_tokens`, but no more than it trains on,
    and two batches at least.
    """
    return max(2 * batch, min(buffer_tokens, steps * batch))


def rows_per_forward(context_size: int, buffer_tokens: int) -> int:
    """Prompts of one forward of the model."""
    return max(1, min(MODEL_TOKENS, buffer_tokens // 2) // context_size)
