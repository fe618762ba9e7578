"""Whatever a user gets wrong is answered with one sentence that says what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from app.service import Service
from app.settings import Settings
from sae_core.bundle import Bundle
from tests import tiny
from tests.unit.service_support import FIRING, SETTINGS


@pytest.fixture(scope="module")
def service(tiny_bundle: Bundle) -> Service:
    return Service(SETTINGS, tiny_bundle)


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
    [{**EDIT, "strength": None}],
    [{**EDIT, "strength": 101}],
    [{**EDIT, "mode": "scale", "strength": -101}],
    [{**EDIT, "value": None}],
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
    {"temperature": None},
    {"seed": -1},
    {"seed": 2**32},
    {"seed": 0.5},
    {"sae": "other"},
]
BAD_SEARCHES: list[dict[str, Any]] = [
    {"query": None},
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


@contextmanager
def one_sentence() -> Iterator[None]:
    """The block must raise ValueError with one short sentence."""
    with pytest.raises(ValueError, match=r".") as caught:
        yield
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said
    assert len(said) < 160
    assert len(re.findall(r"[.:!?] [A-Z]", said)) == 0, "more than one sentence"


@pytest.mark.parametrize("text", BAD_TEXTS, ids=lambda t: repr(t)[:12])
def test_a_bad_text_gets_one_sentence(service: Service, text: object) -> None:
    for call in (service.prompt_features, service.delta_loss):
        with one_sentence():
            call(text)
    with one_sentence():
        service.test_text(text, None, FIRING)
    with one_sentence():
        service.steer(text, [EDIT])


@pytest.mark.parametrize("feature", BAD_FEATURES, ids=repr)
def test_a_bad_feature_gets_one_sentence(service: Service, feature: object) -> None:
    with one_sentence():
        service.feature(None, feature)
    with one_sentence():
        service.test_text("The river", None, feature)


@pytest.mark.parametrize("edits", BAD_EDITS, ids=lambda e: repr(e)[:50])
def test_bad_edits_get_one_sentence(service: Service, edits: object) -> None:
    with one_sentence():
        service.steer("The ship", edits)


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=str)
def test_bad_steering_options_get_one_sentence(service: Service, options: dict[str, Any]) -> None:
    with one_sentence():
        service.steer("The ship", [EDIT], **options)


@pytest.mark.parametrize("options", BAD_SEARCHES, ids=lambda o: str(o)[:40])
def test_a_bad_search_gets_one_sentence(service: Service, options: dict[str, Any]) -> None:
    with one_sentence():
        service.search_features(**options)


@pytest.mark.parametrize("sae", ["other", 3, ["tiny"], "../tiny"])
def test_an_unknown_sae_gets_one_sentence(service: Service, sae: object) -> None:
    for call in (service.overview, service.random_feature, service.index):
        with one_sentence():
            call(sae)


def test_mistakes_of_a_stream_are_raised_at_once(service: Service) -> None:
    with one_sentence():
        service.steer_stream("", [EDIT])


def test_a_dead_feature_can_be_scaled_but_not_set(service: Service) -> None:
    service.steer("The ship", [{"feature": tiny.DEAD, "mode": "scale"}], max_new_tokens=1)
    with pytest.raises(ValueError, match="never fired"):
        service.steer("The ship", [{"feature": tiny.DEAD, "mode": "add"}])


def test_a_huge_text_is_refused_untokenised(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_args: object, **_kwargs: object) -> None:
        pytest.fail("a text that cannot fit was tokenised")

    monkeypatch.setattr("app.engine.encode_text", never)
    with pytest.raises(ValueError, match=r"1,000,000 characters.* limit of 256 tokens"):
        service.prompt_features("ab" * 500_000)


def test_the_limit_in_tokens_is_exact(tiny_bundle: Bundle) -> None:
    small = Service(Settings(threads=1, max_prompt_tokens=9), tiny_bundle)
    length = len(small.prompt_features("!!!!!!!!")["tokens"])
    assert length == 9
    with pytest.raises(ValueError, match="10 tokens, more than the limit of 9"):
        small.prompt_features("!!!!!!!!!")


def test_prompt_and_continuation_must_fit_the_context(service: Service) -> None:
    with pytest.raises(ValueError, match="context of 256"):
        service.steer("! " * 100, [EDIT], max_new_tokens=200)
