"""The service: its numbers against the model itself, its limits, its sentences, its threads."""

import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from app.service import Service
from app.settings import Settings
from sae_core.bundle import Bundle, write_bundle
from sae_core.formats.saelens import save_sae
from sae_core.sites import activations
from sae_core.tokens import encode_text
from tests import tiny

TEXT = "The old clock measures two letters at noon. 🙂 Café!"
SETTINGS = Settings(threads=1, device="cpu", dtype="float32")
FIRING, OTHER = 5, 6


@pytest.fixture(scope="module")
def service(tiny_bundle: Bundle) -> Service:
    return Service(SETTINGS, tiny_bundle)


@contextmanager
def counted_forwards(model: nn.Module) -> Iterator[list[int]]:
    """A list that grows by the batch's tokens with every forward of the model."""
    seen: list[int] = []

    def count(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["input_ids"].numel())

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def as_json(value: object) -> Any:
    """The value after a trip through strict JSON, as a client sees it."""
    return json.loads(json.dumps(value, allow_nan=False))


def text_of(rows: list[dict[str, Any]]) -> str:
    return "".join(row["text"] for row in rows)


# Prompts


def test_features_of_a_prompt_are_those_of_the_sae(service: Service) -> None:
    found = as_json(service.prompt_features(TEXT))
    engine = service.load()
    sae, site = engine.sae(tiny.SAE_NAME), engine.lm.site(tiny.SAE_NAME)
    ids = encode_text(engine.lm.tokenizer, TEXT)
    x = activations(engine.model, torch.tensor([ids]), [site])[site][0]
    acts = sae.encode(x)
    acts[0] = 0  # BOS is left alone

    assert [row["id"] for row in found["tokens"]] == ids
    assert text_of(found["tokens"][1:]) == TEXT
    assert [row["special"] for row in found["tokens"]] == [True] + [False] * (len(ids) - 1)
    by_feature = torch.zeros_like(acts)
    for row in found["features"]:
        for token, activation in row["tokens"]:
            by_feature[token, row["feature"]] = activation
        assert row["peak"] == max(act for _, act in row["tokens"])
        assert [row["peak_token"], row["peak"]] in row["tokens"]
        assert [token for token, _ in row["tokens"]] == sorted(token for token, _ in row["tokens"])
    torch.testing.assert_close(by_feature, acts, atol=1e-5, rtol=1e-5)
    by_token = torch.zeros_like(acts)
    for row in found["tokens"]:
        assert row["active"] == len(row["active_features"])
        strengths = [activation for _, activation in row["active_features"]]
        assert strengths == sorted(strengths, reverse=True)
        for feature, activation in row["active_features"]:
            by_token[row["i"], feature] = activation
    assert torch.equal(by_token, by_feature)
    peaks = [row["peak"] for row in found["features"]]
    assert peaks == sorted(peaks, reverse=True)
    assert not found["truncated"]


def test_totals_of_a_prompt_follow_from_its_tokens_and_the_index_s_mean(service: Service) -> None:
    found = service.prompt_features(TEXT)
    totals, tokens = found["totals"], found["tokens"]
    assert tokens[0]["loss"] is tokens[0]["delta"] is tokens[0]["kl"] is None
    losses = np.array([[row["loss"], row["spliced_loss"], row["kl"]] for row in tokens[1:]])
    for row in tokens[1:]:
        assert row["delta"] == pytest.approx(row["spliced_loss"] - row["loss"], abs=1e-6)
    means = losses.mean(0)
    assert [totals["ce_base"], totals["ce_spliced"], totals["kl"]] == pytest.approx(means.tolist())
    assert totals["delta_lm_loss"] == pytest.approx(means[1] - means[0], abs=1e-6)
    assert totals["tokens"] == len(tokens) - 1
    assert totals["l0"] == pytest.approx(np.mean([row["active"] for row in tokens[1:]]))

    engine = service.load()
    sae, site = engine.sae(tiny.SAE_NAME), engine.lm.site(tiny.SAE_NAME)
    ids = torch.tensor([[row["id"] for row in tokens]])
    x = activations(engine.model, ids, [site])[site][0, 1:]
    mean = torch.tensor(service.index().meta["mean_activation"])
    fvu = (x - sae(x)).double().square().sum() / (x - mean).double().square().sum()
    assert totals["fvu"] == pytest.approx(float(fvu), rel=1e-5)
    own_mean = (x - sae(x)).double().square().sum() / (x - x.mean(0)).double().square().sum()
    assert float(own_mean) != pytest.approx(float(fvu), rel=1e-3)


def test_delta_loss_agrees_with_prompt_features(service: Service) -> None:
    cost, whole = as_json(service.delta_loss(TEXT)), service.prompt_features(TEXT)
    assert cost["totals"] == whole["totals"]
    for a, b in zip(cost["tokens"], whole["tokens"], strict=True):
        assert a == {key: b[key] for key in a}


def test_a_limit_cuts_the_list_of_features_and_nothing_else(service: Service) -> None:
    whole, cut = service.prompt_features(TEXT), service.prompt_features(TEXT, limit=3)
    assert cut["features"] == whole["features"][:3]
    assert cut["tokens"] == whole["tokens"]
    assert cut["truncated"]
    assert cut["features_total"] == whole["features_total"] == len(whole["features"])


def test_features_carry_what_the_index_says(service: Service) -> None:
    for row in service.prompt_features(TEXT, limit=5)["features"]:
        page = service.feature(None, row["feature"])
        for key in ("signature", "frequency", "max_act"):
            assert row[key] == page[key]


def test_the_same_text_is_analysed_once(tiny_bundle: Bundle) -> None:
    fresh = Service(Settings(threads=1, cached_analyses=2), tiny_bundle)
    with counted_forwards(fresh.load().model) as forwards:
        first = fresh.prompt_features("one")
        assert len(forwards) == 1
        assert fresh.prompt_features("one") == first
        fresh.delta_loss("one")
        assert len(forwards) == 1
        fresh.prompt_features("two")
        fresh.prompt_features("one")
        fresh.prompt_features("three")  # pushes "two" out, not "one"
        assert len(forwards) == 3
        fresh.prompt_features("one")
        assert len(forwards) == 3
        fresh.prompt_features("two")
        assert len(forwards) == 4


def test_one_token_has_null_where_nothing_is_defined(service: Service) -> None:
    found = as_json(service.prompt_features("T"))
    assert found["totals"]["ce_base"] == found["tokens"][1]["loss"]
    assert found["totals"]["tokens"] == 1


def test_hostile_text_comes_back_as_it_went_in(service: Service) -> None:
    found = as_json(service.prompt_features(tiny.HOSTILE))
    assert text_of(found["tokens"][1:]) == tiny.HOSTILE
    spelt = service.prompt_features("<bos>a<eos>")
    assert [row["special"] for row in spelt["tokens"]].count(True) == 1


def test_a_feature_on_one_s_own_text(service: Service) -> None:
    found = as_json(service.test_text(TEXT, tiny.SAE_NAME, tiny.ALWAYS))
    row = next(
        row for row in service.prompt_features(TEXT)["features"] if row["feature"] == tiny.ALWAYS
    )
    expected = dict(map(tuple, row["tokens"]))
    for i, (act, pre) in enumerate(
        zip(found["activations"], found["pre_activations"], strict=True)
    ):
        assert act == pytest.approx(expected.get(i, 0.0), abs=1e-5)
        if found["special"][i]:
            assert pre is None
        else:
            assert (pre > found["threshold"]) == (act > 0)
    assert str(found["activations"]).find("-0.0") == -1
    assert "".join(found["tokens"][1:]) == TEXT


# Features


def test_feature_knows_its_neighbours_by_number(service: Service) -> None:
    assert service.feature(None, 0)["previous"] is None
    assert service.feature(None, tiny.D_SAE - 1)["next"] is None
    middle = as_json(service.feature(tiny.SAE_NAME, 7.0))
    assert (middle["previous"], middle["feature"], middle["next"]) == (6, 7, 8)
    assert middle["sae"] == tiny.SAE_NAME


def test_search_passes_its_arguments_on(service: Service) -> None:
    found = as_json(service.search_features(sort="max_act", descending=False, limit=5, offset=2))
    every = service.search_features(sort="max_act", descending=False, limit=tiny.D_SAE)
    assert found["total"] == every["total"] == tiny.D_SAE
    assert found["features"] == every["features"][2:7]
    acts = [row["max_act"] for row in every["features"]]
    assert acts == sorted(acts)
    narrow = service.search_features(min_frequency=0.3, max_frequency=0.9)
    assert [row["feature"] for row in narrow["features"]] == [tiny.ALWAYS]
    one = service.search_features(query="#12")
    assert [row["feature"] for row in one["features"]] == [12]


def test_a_random_feature_fires(service: Service) -> None:
    drawn = {service.random_feature() for _ in range(300)}
    assert tiny.DEAD not in drawn
    assert len(drawn) > tiny.D_SAE // 2


def test_overview_describes_the_bundle(service: Service) -> None:
    found = as_json(service.overview())
    assert found["bundle"]["name"] == "tiny"
    assert found["model"]["parameters"] == sum(
        parameter.numel() for parameter in service.load().model.parameters()
    )
    assert found["model"]["layers"] == tiny.N_LAYERS
    (sae,) = found["saes"]
    assert (sae["name"], sae["site"], sae["layer"]) == (tiny.SAE_NAME, "resid_post", 1)
    histogram = found["frequency_histogram"]
    assert len(histogram["edges"]) == len(histogram["counts"]) + 1
    dead = int((service.index().frequencies() == 0).sum())
    assert dead >= 1
    assert histogram["dead"] == dead
    assert sum(histogram["counts"]) + dead == tiny.D_SAE
    assert found["index"]["tokens"] > 0


def test_overview_needs_no_model_in_memory(tiny_bundle: Bundle) -> None:
    fresh = Service(SETTINGS, tiny_bundle)
    fresh.overview()
    fresh.feature(None, 3)
    assert fresh._engine is None


# Steering


def test_an_edit_that_changes_nothing_changes_nothing(service: Service) -> None:
    edits = [{"feature": tiny.ALWAYS, "mode": "scale", "strength": 1}]
    found = as_json(service.steer("The river", edits, max_new_tokens=12, temperature=1))
    assert len(found["base"]) == 12
    for base, steered in zip(found["base"], found["steered"], strict=True):
        assert steered["own"] == steered["after"]
        # The two are different rows of one matrix product, which may round differently.
        assert steered.pop("own") == pytest.approx(base.pop("own"), abs=1e-5)
        assert steered.pop("after") == pytest.approx(base.pop("after"), abs=1e-5)
        assert steered == base


def test_strength_is_in_multiples_of_the_largest_activation(service: Service) -> None:
    largest = service.feature(None, FIRING)["max_act"]
    found = service.steer(
        "The river",
        [
            {"feature": FIRING, "mode": "set", "strength": 2.5},
            {"feature": FIRING, "mode": "scale", "strength": 3},
            {"feature": OTHER, "mode": "ablate"},
        ],
        max_new_tokens=3,
        temperature=0,
    )
    values = [edit["value"] for edit in found["edits"]]
    assert values == pytest.approx([2.5 * largest, 3.0, 0.0])
    assert found["edits"][0]["max_act"] == largest
    assert found["edits"][0]["positions"] == "all"
    for row in found["base"]:
        assert row["own"] == row["after"]
        assert len(row["own"]) == 3
        assert row["own"][0] == row["own"][1]
    # Decoder rows are half of the unit-norm encoder's: half of the change is read back.
    assert all(row["after"][0] > row["own"][0] for row in found["steered"])


def test_the_settings_in_an_answer_repeat_it(service: Service) -> None:
    edits = [{"feature": FIRING, "strength": 1.5, "positions": [1, 2, 5]}, {"feature": OTHER}]
    found = as_json(service.steer("A student", edits, max_new_tokens=6, temperature=1, seed=7))
    assert as_json(service.steer(**found["settings"])) == found
    # The edits as answered, with their raw values, are understood too.
    again = service.steer(**{**found["settings"], "edits": found["edits"]})
    assert as_json(again) == found
    other = service.steer(**{**found["settings"], "seed": 8})
    assert text_of(other["base"]) != text_of(found["base"])


def test_a_stream_grows_token_by_token_into_the_answer(service: Service) -> None:
    edits = [{"feature": FIRING, "strength": 2}]
    options: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0}
    answers = list(service.steer_stream("My neighbour", edits, **options))
    lengths = [len(answer["steered"]) for answer in answers]
    assert lengths == [*range(9), 8]
    assert [answer["done"] for answer in answers] == [False] * 9 + [True]
    assert answers[-1] == service.steer("My neighbour", edits, **options)
    # An answer given out is not changed by later tokens.
    assert answers[3]["steered"] == answers[-1]["steered"][:3]
    assert answers[-1]["steered"][0]["i"] == len(answers[-1]["prompt_tokens"])


def test_closing_a_stream_ends_the_work(service: Service) -> None:
    model = service.load().model
    with counted_forwards(model) as forwards:
        stream = service.steer_stream("The ship", [{"feature": FIRING}], max_new_tokens=50)
        for _ in range(4):
            next(stream)
        stream.close()  # pyright: ignore[reportAttributeAccessIssue] - it is a generator
        done = len(forwards)
        assert done <= 4
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert list(stream) == []


def test_a_run_ends_at_its_time_limit_and_says_so(tiny_bundle: Bundle) -> None:
    hasty = Service(Settings(threads=1, max_seconds=1e-6), tiny_bundle)
    found = hasty.steer("The ship", [{"feature": FIRING}], max_new_tokens=50)
    assert len(found["steered"]) == 1
    assert found["done"]
    assert "1e-06 seconds" in found["note"]


def test_edits_of_generated_tokens_leave_the_prompt_alone(service: Service) -> None:
    strong = {"feature": FIRING, "mode": "add", "strength": 20}
    options: dict[str, Any] = {"max_new_tokens": 4, "temperature": 0}
    late = service.steer("The ship", [{**strong, "positions": "generated"}], **options)
    early = service.steer("The ship", [{**strong, "positions": "prompt"}], **options)
    # The first new token is predicted from the prompt alone.
    assert late["steered"][0]["id"] == late["base"][0]["id"]
    assert early["steered"][0]["after"] == early["steered"][0]["own"]
    assert late["steered"][0]["after"] != late["steered"][0]["own"]


# Mistakes


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
        service.test_text(TEXT, None, feature)


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


# Bundles


def test_an_sae_without_an_index_is_named(tiny_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path, dirs_exist_ok=True)
    bundle = Bundle.open(tmp_path)
    bundle.index_path(tiny.SAE_NAME).unlink()
    unindexed = Service(SETTINGS, bundle)
    for call in (unindexed.overview, unindexed.index):
        with pytest.raises(ValueError, match="tiny has no index"):
            call()


def test_an_index_of_other_weights_is_refused(
    tiny_bundle: Bundle, tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    other = tiny.make_sae(tiny_model, tiny_tokenizer, seed=1)
    save_sae(other, tmp_path / "saes" / tiny.SAE_NAME)
    indexed = tiny_bundle.index_path(tiny.SAE_NAME)
    (tmp_path / "saes" / tiny.SAE_NAME / indexed.name).write_bytes(indexed.read_bytes())
    bundle = write_bundle(
        tmp_path,
        name="mixed",
        title="",
        model=str(tiny_bundle.path / "model"),
        saes=[tiny.SAE_NAME],
    )
    with pytest.raises(ValueError, match="built from other weights"):
        Service(SETTINGS, bundle).index()


# Threads


def test_answers_do_not_depend_on_who_else_asks(tiny_bundle: Bundle) -> None:
    texts = [f"{text} {n}" for n, text in enumerate(["The river", "A student", TEXT, "It"])]
    alone = Service(SETTINGS, tiny_bundle)
    expected = [alone.prompt_features(text) for text in texts]
    steered = [alone.steer(text, [{"feature": FIRING, "strength": 5}]) for text in texts]
    crowded = Service(SETTINGS, tiny_bundle)
    with ThreadPoolExecutor(8) as pool:
        runs = [
            pool.submit(crowded.steer, text, [{"feature": FIRING, "strength": 5}]) for text in texts
        ]
        answers = [pool.submit(crowded.prompt_features, text) for text in texts]
        pages = [pool.submit(crowded.feature, None, n) for n in range(20)]
        assert [answer.result() for answer in answers] == expected
        assert [run.result() for run in runs] == steered
        assert [page.result()["feature"] for page in pages] == list(range(20))
