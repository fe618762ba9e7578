"""What another threshold would do, as the app answers it."""

import re
from pathlib import Path
from typing import Any

import pytest

from app.endpoints import Api
from app.engine.workbench import Workbench
from app.requests import RequestError
from app.service.threshold import THRESHOLD_DEFINITIONS
from app.settings import Settings
from sae_core.bundle import Bundle
from sae_core.check import check_rows
from sae_core.definitions import DEFINITIONS
from sae_core.threshold_lab import gradient_terms
from sae_core.threshold_sample import feature_sample
from tests.tiny import ALWAYS


@pytest.fixture(scope="module")
def api(tiny_bundle: Bundle) -> Api:
    return Api(Workbench(Settings(device="cpu", check_tokens=0), tiny_bundle))


def test_the_answer_is_in_the_saved_units_and_its_terms_in_those_of_training(api: Api) -> None:
    lm = api.workbench.load().lm
    answer = api.threshold(feature=ALWAYS, measured=False, tokens=300, penalty=0.02, bandwidth=0.3)
    gradient, units = answer["gradient"], answer["gradient"]["units"]
    name = answer["sae"]
    own = float(lm.sae(name).effective_threshold()[ALWAYS])
    assert answer["threshold"] == answer["own_threshold"] == own
    assert own in gradient["thresholds"]
    assert answer["variants"] == []
    sample = feature_sample(lm, name, ALWAYS, check_rows(lm, lm.sae(name).cfg, None, 300))
    assert answer["tokens"] == len(sample.feature.pre_acts)
    assert units["scale"] == pytest.approx(sample.units.scale)
    scaled = [each / units["scale"] for each in gradient["thresholds"]]
    terms = gradient_terms(
        sample.feature.scaled(units["scale"]), scaled, penalty=0.02, bandwidth=0.3
    )
    assert gradient["reconstruction"] == pytest.approx(terms.reconstruction.tolist())
    assert gradient["sparsity"] == pytest.approx(terms.sparsity.tolist())
    at = gradient["thresholds"].index(own)
    assert gradient["at"]["in_window"] == int(terms.in_window[at])
    assert units["sentence"].startswith("Lambda 0.0200 is yours. Bandwidth 0.3 is yours.")
    # Twice the bandwidth reaches twice as far around the threshold, in raw units.
    assert max(gradient["thresholds"]) == pytest.approx(own + 6 * 0.3 * units["scale"])


def test_what_the_sae_does_not_state_is_said(api: Api) -> None:
    units = api.threshold(feature=ALWAYS, measured=False, tokens=200)["gradient"]["units"]
    assert (units["lambda_from"], units["bandwidth_from"], units["scale_from"]) == (
        "rest",
        "paper",
        "text",
    )
    assert units["bandwidth"] == 0.001
    assert "does not state its lambda" in units["sentence"]
    assert "0.001 is the paper's" in units["sentence"]


def test_the_lambda_at_rest_is_that_of_the_bandwidth_that_is_asked_for(api: Api) -> None:
    lm = api.workbench.load().lm
    lambdas = []
    for bandwidth in (0.2, 0.5):
        answer = api.threshold(feature=ALWAYS, measured=False, tokens=200, bandwidth=bandwidth)
        rows = check_rows(lm, lm.sae(answer["sae"]).cfg, None, 200)
        sample = feature_sample(lm, answer["sae"], ALWAYS, rows, bandwidth=bandwidth)
        units = answer["gradient"]["units"]
        assert units["lambda_from"] == "rest"
        assert units["lambda"] == pytest.approx(sample.resting_penalty)
        lambdas.append(units["lambda"])
    assert lambdas[0] > 0
    assert lambdas[0] != pytest.approx(lambdas[1], rel=0.01)


def test_what_the_run_penalised_beside_l0_is_in_the_terms_or_said(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"feature": ALWAYS, "measured": False, "tokens": 200, "penalty": 0.02, "bandwidth": 0.3}

    def of(loss: dict[str, float]) -> dict[str, Any]:
        metadata = api.workbench.load().lm.sae(api.workbench.sae_name()).cfg.metadata
        monkeypatch.setitem(metadata, "training", {"settings": {"loss": loss}})
        return api.threshold(**asked)["gradient"]

    plain, frequent = of({}), of({"frequency_scale": 0.1})
    assert "so training " in plain["sentence"]
    assert plain["units"]["other_penalties"] == []
    assert frequent["at"]["sparsity"] > 1.5 * plain["at"]["sparsity"]
    assert frequent["at"]["reconstruction"] == plain["at"]["reconstruction"]
    assert "penalty on frequent features, of scale 0.100" in frequent["units"]["sentence"]
    other = of({"tanh_scale": 4.0, "pre_act": 3e-6})
    assert "so training by these two terms alone " in other["sentence"]
    assert "tanh penalty in place of L0" in other["units"]["sentence"]
    assert "penalty on pre-activations" in other["units"]["sentence"]
    assert other["units"]["other_penalties"] == ["tanh", "pre-activation"]


def test_variants_are_measured_and_few_tokens_are_no_evidence(api: Api) -> None:
    answer = api.threshold(feature=ALWAYS, threshold=1e4, tokens=200)
    as_is, moved, relu = answer["variants"]
    assert [each["name"] for each in answer["variants"]] == [
        "as it is",
        "this threshold",
        "all ReLU",
    ]
    assert moved["frequency"] == 0 < as_is["frequency"] <= relu["frequency"]
    assert moved["l0"] == pytest.approx(as_is["l0"] - as_is["frequency"])
    assert moved["fvu"] != as_is["fvu"]
    assert answer["gradient"]["at"]["tendency"] == "unclear"
    assert answer["gradient"]["sentence"].startswith("No token lies in the kernel")


def test_a_mistake_names_its_parameter(api: Api) -> None:
    for wrong in ({"feature": 64}, {"threshold": -1.0}, {"bandwidth": 0.0}, {"tokens": 5}):
        with pytest.raises(RequestError) as refused:
            api.threshold(**{"feature": ALWAYS, "measured": False} | wrong)
        assert refused.value.field == next(iter(wrong))


def test_the_definitions_stand_in_the_docs_in_the_code_s_words() -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    body = text.partition("\n## Of a threshold\n")[2].partition("\n## ")[0]
    defined = dict(re.findall(r"^### `(\w+)`[^\n]*\n([^\n]+)$", body, re.MULTILINE))
    own = {k: v for k, v in THRESHOLD_DEFINITIONS.items() if DEFINITIONS.get(k) != v}
    assert {k: v for k, v in defined.items() if k in own} == own
    assert set(defined) == {*own, "place", "token_spread"}
