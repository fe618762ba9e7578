"""`check`: measure an SAE as it is declared, and if it is off find the convention that fits."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sae_core.check.conventions import Convention, Conventions, as_declared
from sae_core.check.input_factor import best_factor
from sae_core.check.judge import FACTOR_GAIN, FEW_TOKENS, Declared, Outcome, Verdict
from sae_core.check.measure import Numbers, measure
from sae_core.check.soundness import flaws, sound
from sae_core.check.verdict_sentence import sentence
from sae_core.config import SAEConfig
from sae_core.corpus import Document, TokenRow, token_rows
from sae_core.evaluation import take_tokens
from sae_core.sae import SAE
from sae_core.splice import SplicedLM

TEXT = Path(__file__).with_name("text.txt")
"""The text that is shipped: passages of many kinds, lines of a single % between them."""

_CONTEXT = 512
"""Tokens per row where the SAE does not say what it was trained with."""
_LONGEST = 1024
"""Tokens per row at most: longer ones cost memory and change nothing."""
_SCREEN_TOKENS = 512
"""Other conventions are tried on about so many tokens; what fits is measured again on all."""
_SIFT_TOKENS = 128
"""Of more than `_KEPT` conventions the best on so many tokens are tried."""
_SIFT_ROW = 33
"""Tokens of a row for that, with BOS."""
_KEPT = 8
_MOST_TOKENS = 50_000
"""A sample's activations are kept in memory."""

_JSON_KEYS = {"convention": "reading"}
"""Fields that have another key in JSON: the one that saved checks hold and clients read."""

_Candidate = tuple[Convention, Numbers]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """Another convention of the weights and what it gave."""

    convention: str
    """In words: `mlp_out/4`, `mlp_out/4, minus b_dec`, `mlp_in/4 to mlp_out/4`."""
    l0: float
    fvu: float
    tokens: int
    """Tokens counted; fewer than for the declared convention, but for the one that is named."""
    fits: bool


@dataclass(frozen=True, kw_only=True)
class Check:
    """Whether an SAE's numbers can be trusted. `l0` and `fvu` as `sae_core.metrics` defines them.

    Numbers are NaN where the sample does not define them, in `as_dict` None.
    """

    verdict: Verdict
    sentence: str
    """What the numbers are and what to do next; in a command, SOURCE stands for the SAE
    (`with_source`)."""
    site: str | None
    """The declared convention; None if the SAE declares none."""
    l0: float
    fvu: float
    declared_l0: float | None
    declared_fvu: float | None
    tokens: int
    """Tokens counted at the declared site."""
    convention: str | None
    """Another convention that fits clearly better, as in `tried`."""
    tried: tuple[Tried, ...]
    """The best of the other conventions that were looked at, the best first."""
    content_hash: str | None
    """Of the weights that were checked."""
    model_dtype: str

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return _json(asdict(self))


def check(
    lm: SplicedLM, sae_name: str, *, text: str | Iterable[str] | None = None, tokens: int = 4000
) -> Check:
    """Compare L0 and FVU of an SAE of `lm` with what it declares; `check_sae` has the details."""
    return check_sae(lm, lm.sae(sae_name), text=text, tokens=tokens)


def check_sae(
    lm: SplicedLM, sae: SAE, *, text: str | Iterable[str] | None = None, tokens: int = 4000
) -> Check:
    """The same for an SAE that `lm` need not hold, because it declares no site, say.

    One pass of the model to the declared site over about `tokens` tokens of `text` (one document or
    several, of which no more are drawn than needed; None takes the text that is shipped). Other
    conventions are tried, on fewer tokens, if the numbers are off; if no FVU is declared, the most
    similar ones always. Calls with the same arguments return the same. Raises ValueError for a text
    without a token that counts, and for an SAE without a site that is as wide as no activation of
    the model.
    """
    cfg = sae.cfg
    rows = _rows(lm, cfg, text, tokens)
    search = _Search(lm, sae, rows)
    outcome = search.anywhere() if search.here is None else search.around(search.here)
    ordered = sorted(search.tried.items(), key=lambda item: search.declared.distance(item[1]))
    return Check(
        verdict=outcome.verdict,
        sentence=sentence(lm.model, cfg, outcome),
        site=None if search.here is None else search.here.where,
        l0=outcome.numbers.l0,
        fvu=outcome.numbers.fvu,
        declared_l0=search.declared.l0,
        declared_fvu=search.declared.fvu,
        tokens=outcome.numbers.tokens,
        convention=None if outcome.fitting is None else str(outcome.fitting[0]),
        tried=tuple(
            Tried(
                convention=str(convention),
                l0=numbers.l0,
                fvu=numbers.fvu,
                tokens=numbers.tokens,
                fits=search.declared.fits(numbers),
            )
            for convention, numbers in ordered
        ),
        content_hash=cfg.metadata.get("content_hash"),
        model_dtype=str(lm.model.dtype).removeprefix("torch."),
    )


class _Search:
    """The declared convention and, as far as they are needed, the others."""

    def __init__(self, lm: SplicedLM, sae: SAE, rows: Sequence[TokenRow]) -> None:
        self._lm, self._sae, self._rows = lm, sae, rows
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
        base = measure(self._lm, self._sae, self._screen, [here])[here]
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
            numbers = measure(self._lm, self._sae, self._screen, conventions)
            return [self.declared.distance(each) for each in numbers.values()]

        scaled = replace(here, factor=best_factor(distances))
        both = measure(self._lm, self._sae, self._screen, [here, scaled])
        return [scaled] if both[scaled].fvu * FACTOR_GAIN < both[here].fvu else []

    def _try(self, conventions: Iterable[Convention]) -> None:
        """Measure conventions that were not seen before, the most promising if they are many."""
        new = [convention for convention in conventions if convention not in self._seen]
        self._seen.update(new)
        if len(new) > _KEPT:
            sifted = measure(self._lm, self._sae, self._sieve, new)
            new = sorted(new, key=lambda c: self.declared.distance(sifted[c]))[:_KEPT]
        self.tried |= measure(self._lm, self._sae, self._screen, new)

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

    def _full(self, convention: Convention) -> Numbers:
        numbers = measure(self._lm, self._sae, self._rows, [convention])[convention]
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


def _rows(
    lm: SplicedLM, cfg: SAEConfig, text: str | Iterable[str] | None, tokens: int
) -> list[TokenRow]:
    if not 1 <= tokens <= _MOST_TOKENS:
        raise ValueError(f"tokens is {tokens} but must be between 1 and {_MOST_TOKENS:,}.")
    if text is None:
        text = TEXT.read_text(encoding="utf-8").strip().split("\n%\n")
    texts = [text] if isinstance(text, str) else text
    documents = (Document(number, part, "", "", "") for number, part in enumerate(texts))
    longest = getattr(lm.model.config.get_text_config(), "max_position_embeddings", None)
    size = max(2, min(cfg.context_size or _CONTEXT, longest or _LONGEST, _LONGEST))
    rows = take_tokens(token_rows(documents, lm.tokenizer, size), tokens)
    if not rows:
        raise ValueError("the text holds no token that counts: give more text.")
    return rows


def _spread(rows: Sequence[TokenRow], tokens: int) -> list[TokenRow]:
    """Every n-th row, n as large as leaves so many tokens; all rows if they hold no more."""
    chosen = list(rows)
    for step in range(2, len(rows)):
        fewer = list(rows[::step])
        if sum(len(row.ids) for row in fewer) < tokens:
            break
        chosen = fewer
    return chosen


def _json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_JSON_KEYS.get(key, key): _json(item) for key, item in value.items()}
    return [_json(item) for item in value] if isinstance(value, list | tuple) else value
