"""Generation with edits: several arms of one prompt side by side, streamed token by token.

One forward at a time runs under the model's lock with its hooks, so generations of several threads
interleave and none sees another's edits.
"""

from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.edits import Edit, Steering
from sae_core.placement import in_float64
from sae_core.sites import rewrite
from sae_core.splice import SplicedLM


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


@torch.no_grad()
def generate(
    lm: SplicedLM,
    ids: Sequence[int],
    arms: Sequence[Sequence[Edit]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    watch: Sequence[tuple[str, int]] = (),
    eos: frozenset[int] | None = None,
    use_cache: bool = True,
) -> Generator[GenerationStep]:
    """Continue a prompt once for each arm; an arm is a list of edits, [] the model as it is.

    Arms run as rows of one batch and draw with the same seed, so that only the edits differ.
    `temperature` 0 is greedy. `watch` lists (SAE name, feature) whose activations each token
    carries. An arm ends at one of the tokens `eos` (None: the tokenizer's EOS), all end after
    `max_new_tokens`. Closing the generator stops the work. Without `use_cache` every step runs the
    whole text again: the slow reference.
    Raises ValueError for an unknown SAE or feature.
    """
    run = _Run(lm, list(ids), arms, watch)
    logits = run.forward(torch.tensor([list(ids)] * len(arms)), start=0)
    ends = frozenset({lm.tokenizer.eos_token_id}) if eos is None else eos
    sampler = torch.Generator(logits.device).manual_seed(seed)
    ended = [False] * len(arms)
    grown = torch.tensor([list(ids)] * len(arms))
    for n in range(max_new_tokens):
        drawn = _draw(logits, temperature, sampler)
        ended = [e or token in ends for e, token in zip(ended, drawn, strict=True)]
        if all(ended):
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
                if ended[a]
                else GeneratedToken(id=drawn[a], own=run.own[a], after=run.after[a])
                for a in range(len(arms))
            )
        )


def _draw(
    logits: Float[Tensor, "arms vocab"], temperature: float, sampler: torch.Generator
) -> list[int]:
    """A token for every arm, all from the same random numbers.

    Each entry waits an exponential time at the rate of its probability, and the first to come is
    drawn: arms whose distributions are alike then draw the same token where they can.
    """
    if temperature == 0:
        return logits.argmax(dim=-1).tolist()
    # Less the largest first, so that no temperature above 0 overflows.
    wide = in_float64(logits)
    rates = ((wide - wide.amax(dim=-1, keepdim=True)) / temperature).exp()
    times = torch.empty_like(rates[0]).exponential_(generator=sampler)
    return (rates / times).argmax(dim=-1).tolist()


class _Run:
    """The state of one generation: cache, edits by SAE, watched activations of the last token."""

    def __init__(
        self,
        lm: SplicedLM,
        ids: list[int],
        arms: Sequence[Sequence[Edit]],
        watch: Sequence[tuple[str, int]],
    ) -> None:
        self.lm = lm
        self.arms = [[(lm.edited_sae(edit), edit) for edit in arm] for arm in arms]
        self.watch = watch
        for name, feature in watch:
            lm.check_features(name, [feature])
        self.names = sorted({n for n, _ in watch} | {n for arm in self.arms for n, _ in arm})
        self.steering = {
            name: Steering(
                lm.sae(name), [[e for n, e in arm if n == name] for arm in self.arms], len(ids)
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
        self.own: list[tuple[float, ...]] = [() for _ in arms]
        self.after: list[tuple[float, ...]] = [() for _ in arms]

    def forward(self, ids: Tensor, start: int) -> Tensor:
        """Logits `[arms, vocab]` after `ids [arms, n]`, which begin at token `start`."""
        lm = self.lm
        special = [lm.is_special(row) for row in ids.tolist()]
        own: dict[str, Tensor] = {}
        after: dict[str, Tensor] = {}

        def editor(name: str) -> Any:
            sae, steering, columns = lm.sae(name), self.steering[name], self.columns[name]

            def edit(x: Tensor, y: Tensor) -> Tensor | None:
                new = steering(x, y, start, special)
                if len(columns):
                    own[name] = sae.feature_acts(x[:, -1].float(), columns)
                    after[name] = own[name]
                    if new is not None and not sae.cfg.is_transcoder:
                        after[name] = sae.feature_acts(new[:, -1].float(), columns)
                return new

            return edit

        with lm.lock, ExitStack() as stack:
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
