"""`jumpscope effects`: the endpoint's answer as JSON and as tables."""

import json
import re
from typing import Any

import pytest

from app.cli import main
from app.endpoints import Api
from app.engine.workbench import Workbench
from sae_core.bundle import Bundle
from tests import tiny
from tests.unit.service_support import api_of, as_json

TEXT = "The river remembers two letters in the winter of 1912."


@pytest.fixture(scope="module")
def api(tiny_bundle: Bundle) -> Api:
    return api_of(tiny_bundle)


def said(capsys: pytest.CaptureFixture[str], bundle: Bundle, *options: str) -> str:
    status = main(["effects", TEXT, "--bundle", str(bundle.path), "--device", "cpu", *options])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out


def close(a: Any, b: Any) -> bool:
    """Whether two answers are one, up to the rounding of products of other shapes."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(close, a, b))
    return a == (pytest.approx(b, abs=1e-5) if isinstance(b, float) else b)


def test_json_is_the_endpoint_s(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Bundle, api: Api
) -> None:
    options = ["--token", "9", "--target", "#17", "--earlier", "--exact", "4", "--rows", "6"]
    answer = json.loads(said(capsys, tiny_bundle, *options, "--json"))
    expected = api.effects(TEXT, token=9, target=17, earlier=True, exact=4, limit=6)
    assert close(answer, as_json(expected))
    assert sum(row["exact"] for row in answer["effects"]) == 4


def test_a_table_has_what_counts(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Bundle, api: Api
) -> None:
    rows = api.effects(TEXT, token=9)["effects"]
    pairs = [f"{rows[0]['feature']}", f"{rows[1]['feature']}@9"]
    out = said(capsys, tiny_bundle, "--token", "9", "--together", *pairs)
    assert re.search(rf"^9 +#{rows[0]['feature']} ", out, re.MULTILINE)
    assert out.count("#") >= len(rows)
    assert "estimates are not measurements" in out
    joint = api.effects(
        TEXT, token=9, joint=[{"position": 9, "feature": row["feature"]} for row in rows[:2]]
    )["joint"]
    (line,) = re.findall(r"^all at once +(\S+)", out, re.MULTILINE)
    assert float(line) == pytest.approx(joint["kl"], rel=1e-3)


def test_a_next_token_is_written_as_it_stands(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Bundle, api: Api
) -> None:
    following = api.tokens(TEXT)["tokens"][5]
    out = said(capsys, tiny_bundle, "--target", following["text"], "--json")
    assert json.loads(out)["target"]["id"] == following["id"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--token", "-2"], "token is -2 but must be -1 or more."),
        (["--rows", "-1"], "rows is -1 but must be 0 or more."),
        (["--together", "river"], "together 'river' is no FEATURE or FEATURE@TOKEN"),
        (["--together", "1@2@3"], "together '1@2@3' is no FEATURE or FEATURE@TOKEN"),
        (["--together", str(tiny.D_SAE)], f"no feature {tiny.D_SAE}"),
        (["--token", "999"], "Token must be a whole number from 0 to"),
        (["--target", TEXT], "tokens: give one, or its #ID."),
        (["--sae", "other"], "There is no SAE “other”: use one of tiny."),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Bundle, options: list[str], sentence: str
) -> None:
    assert main(["effects", TEXT, "--bundle", str(tiny_bundle.path), *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence in err.splitlines()[-1]


def test_what_names_tell_is_said_before_a_model_is_loaded(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: Workbench) -> None:
        raise AssertionError("nothing is to be loaded")

    monkeypatch.setattr(Workbench, "load", load)
    for argv, sentence in (
        ([TEXT, "--sae", "other"], "There is no SAE “other”"),
        ([TEXT, "--together", f"{tiny.D_SAE}@1"], f"no feature {tiny.D_SAE}"),
        (["  "], "the text is empty"),
    ):
        assert main(["effects", *argv, "--bundle", str(tiny_bundle.path)]) == 2
        assert sentence in capsys.readouterr().err.splitlines()[-1]
