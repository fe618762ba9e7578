"""Plans, items, records and rates of people's ratings."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.commands.shared import DEMO
from sae_core.index import Index
from sae_core.notes import NotesFile
from sae_core.ratings import (
    BANDS,
    IntruderRating,
    MeaningRating,
    RatingRecords,
    has_intruder_tests,
    intruder_contexts,
    intruder_rates,
    meaning_contexts,
    meaning_rates,
    rating_plan,
)
from sae_core.ratings.rating_items import INTRUDERS, OWN, STRONGEST
from sae_core.ratings.rating_plan import MISSES
from sae_core.ratings.rating_records import VERDICTS
from sae_core.ratings.rating_summary import CHANCE, chance_of
from sae_core.wilson import wilson
from tests.demo_features import of_the_sea

FEATURE = of_the_sea()


@pytest.fixture(scope="module")
def index() -> Iterator[Index]:
    opened = Index.open(DEMO / "saes" / "resid_post-layer_4-l0_32" / "index.duckdb")
    yield opened
    opened.close()


def shares(**counts: int) -> np.ndarray:
    """Frequencies of so many features within each band, and 30 dead ones."""
    low = {"rare": 5e-5, "some": 5e-4, "many": 5e-3, "often": 0.2}
    return np.array([0.0] * 30 + [low[name] for name, n in counts.items() for _ in range(n)])


def test_a_plan_takes_evenly_from_the_bands_and_none_that_is_dead() -> None:
    plan = rating_plan({"a": shares(rare=40, some=40, many=40, often=40)}, 20)
    assert Counter(item.band for item in plan) == {band: 5 for band, *_ in BANDS}
    assert all(item.feature >= 30 for item in plan)
    assert len({item.feature for item in plan}) == 20


def test_what_a_band_lacks_the_others_give() -> None:
    plan = rating_plan({"a": shares(rare=2, many=40), "b": shares(some=3)}, 10)
    counts = Counter((item.sae, item.band) for item in plan)
    assert counts == {("a", BANDS[0][0]): 2, ("a", BANDS[2][0]): 8, ("b", BANDS[1][0]): 3}
    # SAEs come mixed.
    order = [item.sae for item in plan]
    assert order not in (sorted(order), sorted(order, reverse=True))


def test_a_plan_is_its_seed_s() -> None:
    frequencies = {"a": shares(rare=40, some=40), "b": shares(many=40)}
    assert rating_plan(frequencies, 8, 3) == rating_plan(frequencies, 8, 3)
    assert rating_plan(frequencies, 8, 3) != rating_plan(frequencies, 8, 4)
    # Which other SAEs are rated changes nothing of one's own features.
    own = {item.feature for item in rating_plan(frequencies, 8, 3) if item.sae == "a"}
    assert own == {item.feature for item in rating_plan({"a": frequencies["a"]}, 8, 3)}


def test_only_what_fits_is_planned() -> None:
    plan = rating_plan({"a": shares(some=40)}, 30, fits=lambda _sae, feature: feature % 2 == 0)
    assert len(plan) == 20
    assert all(item.feature % 2 == 0 for item in plan)
    with pytest.raises(ValueError, match="must have 1 or more"):
        rating_plan({}, 0)


def test_an_sae_of_which_little_fits_is_given_up() -> None:
    looked: list[int] = []

    def fits(_sae: str, feature: int) -> bool:
        looked.append(feature)
        return False

    assert rating_plan({"a": shares(rare=500, often=500)}, 4, fits=fits) == []
    assert len(looked) == 4 * MISSES


def test_contexts_for_a_meaning_are_of_all_strengths_and_name_nothing(index: Index) -> None:
    contexts = meaning_contexts(index, FEATURE)
    assert STRONGEST < len(contexts) <= STRONGEST + index.meta["intervals"]
    assert contexts == meaning_contexts(index, FEATURE)
    assert contexts != meaning_contexts(index, FEATURE, seed=1)
    peaks = [max(each.shares) for each in contexts]
    assert max(peaks) <= 1 + 1e-6
    assert min(peaks) < 0.5
    assert peaks != sorted(peaks, reverse=True)


def test_an_intruder_test_has_nine_of_its_own_and_three_of_the_nearest(index: Index) -> None:
    contexts = intruder_contexts(index, FEATURE)
    assert contexts is not None
    assert contexts == intruder_contexts(index, FEATURE)
    assert Counter(each.is_intruder for each in contexts) == {False: OWN, True: INTRUDERS}
    top = index.feature(FEATURE)["groups"][0]["contexts"]
    own = {tuple(context["tokens"]) for context in top}
    near = {
        tuple(context["tokens"])
        for row in index.feature(FEATURE)["neighbours"][:6]
        for context in index.feature(row["feature"])["groups"][0]["contexts"]
    }
    for each in contexts:
        assert each.tokens in (near - own if each.is_intruder else own)
    assert len({each.tokens for each in contexts}) == OWN + INTRUDERS


def context(document: int, offset: int, *tokens: str) -> dict[str, Any]:
    """A context as an index has it."""
    return {
        "tokens": list(tokens),
        "bytes": [""] * len(tokens),
        "activations": [1.0] * len(tokens),
        "peak": 0,
        "document": document,
        "offset": offset,
    }


class FewContexts:
    """In place of an index: so many contexts of each feature; the first neighbour of each shows the
    same passages, a token further on, and the others passages of their own.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self.meta = {"listed_neighbours": 10}
        self.read: list[int] = []

    def frequencies(self) -> np.ndarray:
        return np.linspace(0.001, 0.2, 50)

    def feature(self, feature: int) -> dict[str, Any]:
        self.read.append(feature)
        document, shift = (0, 1) if feature == 1 else (100 * feature, 0)
        contexts = [
            context(document + n, 10 + shift, f"{document + n}", f"{shift}", "c")
            for n in range(self._top)
        ]
        return {
            "max_act": 1.0,
            "groups": [{"name": "top", "contexts": contexts}],
            "neighbours": [{"feature": n} for n in range(1, 9)],
        }


def test_an_intruder_is_no_passage_of_the_feature_s_own_a_token_further_on() -> None:
    index: Any = FewContexts(OWN)
    contexts = intruder_contexts(index, 0)
    assert contexts is not None
    assert sorted({each.document // 100 for each in contexts}) == [0, 2, 3, 4]
    for n, one in enumerate(contexts):
        assert not any(map(one.overlaps, contexts[n + 1 :]))


def test_an_index_with_few_contexts_is_seen_at_once() -> None:
    few: Any = FewContexts(OWN - 1)
    assert not has_intruder_tests(few)
    assert len(few.read) < 10
    enough: Any = FewContexts(OWN)
    assert has_intruder_tests(enough)
    enough.meta["listed_neighbours"] = INTRUDERS - 1
    assert not has_intruder_tests(enough)


def test_what_has_too_few_contexts_is_no_intruder_test(index: Index) -> None:
    dead = int((index.frequencies() == 0).argmax())
    assert intruder_contexts(index, dead) is None


def meaning(
    feature: int, rater: str, verdict: str, sae: str = "h1", grade: int = 2, seed: int = 0
) -> MeaningRating:
    return MeaningRating(
        sae_hash=sae,
        feature=feature,
        rater=rater,
        verdict=verdict,
        grade=grade,
        seed=seed,
        band=BANDS[feature % 2][0],
        made="",
    )


def test_rates_per_sae_with_their_intervals() -> None:
    ratings = [meaning(i, "Ann", "YES" if i < 7 else "NO", grade=3) for i in range(10)]
    ratings += [meaning(i, "Ben", "MAYBE", "h2") for i in range(2)]
    rates = meaning_rates(ratings, {"h1": "first"})
    assert (rates["ratings"], rates["features"], rates["raters"]) == (12, 12, ["Ann", "Ben"])
    first, second = rates["saes"]
    assert (first["sae"], second["sae"]) == ("first", "h2")
    yes, maybe, no = first["verdicts"]
    assert (yes["rate"], maybe["rate"], no["rate"]) == (0.7, 0.0, 0.3)
    assert (yes["low"], yes["high"]) == wilson(7, 10)
    assert first["grade"] == 3
    assert [band["ratings"] for band in first["by_band"]] == [5, 5]
    assert second["verdicts"][1]["count"] == second["by_rater"][0]["ratings"] == 2


def test_agreement_is_of_what_several_rated() -> None:
    verdicts = {"Ann": "YYNN", "Ben": "YNNN", "Cy": "M"}
    words = {"Y": "YES", "N": "NO", "M": "MAYBE"}
    ratings = [
        meaning(i, rater, words[letter])
        for rater, letters in verdicts.items()
        for i, letter in enumerate(letters)
    ]
    rates = meaning_rates(ratings, {})
    assert rates["rated_by_several"] == 4
    kappas = {tuple(pair["raters"]): (pair["features"], pair["kappa"]) for pair in rates["kappas"]}
    # p_o = 3/4, p_e = 1/2 1/4 + 1/2 3/4 = 1/2
    assert kappas["Ann", "Ben"] == (4, pytest.approx(0.5))
    assert kappas["Ann", "Cy"] == (1, pytest.approx(0.0))
    assert -1 < rates["alpha"] < 1
    alone = meaning_rates([each for each in ratings if each.rater == "Ann"], {})
    assert math.isnan(alone["alpha"])
    assert alone["kappas"] == []


def test_what_was_rated_under_another_seed_is_no_agreement() -> None:
    ratings = [meaning(1, "Ann", "YES"), meaning(1, "Ben", "NO", seed=1)]
    rates = meaning_rates(ratings, {})
    assert (rates["ratings"], rates["features"], rates["rated_by_several"]) == (2, 1, 0)
    assert [pair["features"] for pair in rates["kappas"]] == [0]
    ratings += [meaning(1, "Ann", "NO", seed=1)]
    rates = meaning_rates(ratings, {})
    assert (rates["ratings"], rates["rated_by_several"]) == (3, 1)


def test_intruders_beside_chance_by_hand() -> None:
    assert CHANCE == 0.25
    assert chance_of(0, 1) == pytest.approx(1)
    assert chance_of(3, 1) == pytest.approx(1 / 220)
    assert chance_of(1, 1) == pytest.approx(1 - 84 / 220)
    assert chance_of(6, 2) == pytest.approx(1 / 220**2)
    # 5 or 6 in two tests: 3 and 2 either way, or both 3; 2 of 3 in 27 of 220.
    assert chance_of(5, 2) == pytest.approx((2 * 27 + 1) / 220**2)
    rows = [
        IntruderRating(sae_hash="h", feature=i, rater="Ann", named=named, seed=0, band="", made="")
        for i, named in enumerate((3, 2))
    ]
    [sae] = intruder_rates(rows, {})["saes"]
    assert sae["intruders_named"] == pytest.approx(5 / 6)
    assert sae["intruder_p"] == pytest.approx(55 / 220**2)


def test_without_ratings_there_are_no_rates() -> None:
    assert meaning_rates([], {})["saes"] == intruder_rates([], {})["saes"] == []


def test_the_latest_rating_of_a_feature_by_a_rater_stays(tmp_path: Path) -> None:
    records = RatingRecords(NotesFile(tmp_path / "notes.duckdb"))
    assert records.meanings() == []
    plan = {"seed": 4, "band": BANDS[1][0]}
    records.rate_meaning("h", 7, "Ann", "NO", 1, **plan)
    records.rate_meaning("h", 7, " Ann ", "YES", 3, **plan)
    records.rate_meaning("h", 7, "Ben", "MAYBE", 2, **plan)
    records.rate_meaning("g", 7, "Ann", "MAYBE", 2, **plan)
    records.rate_intruders("h", 7, "Ann", 2, **plan)
    again = RatingRecords(NotesFile(tmp_path / "notes.duckdb"))
    rated = {(each.sae_hash, each.rater): each for each in again.meanings()}
    assert {key: each.verdict for key, each in rated.items()} == {
        ("h", "Ann"): VERDICTS[2],
        ("h", "Ben"): VERDICTS[1],
        ("g", "Ann"): VERDICTS[1],
    }
    ann = rated["h", "Ann"]
    assert (ann.grade, ann.seed, ann.band) == (3, 4, BANDS[1][0])
    assert ann.made.endswith("+00:00")
    [test] = again.intruders()
    assert (test.rater, test.named, test.feature) == ("Ann", 2, 7)


def test_a_rating_under_another_seed_replaces_none(tmp_path: Path) -> None:
    records = RatingRecords(NotesFile(tmp_path / "notes.duckdb"))
    for seed, verdict in ((0, "NO"), (1, "YES"), (0, "MAYBE")):
        records.rate_meaning("h", 7, "Ann", verdict, 1, seed=seed, band="")
        records.rate_intruders("h", 7, "Ann", seed, seed=seed, band="")
    assert {each.seed: each.verdict for each in records.meanings()} == {0: "MAYBE", 1: "YES"}
    assert {each.seed: each.named for each in records.intruders()} == {0: 0, 1: 1}
    assert len(records.meanings()) == len(records.intruders()) == 2


@pytest.mark.parametrize(
    ("rater", "verdict", "grade", "said"),
    [
        (" ", "YES", 3, "the rater has no name"),
        ("x" * 61, "YES", 3, "longer than 60"),
        ("Ann", "PERHAPS", 3, "YES, MAYBE or NO"),
        ("Ann", "YES", 0, "a grade from 1 to 3"),
    ],
)
def test_what_is_no_rating_is_refused(
    rater: str, verdict: str, grade: int, said: str, tmp_path: Path
) -> None:
    records = RatingRecords(NotesFile(tmp_path / "notes.duckdb"))
    with pytest.raises(ValueError, match=said):
        records.rate_meaning("h", 1, rater, verdict, grade, seed=0, band="")
    assert records.meanings() == []
