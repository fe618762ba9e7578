"""What the edits of several runs do in one forward of all: each SAE is read once for all rows.

A run's edits and watched features are those that it has alone (`sae_core.generation_run`); here its
arms are some of the arms of one `Steering`. So a step costs about as many operations for many
people as for one, which is what counts where being told what to do takes a device longer than doing
it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_core.edits import Condition, EditTally, Steering
from sae_core.generation_run import GenerationRun
from sae_core.splice import SplicedLM

Tallies = Mapping[str, EditTally]
"""What edits have done, by SAE."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A run's share of what all edits have done up to a step."""

    run: GenerationRun
    rows: slice
    tallies: Tallies
    """Of all arms at that step."""

    def own(self) -> dict[str, EditTally]:
        """Of the run's arms and its SAEs."""
        return {name: self.tallies[name].part(self.rows) for name in self.run.names}


class JoinedEdits:
    """The edits of these runs, which go on from what each has kept, for forwards of a token each.

    `begin`, a forward within which `editor` is called for each of `names`, and `end`; what is
    broken off before its end can begin again.
    """

    def __init__(self, lm: SplicedLM, kept: Sequence[Kept]) -> None:
        self._lm, self._runs = lm, [each.run for each in kept]
        self._rows: list[slice] = []
        for run in self._runs:
            first = self._rows[-1].stop if self._rows else 0
            self._rows.append(slice(first, first + len(run.arms)))
        self.names = sorted({name for run in self._runs for name in run.names})
        """SAEs that are edited or watched."""
        arms = [arm for run in self._runs for arm in run.arms]
        lengths = [run.prompt_length for run in self._runs for _ in run.arms]
        self._steering = {
            name: Steering(
                lm.sae(name), [[e for e in arm if e.sae == name] for arm in arms], lengths
            )
            for name in self.names
        }
        for each, rows in zip(kept, self._rows, strict=True):
            for name, tally in each.own().items():
                self._steering[name].tally.put(rows, tally)
        self._watched = {
            name: sorted({f for run in self._runs for n, f in run.watch if n == name})
            for name in self.names
        }
        self._columns = {
            name: torch.tensor(features, device=lm.sae(name).W_enc.device, dtype=torch.long)
            for name, features in self._watched.items()
        }
        self._tallies, self._is_dirty = self._copied(), False
        self._seen: dict[str, Tensor] = {}

    def _copied(self) -> Tallies:
        return {name: each.tally.copy() for name, each in self._steering.items()}

    def begin(self) -> None:
        """Read what the runs have prepared."""
        if self._is_dirty:
            for name, each in self._steering.items():
                each.tally.restore(self._tallies[name])
        self._is_dirty = True
        here = [run.here for run in self._runs]
        self._starts = [each.start for each in here for _ in each.special]
        self._special = [special for each in here for special in each.special]
        self._met: dict[Condition, Tensor] = {}
        for rows, each in zip(self._rows, here, strict=True):
            for condition, fires in each.met.items():
                shape = (len(self._starts), fires.shape[1])
                none = torch.zeros(shape, dtype=torch.bool, device=fires.device)
                self._met.setdefault(condition, none)[rows] = fires

    def editor(self, name: str) -> Callable[[Tensor, Tensor], Tensor | None]:
        """What becomes of all rows at an SAE; None if they stay."""
        sae, steering, columns = self._lm.sae(name), self._steering[name], self._columns[name]

        def edit(x: Tensor, y: Tensor) -> Tensor | None:
            new = steering(x, y, self._starts, self._special, self._met)
            if len(columns):
                own = after = sae.feature_acts(x[:, -1].float(), columns)
                if new is not None and not sae.cfg.is_transcoder:
                    after = sae.feature_acts(new[:, -1].float(), columns)
                self._seen[name] = torch.stack([own, after])
            return new

        return edit

    def end(self) -> list[Kept]:
        """Have each run keep what was watched, and what the edits have done."""
        seen = {name: values.tolist() for name, values in self._seen.items()}
        for run, rows in zip(self._runs, self._rows, strict=True):
            places = [(name, self._watched[name].index(feature)) for name, feature in run.watch]
            run.own, run.after = (
                [tuple(seen[name][side][row][at] for name, at in places) for row in _numbers(rows)]
                for side in (0, 1)
            )
        self._tallies, self._is_dirty = self._copied(), False
        return [
            Kept(run=run, rows=rows, tallies=self._tallies)
            for run, rows in zip(self._runs, self._rows, strict=True)
        ]


def _numbers(rows: slice) -> range:
    return range(rows.start, rows.stop)
