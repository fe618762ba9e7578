"""The search for the convention of an SAE's weights, if the declared one does not fit."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sae_core.check.conventions import Convention, Conventions, as_declared
from sae_core.check.input_factor import best_factor
from sae_core.check.judge import FACTOR_GAIN, FEW_TOKENS, Declared, Outcome
from sae_core.check.measure import Numbers, measure
from sae_core.check.soundness import flaws, sound
from sae_core.corpus import TokenRow
from sae_core.progress_bar import Progress
from sae_core.sae import SAE
from sae_core.splice import SplicedLM

_SCREEN_TOKENS = 512
"""Other conventions are tried on about so many tokens; what fits is measured again on all."""
_SIFT_TOKENS = 128
"""Of more than `_KEPT` conventions the best on so many tokens are tried."""
_SIFT_ROW = 33
"""Tokens of a row for that, with BOS."""
_KEPT = 8

_Candidate = tuple[Convention, Numbers]


class ConventionSearch:
    """The declared convention and, as far as they are needed, the others."""

    def __init__(self, lm: SplicedLM, sae: SAE, rows: Sequence[TokenRow], report: Progress) -> None:
        self._lm, self._sae, self._rows, self._report = lm, sae, rows, report
        self._screen = _spread(rows, _SCREEN_TOKENS)
        starts = [replace(row, ids=row.ids[:_SIFT_ROW]) for row in rows]
        self._sieve = _spread(starts, _SIFT_TOKENS)
        self._conventions = Conventions(lm.model, sae.cfg)
        self.here = as_declared(sae.cfg)
        self.declared = Declared.by(sae.cfg)
        self.tried: dict[Convention, Numbers] = {}
        self._seen: set[Convention] = set()

    def around(self, here: Convention) -> Outcome:
        """The numbers at `here`, and the convention that fits if those do not."""
        numbers = self._full(here)
        if numbers.tokens < FEW_TOKENS or not numbers.finite:
            return self._outcome(here, numbers)
        if not self.declared.fits(numbers):
            stages = self._stages(here)
        elif self.declared.fvu is None:
            stages = [(self._conventions.similar(here), True)]
        else:
            stages = []
        return self._outcome(here, numbers, *self._first_fitting(here, numbers, stages))

    def anywhere(self) -> Outcome:
        """The best site of an SAE that declares none."""
        self._try(self._conventions.everywhere())
        best, _ = self._best()
        numbers = self.tried[best] = self._full(best)
        if self._good(numbers):
            return self._outcome(None, numbers, fitting=(best, numbers))
        return self._outcome(None, numbers, nearest=(best, numbers))

    def _stages(self, here: Convention) -> Iterable[tuple[list[Convention], bool]]:
        """What to try, the likeliest mistakes first."""
        conventions = self._conventions
        something = not self.declared.nothing
        near = [*conventions.same_layer(here), *conventions.other_layers(here, [1])]
        near += conventions.other_arithmetic(here)
        if self._lm.tokenizer.bos_token_id is not None:
            # BOS's huge norm makes any FVU small: counting it can only explain a declared number.
            near += conventions.other_bos(here, counted=something)
        yield near, False
        far = [*conventions.other_layers(here), *conventions.everywhere(), *self._scaled(here)]
        yield far, True

    def _first_fitting(
        self,
        here: Convention,
        at_here: Numbers,
        stages: Iterable[tuple[list[Convention], bool]],
    ) -> tuple[_Candidate | None, _Candidate | None]:
        """One that fits, clearly better than `here`; or else one that is at least nearer.

        `stages` say what to try, and whether it is the last.
        """
        base = self._measure(self._screen, [here])[here]
        nearer = None
        for stage, last in stages:
            self._try([convention for convention in stage if convention != here])
            if not self.tried:
                continue
            self._climb(here, base)
            best, numbers = self._best()
            # Another stage may have a better one, unless this is as good as one can be.
            settled = last or (best in stage and self._excellent(numbers))
            if settled and self._wins(numbers, base):
                full = self._full(best)
                if self._wins(full, at_here):
                    self.tried[best] = full
                    return (best, full), None
            nearer = (best, numbers) if self.declared.clearly_better(numbers, base) else None
        return None, nearer

    def _climb(self, here: Convention, base: Numbers) -> None:
        """While the best has neighbours that were not tried, it may be half way: try them, too."""
        while True:
            best, numbers = self._best()
            if self.declared.distance(numbers) >= self.declared.distance(base):
                return
            around = [c for c in self._conventions.similar(best) if c != here]
            if all(convention in self._seen for convention in around):
                return
            self._try(around)

    def _scaled(self, here: Convention) -> list[Convention]:
        """`here` with the factor on its input under which the numbers fit best, if it counts."""

        def distances(factors: Sequence[float]) -> list[float]:
            conventions = [replace(here, factor=factor) for factor in factors]
            numbers = self._measure(self._screen, conventions)
            return [self.declared.distance(each) for each in numbers.values()]

        scaled = replace(here, factor=best_factor(distances))
        both = self._measure(self._screen, [here, scaled])
        return [scaled] if both[scaled].fvu * FACTOR_GAIN < both[here].fvu else []

    def _try(self, conventions: Iterable[Convention]) -> None:
        """Measure conventions that were not seen before, the most promising if they are many."""
        new = [convention for convention in conventions if convention not in self._seen]
        self._seen.update(new)
        if len(new) > _KEPT:
            sifted = self._measure(self._sieve, new)
            new = sorted(new, key=lambda c: self.declared.distance(sifted[c]))[:_KEPT]
        self.tried |= self._measure(self._screen, new)

    def _wins(self, one: Numbers, other: Numbers) -> bool:
        return self._good(one) and self.declared.clearly_better(one, other)

    def _excellent(self, numbers: Numbers) -> bool:
        """Whether numbers leave no doubt: those declared, or a good FVU where none is."""
        known = self.declared.fvu is not None
        return known or numbers.fvu <= self.declared.good_fvu

    def _good(self, numbers: Numbers) -> bool:
        """Whether numbers speak for a convention: those declared, or as good as an SAE's should be
        where no FVU is.
        """
        known = self.declared.fvu is not None
        return self.declared.fits(numbers) and (known or sound(self._sae.cfg, numbers))

    def _best(self) -> _Candidate:
        return min(self.tried.items(), key=lambda item: self.declared.rank(*item))

    def _measure(
        self, rows: Sequence[TokenRow], conventions: Sequence[Convention]
    ) -> dict[Convention, Numbers]:
        return measure(self._lm, self._sae, rows, conventions, self._report)

    def _full(self, convention: Convention) -> Numbers:
        numbers = self._measure(self._rows, [convention])[convention]
        if not numbers.tokens:
            raise ValueError("the text holds no token that counts: give more text.")
        return numbers

    def _outcome(
        self,
        here: Convention | None,
        numbers: Numbers,
        fitting: _Candidate | None = None,
        nearest: _Candidate | None = None,
    ) -> Outcome:
        return Outcome(
            declared=self.declared,
            here=here,
            numbers=numbers,
            fitting=fitting,
            nearest=nearest,
            others=len(self._seen),
            flaws=flaws(self._sae.cfg, numbers),
        )


def _spread(rows: Sequence[TokenRow], tokens: int) -> list[TokenRow]:
    """Every n-th row, n as large as leaves so many tokens; all rows if they hold no more."""
    chosen = list(rows)
    for step in range(2, len(rows)):
        fewer = list(rows[::step])
        if sum(len(row.ids) for row in fewer) < tokens:
            break
        chosen = fewer
    return chosen
