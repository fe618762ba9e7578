"""Generation with edits: several arms of one prompt side by side, streamed token by token.

One forward at a time runs under the model's lock with its hooks, so generations of several threads
interleave and none sees another's edits.
"""

from collections.abc import Callable, Generator, Mapping, Sequence

import torch

from sae_core.edits import Edit, EditedTokens, EditSize, EditTally, Steering
from sae_core.generation_run import GenerationRun, GenerationStep, Sampler
from sae_core.sae import SAE
from sae_core.splice import SplicedLM


class EditRecord:
    """What the edits of a generation have done so far. `generate` fills one that it is given."""

    def __init__(self) -> None:
        self._arms: list[list[Edit]] = []
        self._tallies: Mapping[str, EditTally] = {}

    def follow(self, arms: list[list[Edit]], tallies: Mapping[str, EditTally]) -> None:
        """Read from now on what these say, by SAE, of these arms, whose edits name their SAEs."""
        self._arms, self._tallies = arms, tallies

    def touched(self) -> list[list[EditedTokens]]:
        """For each arm and each of its edits: how many tokens it has touched."""
        counts = {name: each.touched() for name, each in self._tallies.items()}
        rows = []
        for a, arm in enumerate(self._arms):
            own = {name: iter(arms[a]) for name, arms in counts.items()}
            rows.append([next(own[edit.sae]) for edit in arm])
        return rows

    def sizes(self) -> list[dict[str, EditSize]]:
        """For each arm and each SAE that it edits: how far the activation has been moved."""
        sizes = {name: each.sizes() for name, each in self._tallies.items()}
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
    seeds = seeds_of(seed, len(arms))
    run = GenerationRun(lm, list(ids), arms, watch, steering, eos)
    if record is not None:
        record.follow(run.arms, {name: each.tally for name, each in run.steering.items()})
    grown = torch.tensor([list(ids)] * len(arms))
    logits = run.begin(grown) if use_cache else run.forward(grown, start=0)
    sampler = Sampler(seeds, temperature, logits.device)
    for n in range(max_new_tokens):
        drawn = sampler.draw(logits)
        run.end(drawn)
        if run.is_over:
            return
        column = torch.tensor(drawn)[:, None]
        grown = torch.cat([grown, column], dim=1)
        if use_cache:
            logits = run.forward(column, start=len(ids) + n)
        else:
            run.cache = None
            logits = run.forward(grown, start=0)
        yield run.step(drawn)


def seeds_of(seed: int | Sequence[int], arms: int) -> list[int]:
    """A seed for each of so many arms; ValueError if another number of them is given."""
    seeds = [seed] * arms if isinstance(seed, int) else list(seed)
    if len(seeds) != arms:
        raise ValueError(f"{len(seeds)} seeds are given for {arms} arms.")
    return seeds
