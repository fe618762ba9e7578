"""One generation's state: its arms as rows of a batch, from the prompt's forward to the last token.

`sae_core.generation` runs one by itself, `sae_core.shared_generation` several in one forward.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.conditions import UneditedReader, resolved
from sae_core.edits import Condition, Edit, Steering
from sae_core.placement import in_float64, wide_device
from sae_core.sae import SAE
from sae_core.sites import rewrite
from sae_core.splice import SplicedLM

SHARED_TOKENS = 32
"""Tokens that must be saved for a prompt's unedited beginning to be run by itself."""
SHARED_TOKENS_ON: Final = {"cuda": 512}
"""The same on a GPU, which reads so many in less time than it takes to be told what to do."""
PAUSE = 0.0005
"""Seconds between two parts of a prompt: who leaves a lock and takes it at once would get it before
all who wait for it."""


@dataclass(frozen=True, kw_only=True)
class GeneratedToken:
    """A token of one arm; `own` and `after` hold one activation for each watched feature."""

    id: int
    own: tuple[float, ...]
    """The feature's activation on this token before this token's edit."""
    after: tuple[float, ...]
    """The feature's activation read from the edited stream by the same encoder; a transcoder reads
    before it writes, so its edits leave what it reads on this token as it was."""


@dataclass(frozen=True, kw_only=True)
class GenerationStep:
    """One new token for every arm; None for an arm that has ended with EOS."""

    tokens: tuple[GeneratedToken | None, ...]


class Sampler:
    """Draws a token for every arm, arms of one seed from the same random numbers.

    Each entry waits an exponential time at the rate of its probability, and the first to come is
    drawn: arms whose distributions are alike then draw the same token where they can.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, device: torch.device) -> None:
        self._temperature = temperature
        self._generators = {
            seed: torch.Generator(wide_device(device)).manual_seed(seed)
            for seed in dict.fromkeys(seeds)
        }
        order = list(self._generators)
        self._row = [order.index(seed) for seed in seeds]
        self._times: list[Tensor] = []

    def draw(self, logits: Float[Tensor, "arms vocab"]) -> list[int]:
        """The next token of every arm."""
        return draw_together([self], logits)

    @property
    def temperatures(self) -> list[float]:
        """Every arm's."""
        return [self._temperature] * len(self._row)

    def times(self, like: Tensor) -> list[Tensor]:
        """Every arm's random numbers for its next token; the same until `drawn` is called."""
        if not self._times:
            self._times = [
                torch.empty_like(like).exponential_(generator=each)
                for each in self._generators.values()
            ]
        return [self._times[row] for row in self._row]

    def drawn(self) -> None:
        """Have other random numbers for the token after."""
        self._times = []


def draw_together(samplers: Sequence[Sampler], logits: Float[Tensor, "arms vocab"]) -> list[int]:
    """The next token of every arm of all of these, whose arms are one below another."""
    temperatures = [each for sampler in samplers for each in sampler.temperatures]
    tokens = logits.argmax(dim=-1)
    sampled = [row for row, temperature in enumerate(temperatures) if temperature]
    if sampled:
        is_all = len(sampled) == len(temperatures)
        rows = torch.tensor(sampled, device=logits.device)
        # Less the largest first, so that no temperature above 0 overflows.
        wide = in_float64(logits if is_all else logits[rows])
        heat = torch.tensor([[temperatures[row]] for row in sampled], dtype=torch.float64)
        rates = ((wide - wide.amax(dim=-1, keepdim=True)) / heat.to(wide.device)).exp()
        times = [
            each
            for sampler in samplers
            for each in (sampler.times(rates[0]) if sampler.temperatures[0] else ())
        ]
        tokens[rows] = (rates / torch.stack(times)).argmax(dim=-1).to(tokens.device)
    drawn = tokens.tolist()
    for sampler in samplers:
        sampler.drawn()
    return drawn


@dataclass(frozen=True, kw_only=True)
class Forward:
    """What edits need to know of the forward that is being run."""

    start: int
    """Number of its first token."""
    special: list[list[bool]]
    """For every arm which of its tokens keep their activation."""
    met: dict[Condition, Bool[Tensor, "arms pos"]]
    """Where conditions are met."""


class GenerationRun:
    """The state of one generation: cache, edits by SAE, watched activations of the last token."""

    def __init__(
        self,
        lm: SplicedLM,
        ids: list[int],
        arms: Sequence[Sequence[Edit]],
        watch: Sequence[tuple[str, int]] = (),
        steering: Callable[[SAE, Sequence[Sequence[Edit]], int], Steering] = Steering,
        eos: frozenset[int] | None = None,
    ) -> None:
        self.lm = lm
        self.arms = [[resolved(lm, edit) for edit in arm] for arm in arms]
        self.reader = UneditedReader(lm, self.arms)
        self.watch = watch
        self.prompt_length = len(ids)
        for name, feature in watch:
            lm.check_features(name, [feature])
        edited = {edit.sae for arm in self.arms for edit in arm}
        self.names = sorted({name for name, _ in watch} | edited)
        self.steering = {
            name: steering(
                lm.sae(name), [[e for e in arm if e.sae == name] for arm in self.arms], len(ids)
            )
            for name in self.names
        }
        self.columns = {
            name: torch.tensor(
                [f for n, f in watch if n == name],
                device=lm.sae(name).W_enc.device,
                dtype=torch.long,
            )
            for name in self.names
        }
        self.ends = frozenset({lm.tokenizer.eos_token_id}) if eos is None else eos
        self.cache: Any = None
        self.length = 0
        """Tokens that have been read."""
        self.stops: list[int | None] = [None for _ in arms]
        """The number of the token that ended an arm."""
        self.own: list[tuple[float, ...]] = [() for _ in arms]
        self.after: list[tuple[float, ...]] = [() for _ in arms]
        self.here = Forward(start=0, special=[], met={})
        """The forward that has been prepared."""
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def is_over(self) -> bool:
        """Whether all arms have ended."""
        return all(stop is not None for stop in self.stops)

    def end(self, drawn: Iterable[int]) -> None:
        """End arms whose next token ends a text, unless they have ended already."""
        for a, token in enumerate(drawn):
            if token in self.ends and self.stops[a] is None:
                self.stops[a] = self.length

    def step(self, drawn: Sequence[int]) -> GenerationStep:
        """The step of these tokens, once they have been read."""
        return GenerationStep(
            tokens=tuple(
                None if stop is not None else GeneratedToken(id=token, own=own, after=after)
                for token, stop, own, after in zip(
                    drawn, self.stops, self.own, self.after, strict=True
                )
            )
        )

    def begin(self, ids: Tensor, *, most: int | None = None) -> Tensor:
        """Logits `[arms, vocab]` after the prompt, of which all rows are: what no arm edits is run
        once for all of them. A forward reads at most `most` tokens of a row.
        """
        from sae_core.prefix_cache import keeps_keys

        model, first = self.lm.model, self._first_edited(ids[0].tolist())
        least = SHARED_TOKENS_ON.get(self.lm.device.type, SHARED_TOKENS)
        if (len(ids) - 1) * first < least or not keeps_keys(model):
            first = 0
        for start, stop in _parts(0, first, most):
            with self.lm.lock:
                self.reader.read(ids[:, start:stop], start)
                shared = ids[:1, start:stop].to(self.lm.device)
                output = model(
                    input_ids=shared, past_key_values=self.cache, use_cache=True, logits_to_keep=1
                )
            self.cache = output.past_key_values
        if first:
            self.cache.batch_repeat_interleave(len(ids))
        for start, stop in _parts(first, ids.shape[1], most):
            logits = self.forward(ids[:, start:stop], start)
        return logits

    def _first_edited(self, ids: list[int]) -> int:
        """The first of a prompt's tokens that an arm edits, at the latest the last one."""
        special, length = self.lm.is_special(ids), len(ids)
        places = [edit.where(0, length, length) for arm in self.arms for edit in arm]
        due = (t for t in range(length) if not special[t] and any(where[t] for where in places))
        return next(due, length - 1)

    def forward(self, ids: Tensor, start: int) -> Tensor:
        """Logits `[arms, vocab]` after `ids [arms, n]`, which begin at token `start`."""
        lm = self.lm
        with lm.lock, ExitStack() as stack:
            self.prepare(ids, start)
            for name in self.names:
                stack.enter_context(
                    rewrite(lm.model, lm.site(name), lm.target(name), self._of(name))
                )
            output = lm.model(
                input_ids=ids.to(lm.device),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self.cache = output.past_key_values
        self.finish()
        return output.logits[:, -1]

    def _of(self, name: str) -> Callable[[Tensor, Tensor], Tensor | None]:
        return lambda x, y: self.edit(name, x, y)

    def prepare(self, ids: Tensor, start: int) -> None:
        """Find out what is to be done in a forward of `ids [arms, n]`, which begin at token
        `start`. The caller holds the model's lock.
        """
        self.length = start + ids.shape[1]
        if start == 0:
            for each in self.steering.values():
                each.tally.forget()
        # No edit touches special tokens, nor what an arm draws after its end.
        special = [
            [
                s or (stop is not None and t >= stop)
                for t, s in enumerate(self.lm.is_special(row), start)
            ]
            for row, stop in zip(ids.tolist(), self.stops, strict=True)
        ]
        self.here = Forward(start=start, special=special, met=self.reader.read(ids, start))

    def edit(
        self, name: str, x: Float[Tensor, "arms pos d_model"], y: Float[Tensor, "arms pos d_out"]
    ) -> Float[Tensor, "arms pos d_out"] | None:
        """What becomes of y at an SAE in the forward that has been prepared; None if it stays."""
        sae, columns, here = self.lm.sae(name), self.columns[name], self.here
        new = self.steering[name](x, y, here.start, here.special, here.met)
        if len(columns):
            own = after = sae.feature_acts(x[:, -1].float(), columns)
            if new is not None and not sae.cfg.is_transcoder:
                after = sae.feature_acts(new[:, -1].float(), columns)
            self._seen[name] = own, after
        return new

    def finish(self) -> None:
        """Keep the watched activations of the forward that has been run."""
        self.own = self._watched({name: own for name, (own, _) in self._seen.items()})
        self.after = self._watched({name: after for name, (_, after) in self._seen.items()})

    def _watched(self, acts: dict[str, Tensor]) -> list[tuple[float, ...]]:
        """For each arm the watched activations in the order of `watch`."""
        columns = {name: iter(values.T.tolist()) for name, values in acts.items()}
        by_feature = [next(columns[name]) for name, _ in self.watch]
        return [tuple(column[a] for column in by_feature) for a in range(len(self.arms))]


def _parts(start: int, stop: int, most: int | None) -> Iterator[tuple[int, int]]:
    """Tokens from `start` to `stop` in parts of at most `most`, with a pause between them."""
    size = most or max(1, stop - start)
    for first in range(start, stop, size):
        if first > start:
            time.sleep(PAUSE)
        yield first, min(first + size, stop)
