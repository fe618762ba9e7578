"""A ladder of strengths against single runs and plain forwards; the band; the endpoint's answer."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from app.endpoints import Api
from app.requests import LadderRequest, parsed
from app.service import find_strength
from sae_core.bundle import Bundle
from sae_core.edits import Edit
from sae_core.generation import generate
from sae_core.ladder import STRENGTHS, Ladder, Rung, band, usable
from sae_core.sae import SAE
from sae_core.sites import activations
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text
from tests import tiny
from tests.unit.service_support import FIRING, OTHER, SETTINGS, api_of, as_json, one_sentence

PROMPT = "The river remembers two letters"
SEEDS = [4, 5]


@pytest.fixture(scope="module")
def lm(tiny_model: Any, tiny_tokenizer: Any, tiny_sae: SAE) -> SplicedLM:
    return SplicedLM(tiny_model, tiny_tokenizer, {tiny.SAE_NAME: tiny_sae})


@pytest.fixture(scope="module")
def api(tiny_bundle: Bundle) -> Api:
    return api_of(tiny_bundle)


def test_every_row_is_its_own_run_read_by_a_plain_forward(lm: SplicedLM) -> None:
    ids = encode_text(lm.tokenizer, PROMPT)
    rungs = [
        [Edit(feature=FIRING, mode="set", value=value, positions="continuation")]
        for value in (2.0, 8.0, 40.0)
    ]
    options: dict[str, Any] = {"max_new_tokens": 15, "temperature": 1.0, "eos": frozenset({260})}
    ladder = Ladder(lm, ids, rungs, (tiny.SAE_NAME, FIRING), seeds=SEEDS, **options)
    assert ladder.texts == [[[], []]] * 4
    steps = sum(1 for _ in ladder.grow())
    assert steps <= 15
    for edits, texts, rung in zip([[], *rungs], ladder.texts, ladder.rungs(), strict=True):
        fires, logp, sizes = [], [], []
        for seed, text in zip(SEEDS, texts, strict=True):
            alone = generate(lm, ids, [edits], seed=seed, **options)
            assert text == [step.tokens[0].id for step in alone if step.tokens[0]]
            whole = torch.tensor([[*ids, *text]])
            with torch.no_grad():
                logits = lm.model(input_ids=whole, use_cache=False).logits[0]
            x = activations(lm.model, whole, [tiny.SITE])[tiny.SITE]
            acts = lm.sae(tiny.SAE_NAME).encode(x)[0, len(ids) :, FIRING]
            special = lm.is_special(text)
            fires += [bool(a > 0) for a, s in zip(acts, special, strict=True) if not s]
            own = logits.log_softmax(-1)[len(ids) - 1 : -1]
            logp += [float(own[t, token]) for t, token in enumerate(text)]
            if edits:
                sizes += steered_sizes(lm, [*ids, *text], len(ids), edits[0])
        assert rung.tokens == sum(map(len, texts)) == len(logp)
        assert rung.fires == pytest.approx(sum(fires) / len(fires))
        assert rung.nll == pytest.approx(-sum(logp) / len(logp), abs=1e-4)
        assert rung.distinct == sum(len(set(text)) for text in texts) / rung.tokens
        if edits:
            assert rung.size == pytest.approx(sum(sizes) / len(sizes), rel=1e-3)
        else:
            assert math.isnan(rung.size)


def steered_sizes(lm: SplicedLM, ids: list[int], prompt: int, edit: Edit) -> list[float]:
    """Norm of the change over the norm of the activation, token by token from the prompt's last."""
    sae = lm.sae(tiny.SAE_NAME)
    layer = lm.model.model.layers[tiny.SITE.layer]
    ratios: list[float] = []

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        x = output[0] if isinstance(output, tuple) else output
        change = torch.zeros_like(x)
        for t in range(prompt - 1, len(ids)):
            a = sae.encode(x[0, t])[edit.feature]
            if ids[t] > 2:
                change[0, t] = (edit.value - a) * sae.W_dec[edit.feature]
                ratios.append(float(change[0, t].norm() / x[0, t].norm()))
        return (x + change, *output[1:]) if isinstance(output, tuple) else x + change

    handle = layer.register_forward_hook(hook)
    try:
        with torch.no_grad():
            lm.model(input_ids=torch.tensor([ids]), use_cache=False)
    finally:
        handle.remove()
    return ratios


def rung(fires: float, nll: float, distinct: float = 0.8) -> Rung:
    return Rung(fires=fires, nll=nll, distinct=distinct, size=0.1, tokens=10)


def test_the_band_is_the_longest_run_of_usable_strengths() -> None:
    plain = rung(0.05, 2.0)
    rungs = [
        plain,
        rung(0.05, 2.0),  # does not fire more than without edits
        rung(0.1, 2.6),
        rung(0.09, 2.1),  # too little
        rung(0.3, 2.9),
        rung(0.6, 2.9),
        rung(0.6, 2.8),
        rung(0.9, 3.01),  # too unlikely
        rung(0.9, 1.0, 0.5),  # a loop
    ]
    result = band(rungs)
    assert result is not None
    assert (result.low, result.high, result.best) == (4, 6, 6)
    wider = band(rungs, margin=1.1)
    assert wider is not None
    assert (wider.low, wider.high, wider.best) == (4, 7, 7)
    narrow = band(rungs, margin=0.85)
    assert narrow is not None
    assert (narrow.low, narrow.high) == (2, 2), "of equals the weaker"
    assert band(rungs[:2]) is None
    assert not usable(rung(0.5, 2.0), rung(0.5, 2.0)), "no more than without edits"
    assert not usable(rung(math.nan, math.nan), plain)


def stream(api: Api, **given: Any) -> list[dict[str, Any]]:
    request = parsed(LadderRequest, given, api.workbench.settings)
    planned = find_strength.planned_ladder(api.workbench, request)
    return list(find_strength.stream(api.workbench, planned))


GIVEN: dict[str, Any] = {
    "prompt": PROMPT,
    "edits": [
        {"feature": OTHER, "mode": "ablate"},
        {"feature": FIRING, "strength": 9, "fade": 50, "condition_feature": tiny.ALWAYS},
    ],
    "edit": 1,
    "max_new_tokens": 6,
    "strengths": [8, 2],
    "seeds": 2,
    "temperature": 1,
}


def test_rows_stream_and_the_settings_repeat_them(api: Api) -> None:
    answers = stream(api, **GIVEN)
    assert [answer["done"] for answer in answers] == [False] * (len(answers) - 1) + [True]
    last = as_json(answers[-1])
    assert [row["strength"] for row in last["rows"]] == [None, 2, 8]
    largest = api.feature(FIRING)["max_act"]
    assert [row["value"] for row in last["rows"][1:]] == pytest.approx([2 * largest, 8 * largest])
    for earlier, later in itertools.pairwise(answers):
        for old, new in zip(earlier["rows"], later["rows"], strict=True):
            assert all(n.startswith(o) for o, n in zip(old["texts"], new["texts"], strict=True))
    assert all(len(row["texts"]) == 2 and row["tokens"] > 0 for row in last["rows"])
    assert last["rows"][0]["usable"] is False
    assert last["sentence"].endswith(".")
    assert set(last["definitions"]) == {"fires", "nll", "distinct", "size"}
    assert as_json(api.ladder(**last["settings"])) == last
    edit = last["settings"]["edits"][1]
    assert edit["positions"] == "continuation"
    assert edit["strength"] == 9
    # A row is the steering run of its strength.
    asked = {key: last["settings"][key] for key in ("max_new_tokens", "temperature", "prompt")}
    edits = [last["edits"][0], {**edit, "strength": 8}]
    for seed, text in enumerate(last["rows"][2]["texts"]):
        run = api.steer(**asked, edits=edits, seed=seed)
        assert "".join(token["text"] for token in run["steered"]) == text
        assert "".join(token["text"] for token in run["base"]) == last["rows"][0]["texts"][seed]


def test_numbers_so_far_are_those_of_a_ladder_that_ends_there(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_strength, "NUMBERS_EVERY", math.inf)
    plain = [stream(api, **{**GIVEN, "max_new_tokens": n})[-1] for n in range(1, 7)]
    monkeypatch.setattr(find_strength, "NUMBERS_EVERY", 0.0)
    monkeypatch.setattr(find_strength, "NUMBERS_SHARE", 1.0)
    *growing, last = stream(api, **GIVEN)
    assert as_json(last) == as_json(plain[-1])
    assert "tokens" not in growing[0]["rows"][0], "nothing is there before the first token"
    for answer, whole in zip(growing[1:], plain, strict=False):
        assert answer["band"] is answer["sentence"] is None
        for row, expected in zip(answer["rows"], whole["rows"], strict=True):
            assert "usable" not in row
            assert row["tokens"] == expected["tokens"]
            for name in ("fires", "nll", "distinct", "size"):
                assert row[name] == pytest.approx(expected[name], abs=1e-5, nan_ok=True)


def test_a_band_names_strengths_and_its_size(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    fires = iter([0.0, 0.04, 0.4, 0.5, 0.2])
    nll = iter([2.0, 2.0, 2.2, 2.9, 9.0])

    def rungs(_ladder: Ladder) -> list[Rung]:
        return [
            Rung(fires=next(fires), nll=next(nll), distinct=1.0, size=k / 10, tokens=6)
            for k in range(5)
        ]

    monkeypatch.setattr(Ladder, "rungs", rungs)
    monkeypatch.setattr(find_strength, "NUMBERS_EVERY", math.inf)
    answer = stream(api, **{**GIVEN, "strengths": [1, 2, 3, 4]})[-1]
    assert answer["band"] == {"low": 2, "high": 3, "best": 3, "size": 0.3}
    assert answer["sentence"].startswith(f"From 2 to 3 × max #{FIRING} fires on at least 5 %")
    assert [row["usable"] for row in answer["rows"]] == [False, False, True, True, False]


def test_eight_strengths_are_tried_unless_others_are_given(api: Api) -> None:
    answer = stream(api, prompt=PROMPT, edits=[{"feature": FIRING}], max_new_tokens=1)[-1]
    assert [row["strength"] for row in answer["rows"]] == [None, *STRENGTHS]
    assert answer["unit"] == {"of": "max_act", "value": api.feature(FIRING)["max_act"]}


def test_mistakes_of_a_ladder_are_sentences(api: Api) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"edit": 2}, "edit"),
        ({"edit": 0}, "edits.0.mode"),
        ({"strengths": [1, 1000]}, "strengths"),
        ({"strengths": [k / 10 for k in range(17)]}, "strengths"),
        ({"seeds": 6}, "seeds"),
        ({"seed": 2**32 - 1}, "seed"),
        ({"margin": -1}, "margin"),
        ({"edits": [{"feature": tiny.DEAD, "value": 0.0}], "edit": 0}, "edits.0.value"),
    ]
    for change, field in wrong:
        with one_sentence(field):
            api.ladder(**{**GIVEN, **change})


def test_a_feature_without_a_largest_activation_is_tried_at_multiples_of_its_value(
    api: Api,
) -> None:
    edits = [{"feature": tiny.DEAD, "value": 3.0}]
    answer = stream(api, prompt=PROMPT, edits=edits, strengths=[0.5, 2], max_new_tokens=2)[-1]
    assert answer["unit"] == {"of": "value", "value": 3.0}
    assert [row["value"] for row in answer["rows"]] == [None, 1.5, 6.0]
    edits = [{"feature": tiny.DEAD, "value": -3.0}]
    answer = stream(api, prompt=PROMPT, edits=edits, strengths=[0.5, 2], max_new_tokens=2)[-1]
    assert [row["value"] for row in answer["rows"]] == [None, -1.5, -6.0]


def test_each_strength_is_tried_once_where_the_largest_is_small(tiny_bundle: Bundle) -> None:
    narrow = api_of(tiny_bundle, replace(SETTINGS, max_strength=0.6))
    answer = narrow.ladder(PROMPT, [{"feature": FIRING, "strength": 0.5}], max_new_tokens=1)
    assert [row["strength"] for row in answer["rows"]] == [None, 0.25, 0.5, 0.6]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({"positions": [0]}, "token 0 is special, and special tokens keep their activation"),
        (
            {"condition_feature": OTHER, "condition_above": 1e5},
            f"#{OTHER}, its condition, fires above 100000 on none of those it names",
        ),
    ],
)
def test_an_edit_that_touches_no_token_is_no_weak_one(
    api: Api, edit: dict[str, Any], reason: str
) -> None:
    edits = [{"feature": OTHER, "strength": 1}, {"feature": FIRING, **edit}]
    answer = api.ladder(PROMPT, edits, edit=1, max_new_tokens=3, seeds=1, strengths=[1, 2])
    assert answer["sentence"] == (
        f"No strength is usable: edit 2 changed no token at any of them: {reason}."
    )
    proof = api.prove(PROMPT, edits, edit=1, max_new_tokens=3, seeds=4)
    assert not proof["separates"]
    assert proof["sentence"].startswith(f"Steering #{FIRING} changed no token in any run")
