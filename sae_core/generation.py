"""Generation with edits: several arms of one prompt side by side, streamed token by token.

One forward at a time runs under the model's lock with its hooks, so generations of several threads
interleave and none sees another's edits.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.conditions import UneditedReader, resolved
from sae_core.edits import Edit, EditedTokens, EditSize, Steering
from sae_core.placement import in_float64
from sae_core.sae import SAE
from sae_core.sites import rewrite
from sae_core.splice import SplicedLM

SHARED_TOKENS = 32
"""Tokens that must be saved for a prompt's unedited beginning to be run by itself."""


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


class EditRecord:
    """What the edits of a generation have done so far. `generate` fills one that it is given."""

    def __init__(self) -> None:
        self._arms: list[list[Edit]] = []
        self._steering: dict[str, Steering] = {}

    def follow(self, arms: list[list[Edit]], steering: dict[str, Steering]) -> None:
        """Read from now on what these do for these arms, whose edits name their SAEs."""
        self._arms, self._steering = arms, steering

    def touched(self) -> list[list[EditedTokens]]:
        """For each arm and each of its edits: how many tokens it has touched."""
        counts = {name: each.touched() for name, each in self._steering.items()}
        rows = []
        for a, arm in enumerate(self._arms):
            own = {name: iter(arms[a]) for name, arms in counts.items()}
            rows.append([next(own[edit.sae]) for edit in arm])
        return rows

    def sizes(self) -> list[dict[str, EditSize]]:
        """For each arm and each SAE that it edits: how far the activation has been moved."""
        sizes = {name: each.sizes() for name, each in self._steering.items()}
        return [
            {name: sizes[name][a] for name in dict.fromkeys(edit.sae for edit in arm)}
            for a, arm in enumerate(self._arms)
        ]


@torch.no_grad()
def generate(
    lm: SplicedLM,
    ids: Sequence[int],
    arms: Sequence[Sequence[Edit]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int | Sequence[int] = 0,
    watch: Sequence[tuple[str, int]] = (),
    eos: frozenset[int] | None = None,
    use_cache: bool = True,
    record: EditRecord | None = None,
    steering: Callable[[SAE, Sequence[Sequence[Edit]], int], Steering] = Steering,
) -> Generator[GenerationStep]:
    """Continue a prompt once for each arm; an arm is a list of edits, [] the model as it is.

    Arms run as rows of one batch and draw with the same seed, so that only the edits differ, or
    each with its own of as many seeds as there are arms: what a row draws depends on its seed and
    its edits alone. `temperature` 0 is greedy. `watch` lists (SAE name, feature) whose activations
    each token carries. An arm ends at one of the tokens `eos` (None: the tokenizer's EOS), all end
    after `max_new_tokens`. Closing the generator stops the work. Without `use_cache` every step
    runs the whole text again: the slow reference. `record` is told what the edits did.
    `steering` makes what edits one SAE.
    Raises ValueError for an unknown SAE or feature.
    """
    seeds = [seed] * len(arms) if isinstance(seed, int) else list(seed)
    if len(seeds) != len(arms):
        raise ValueError(f"{len(seeds)} seeds are given for {len(arms)} arms.")
    run = _Run(lm, list(ids), arms, watch, steering)
    if record is not None:
        record.follow(run.arms, run.steering)
    grown = torch.tensor([list(ids)] * len(arms))
    logits = run.begin(grown) if use_cache else run.forward(grown, start=0)
    ends = frozenset({lm.tokenizer.eos_token_id}) if eos is None else eos
    sampler = _Sampler(seeds, temperature, logits.device)
    for n in range(max_new_tokens):
        drawn = sampler.draw(logits)
        run.end(a for a, token in enumerate(drawn) if token in ends)
        if all(run.ended):
            return
        column = torch.tensor(drawn)[:, None]
        grown = torch.cat([grown, column], dim=1)
        if use_cache:
            logits = run.forward(column, start=len(ids) + n)
        else:
            run.cache = None
            logits = run.forward(grown, start=0)
        yield GenerationStep(
            tokens=tuple(
                None
                if run.ended[a]
                else GeneratedToken(id=drawn[a], own=run.own[a], after=run.after[a])
                for a in range(len(arms))
            )
        )


class _Sampler:
    """Draws a token for every arm, arms of one seed from the same random numbers.

    Each entry waits an exponential time at the rate of its probability, and the first to come is
    drawn: arms whose distributions are alike then draw the same token where they can.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, device: torch.device) -> None:
        self._temperature = temperature
        self._generators = {
            seed: torch.Generator(device).manual_seed(seed) for seed in dict.fromkeys(seeds)
        }
        order = list(self._generators)
        self._row = [order.index(seed) for seed in seeds]

    def draw(self, logits: Float[Tensor, "arms vocab"]) -> list[int]:
        """The next token of every arm."""
        if self._temperature == 0:
            return logits.argmax(dim=-1).tolist()
        # Less the largest first, so that no temperature above 0 overflows.
        wide = in_float64(logits)
        rates = ((wide - wide.amax(dim=-1, keepdim=True)) / self._temperature).exp()
        times = [
            torch.empty_like(rates[0]).exponential_(generator=each)
            for each in self._generators.values()
        ]
        waits = times[0] if len(times) == 1 else torch.stack([times[row] for row in self._row])
        return (rates / waits).argmax(dim=-1).tolist()


class _Run:
    """The state of one generation: cache, edits by SAE, watched activations of the last token."""

    def __init__(
        self,
        lm: SplicedLM,
        ids: list[int],
        arms: Sequence[Sequence[Edit]],
        watch: Sequence[tuple[str, int]],
        steering: Callable[[SAE, Sequence[Sequence[Edit]], int], Steering],
    ) -> None:
        self.lm = lm
        self.arms = [[resolved(lm, edit) for edit in arm] for arm in arms]
        self.reader = UneditedReader(lm, self.arms)
        self.watch = watch
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
        self.cache: Any = None
        self.length = 0
        """Tokens that have been read."""
        self.stops: list[int | None] = [None for _ in arms]
        """The number of the token that ended an arm."""
        self.own: list[tuple[float, ...]] = [() for _ in arms]
        self.after: list[tuple[float, ...]] = [() for _ in arms]

    @property
    def ended(self) -> list[bool]:
        """Which arms have ended."""
        return [stop is not None for stop in self.stops]

    def end(self, arms: Iterable[int]) -> None:
        """The token that has just been drawn ends these arms, unless they have ended already."""
        for a in arms:
            if self.stops[a] is None:
                self.stops[a] = self.length

    def begin(self, ids: Tensor) -> Tensor:
        """Logits `[arms, vocab]` after the prompt, of which all rows are: what no arm edits is run
        once for all of them.
        """
        from sae_core.prefix_cache import keeps_keys

        model, first = self.lm.model, self._first_edited(ids[0].tolist())
        if (len(ids) - 1) * first < SHARED_TOKENS or not keeps_keys(model):
            return self.forward(ids, start=0)
        with self.lm.lock:
            self.reader.read(ids[:, :first], start=0)
            shared = ids[:1, :first].to(self.lm.device)
            output = model(input_ids=shared, use_cache=True, logits_to_keep=1)
        self.cache = output.past_key_values
        self.cache.batch_repeat_interleave(len(ids))
        return self.forward(ids[:, first:], start=first)

    def _first_edited(self, ids: list[int]) -> int:
        """The first of a prompt's tokens that an arm edits, at the latest the last one."""
        special, length = self.lm.is_special(ids), len(ids)
        places = [edit.where(0, length, length) for arm in self.arms for edit in arm]
        due = (t for t in range(length) if not special[t] and any(where[t] for where in places))
        return next(due, length - 1)

    def forward(self, ids: Tensor, start: int) -> Tensor:
        """Logits `[arms, vocab]` after `ids [arms, n]`, which begin at token `start`."""
        lm = self.lm
        self.length = start + ids.shape[1]
        if start == 0:
            for each in self.steering.values():
                each.forget()
        # No edit touches special tokens, nor what an arm draws after its end.
        special = [
            [s or (stop is not None and t >= stop) for t, s in enumerate(lm.is_special(row), start)]
            for row, stop in zip(ids.tolist(), self.stops, strict=True)
        ]
        own: dict[str, Tensor] = {}
        after: dict[str, Tensor] = {}

        def editor(name: str) -> Any:
            sae, steering, columns = lm.sae(name), self.steering[name], self.columns[name]

            def edit(x: Tensor, y: Tensor) -> Tensor | None:
                new = steering(x, y, start, special, met)
                if len(columns):
                    own[name] = sae.feature_acts(x[:, -1].float(), columns)
                    after[name] = own[name]
                    if new is not None and not sae.cfg.is_transcoder:
                        after[name] = sae.feature_acts(new[:, -1].float(), columns)
                return new

            return edit

        with lm.lock, ExitStack() as stack:
            met = self.reader.read(ids, start)
            for name in self.names:
                stack.enter_context(rewrite(lm.model, lm.site(name), lm.target(name), editor(name)))
            output = lm.model(
                input_ids=ids.to(lm.device),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self.cache = output.past_key_values
        self.own = self._watched(own)
        self.after = self._watched(after)
        return output.logits[:, -1]

    def _watched(self, acts: dict[str, Tensor]) -> list[tuple[float, ...]]:
        """For each arm the watched activations in the order of `watch`."""
        columns = {name: iter(values.T.tolist()) for name, values in acts.items()}
        by_feature = [next(columns[name]) for name, _ in self.watch]
        return [tuple(column[a] for column in by_feature) for a in range(len(self.arms))]
