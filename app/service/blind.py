"""Ratings by people who do not see which feature they rate: the plan, its items, the rates."""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final
from weakref import WeakKeyDictionary

from app.engine.indexes import NoIndexError
from app.engine.workbench import Workbench
from app.requests import RatingsRequest, RequestError, shown
from sae_core.definitions import RATING_DEFINITIONS
from sae_core.ratings import (
    PlannedItem,
    RatingContext,
    RatingRecords,
    has_intruder_tests,
    intruder_contexts,
    intruder_rates,
    meaning_contexts,
    meaning_rates,
    rating_plan,
)
from sae_core.ratings.rating_items import INTRUDERS, OWN

CACHED_PLANS: Final = 16
"""Plans kept in memory: that of an intruder test reads the contexts of all of its features."""
PLANS_AT_ONCE: Final = 4
"""Plans that are drawn at once; whoever wants a further one is told to come again."""
BUSY: Final = "Other tests are being drawn: try again soon."
NO_INTRUDERS: Final = (
    "No index here has contexts and neighbours enough for intruder tests: each needs "
    f"{OWN} of the strongest contexts and {INTRUDERS} neighbours."
)


class _Plans:
    """The plans of one workbench that were asked for last."""

    def __init__(self) -> None:
        self._plans: OrderedDict[Any, list[PlannedItem]] = OrderedDict()
        self._drawing: dict[Any, Lock] = {}
        self._lock = Lock()

    def get(self, key: Any, draw: Callable[[], list[PlannedItem]]) -> list[PlannedItem]:
        """The plan of a key, drawn by one for all who want it; RequestError if too many others are
        being drawn.
        """
        with self._lock:
            if key in self._plans:
                return self._plans[key]
            if key not in self._drawing and len(self._drawing) >= PLANS_AT_ONCE:
                raise RequestError(BUSY)
            turn = self._drawing.setdefault(key, Lock())
        with turn:
            try:
                plan = self._plans.get(key)
                if plan is None:
                    self._keep(key, plan := draw())
                return plan
            finally:
                with self._lock:
                    self._drawing.pop(key, None)

    def _keep(self, key: Any, plan: list[PlannedItem]) -> None:
        with self._lock:
            self._plans[key] = plan
            while len(self._plans) > CACHED_PLANS:
                self._plans.popitem(last=False)


_PLANS: Final[WeakKeyDictionary[Workbench, _Plans]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a rater has come with a plan."""

    plan: list[PlannedItem]
    rated: frozenset[int]
    """Places of the items that the rater has rated."""

    @property
    def following(self) -> int | None:
        """The first item that is not rated yet; None at the end."""
        return next((at for at in range(len(self.plan)) if at not in self.rated), None)


def ratings(workbench: Workbench, request: RatingsRequest) -> dict[str, Any]:
    """The rates of people's ratings of features whose SAE and number they do not see, and the
    agreement of raters; with `rater`, `at` and what is said of the item, one more rating is kept.

    Of a rater, how many items of the plan are `rated`, `of` how many, and the place of the `next`.
    """
    if request.rater and request.at is not None:
        _rate(workbench, request, request.at)
    elif request.verdict or request.marked is not None:
        raise RequestError("A rating needs a rater and the place of an item.", "rater")
    answer: dict[str, Any] = {"rated": 0, "of": 0, "next": None}
    if request.rater:
        progress = progress_of(workbench, request)
        answer |= {
            "rated": len(progress.rated),
            "of": len(progress.plan),
            "next": progress.following,
        }
    return answer | rates(workbench)


def rates(workbench: Workbench) -> dict[str, Any]:
    """All that is known of both kinds of ratings; numbers that are not defined are None."""
    names = {digest: name for name, digest in _hashes(workbench).items()}
    kept = records_of(workbench)
    return _defined(
        {
            "meaning": meaning_rates(kept.meanings(), names),
            "intruders": intruder_rates(kept.intruders(), names),
            "definitions": RATING_DEFINITIONS,
        }
    )


def records_of(workbench: Workbench) -> RatingRecords:
    """What is kept of ratings."""
    return RatingRecords(workbench.notes.file)


def rated_saes(workbench: Workbench, saes: str = "") -> list[str]:
    """The SAEs that are named, with commas between them, or all that have an index.

    RequestError if one is unknown or has no index, or none has.
    """
    named = [name.strip() for name in saes.split(",") if name.strip()]
    chosen = []
    for name in dict.fromkeys(named or workbench.bundle.sae_names):
        workbench.sae_name(name, "saes")
        try:
            workbench.index(name)
        except NoIndexError as error:
            if named:
                raise RequestError(str(error), "saes") from error
        else:
            chosen.append(name)
    if not chosen:
        raise RequestError("No SAE here has an index, so there are no contexts to rate.", "saes")
    return chosen


def plan_of(workbench: Workbench, request: RatingsRequest) -> list[PlannedItem]:
    """The features that are rated, in their order; the same for the same request and indexes."""
    names = rated_saes(workbench, request.saes)
    revisions = tuple((name, workbench.sources.revision(name)) for name in names)
    key = (revisions, request.kind, request.per_sae, request.seed)
    plans = _PLANS.setdefault(workbench, _Plans())
    return plans.get(key, lambda: _drawn(workbench, names, request))


def _drawn(workbench: Workbench, names: list[str], request: RatingsRequest) -> list[PlannedItem]:
    """The plan of a request; RequestError about `kind` if no index has intruder tests."""
    indexes = {name: workbench.index(name) for name in names}
    if is_intruders := request.kind == "intruders":
        indexes = {name: each for name, each in indexes.items() if has_intruder_tests(each)}
        if not indexes:
            raise RequestError(NO_INTRUDERS, "kind")

    def fits(name: str, feature: int) -> bool:
        if not is_intruders:
            return True
        return intruder_contexts(indexes[name], feature, request.seed) is not None

    frequencies = {name: index.frequencies() for name, index in indexes.items()}
    return rating_plan(frequencies, request.per_sae, request.seed, fits)


def progress_of(workbench: Workbench, request: RatingsRequest) -> Progress:
    """How far the request's rater has come with its plan."""
    plan, kept = plan_of(workbench, request), records_of(workbench)
    rows = kept.meanings() if request.kind == "meaning" else kept.intruders()
    rater = " ".join(request.rater.split())
    mine = {
        (row.sae_hash, row.feature)
        for row in rows
        if row.rater == rater and row.seed == request.seed
    }
    hashes = _hashes(workbench)
    places = (at for at, item in enumerate(plan) if (hashes[item.sae], item.feature) in mine)
    return Progress(plan=plan, rated=frozenset(places))


def item_contexts(workbench: Workbench, request: RatingsRequest, at: int) -> list[RatingContext]:
    """What is seen of one item of the plan; RequestError about `at` if there is no such item."""
    item = _item(plan_of(workbench, request), at)
    index = workbench.index(item.sae)
    if request.kind == "meaning":
        return meaning_contexts(index, item.feature, request.seed)
    contexts = intruder_contexts(index, item.feature, request.seed)
    assert contexts is not None, "the plan holds only what can be shown"
    return contexts


def _rate(workbench: Workbench, request: RatingsRequest, at: int) -> None:
    """Keep what a request says of the item at this place."""
    item = _item(plan_of(workbench, request), at)
    digest, kept = workbench.bundle.content_hash(item.sae), records_of(workbench)
    if request.kind == "meaning":
        if not request.verdict or not request.grade:
            raise RequestError("Give both a verdict and a grade.", "verdict")
        kept.rate_meaning(
            digest,
            item.feature,
            request.rater,
            request.verdict,
            request.grade,
            seed=request.seed,
            band=item.band,
        )
        return
    marked, contexts = set(request.marked or ()), item_contexts(workbench, request, at)
    if len(marked) != INTRUDERS or not all(0 <= place < len(contexts) for place in marked):
        raise RequestError(f"Mark {INTRUDERS} of the {len(contexts)} contexts.", "marked")
    named = sum(contexts[place].is_intruder for place in marked)
    kept.rate_intruders(
        digest, item.feature, request.rater, named, seed=request.seed, band=item.band
    )


def _item(plan: list[PlannedItem], at: int) -> PlannedItem:
    if at >= len(plan):
        raise RequestError(
            f"There is no item {shown(at)}: this plan has {len(plan):,}, counted from 0.", "at"
        )
    return plan[at]


def _hashes(workbench: Workbench) -> dict[str, str]:
    return {
        row["name"]: workbench.bundle.content_hash(row["name"])
        for row in workbench.saes()
        if row["problem"] is None
    }


def _defined(value: Any) -> Any:
    """The value with None in place of numbers that are not defined."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _defined(each) for key, each in value.items()}
    return [_defined(each) for each in value] if isinstance(value, list) else value
