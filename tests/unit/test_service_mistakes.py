"""Whatever a user gets wrong is answered with one sentence that says what to do."""

from collections.abc import Callable
from typing import Any

import pytest

from app.endpoints import Api
from app.service import overview
from app.service.features import random_feature
from app.settings import Settings
from sae_core.bundle import Bundle
from tests import tiny
from tests.unit.service_support import FIRING, api_of, one_sentence, steer_stream


@pytest.fixture(scope="module")
def api(tiny_bundle: Bundle) -> Api:
    return api_of(tiny_bundle)


BAD_TEXTS = ["", " \n\t", None, 7, "\ud800", "word " * 20_000]
BAD_FEATURES = [-1, tiny.D_SAE, "5", 1.5, None, True, float("nan"), [1]]
EDIT = {"feature": FIRING}
BAD_EDITS: list[Any] = [
    [],
    None,
    "set",
    {"feature": 1},
    [7],
    [{}],
    [EDIT] * 9,
    [{**EDIT, "mode": "clamp"}],
    [{**EDIT, "mode": ["set"]}],
    [{**EDIT, "strength": float("nan")}],
    [{**EDIT, "strength": float("inf")}],
    [{**EDIT, "strength": "1"}],
    [{**EDIT, "strength": 101}],
    [{**EDIT, "mode": "scale", "strength": -101}],
    [{**EDIT, "value": 1e6}],
    [{**EDIT, "mode": "scale", "value": 101}],
    [{**EDIT, "positions": "some"}],
    [{**EDIT, "positions": []}],
    [{**EDIT, "positions": [-1]}],
    [{**EDIT, "positions": [0.5]}],
    [{**EDIT, "positions": [10_000]}],
    [{**EDIT, "positions": {"0": 1}}],
    [{**EDIT, "sae": "other"}],
    [{**EDIT, "strenght": 2}],
    [{"feature": tiny.D_SAE}],
    [{"feature": tiny.DEAD}],
    [EDIT, {"feature": "x"}],
]
BAD_OPTIONS: list[dict[str, Any]] = [
    {"max_new_tokens": 0},
    {"max_new_tokens": 201},
    {"max_new_tokens": "6"},
    {"temperature": -0.1},
    {"temperature": 2.1},
    {"temperature": float("inf")},
    {"seed": -1},
    {"seed": 2**32},
    {"seed": 0.5},
    {"sae": "other"},
]
BAD_SEARCHES: list[dict[str, Any]] = [
    {"query": "x" * 201},
    {"sort": "DROP TABLE"},
    {"descending": 1},
    {"min_frequency": -0.1},
    {"max_frequency": 1.1},
    {"min_frequency": 0.5, "max_frequency": 0.1},
    {"limit": 0},
    {"limit": 201},
    {"offset": -1},
    {"sae": "other"},
]


@pytest.mark.parametrize("text", BAD_TEXTS, ids=lambda t: repr(t)[:12])
def test_a_bad_text_gets_one_sentence(api: Api, text: object) -> None:
    for call in (api.prompt_features, api.delta_loss):
        with one_sentence():
            call(text)
    with one_sentence():
        api.test_text(text, FIRING)
    with one_sentence():
        api.steer(text, [EDIT])


@pytest.mark.parametrize("feature", BAD_FEATURES, ids=repr)
def test_a_bad_feature_gets_one_sentence(api: Api, feature: object) -> None:
    with one_sentence():
        api.feature(feature)
    with one_sentence():
        api.test_text("The river", feature)


@pytest.mark.parametrize("edits", BAD_EDITS, ids=lambda e: repr(e)[:50])
def test_bad_edits_get_one_sentence(api: Api, edits: object) -> None:
    with one_sentence():
        api.steer("The ship", edits)


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=str)
def test_bad_steering_options_get_one_sentence(api: Api, options: dict[str, Any]) -> None:
    with one_sentence():
        api.steer("The ship", [EDIT], **options)


@pytest.mark.parametrize("options", BAD_SEARCHES, ids=lambda o: str(o)[:40])
def test_a_bad_search_gets_one_sentence(api: Api, options: dict[str, Any]) -> None:
    with one_sentence():
        api.search_features(**options)


@pytest.mark.parametrize("sae", ["other", 3, ["tiny"], "../tiny", "x" * 1000, "\ud800"])
def test_an_unknown_sae_gets_one_sentence(api: Api, sae: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: api.feature(FIRING, sae),
        lambda: api.search_features(sae=sae),
        lambda: api.prompt_features("The river", sae),
        lambda: api.delta_loss("The river", sae),
        lambda: api.test_text("The river", FIRING, sae),
        lambda: api.steer("The river", [EDIT], sae),
        lambda: api.check(sae),
        lambda: api.reproduce({"quantity": "l0", "text": "The river", "sae": sae})["value"],
    ]
    for call in calls:
        with one_sentence("sae"):
            call()
    if sae in ("other", "../tiny"):
        for function in (overview.overview, random_feature):
            with one_sentence("sae"):
                function(api.workbench, sae)
        with one_sentence("sae"):
            api.workbench.index(sae)


def test_mistakes_of_a_stream_are_raised_at_once(api: Api) -> None:
    with one_sentence("prompt"):
        steer_stream(api, "", [EDIT])


def test_a_dead_feature_can_be_scaled_but_not_set(api: Api) -> None:
    api.steer("The ship", [{"feature": tiny.DEAD, "mode": "scale"}], max_new_tokens=1)
    with pytest.raises(ValueError, match="never fired"):
        api.steer("The ship", [{"feature": tiny.DEAD, "mode": "add"}])


def test_a_huge_text_is_refused_untokenised(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_args: object, **_kwargs: object) -> None:
        pytest.fail("a text that cannot fit was tokenised")

    monkeypatch.setattr("app.engine.engine.encode_text", never)
    with pytest.raises(ValueError, match=r"1,000,000 characters.* limit of 256 tokens"):
        api.prompt_features("ab" * 500_000)


def test_the_limit_in_tokens_is_exact(tiny_bundle: Bundle) -> None:
    small = api_of(tiny_bundle, Settings(threads=1, max_prompt_tokens=9))
    length = len(small.prompt_features("!!!!!!!!")["tokens"])
    assert length == 9
    with pytest.raises(ValueError, match="10 tokens, more than the limit of 9"):
        small.prompt_features("!!!!!!!!!")


def test_prompt_and_continuation_must_fit_the_context(api: Api) -> None:
    with pytest.raises(ValueError, match="context of 256"):
        api.steer("! " * 100, [EDIT], max_new_tokens=200)
