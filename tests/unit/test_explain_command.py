"""`jumpscope explain` and the endpoint `explain`, against a model that answers by rule."""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event, Lock, Semaphore
from typing import Any

import pytest

from app.cli import main
from app.endpoints import Api
from app.engine.workbench import Workbench
from app.requests import ExplainRequest, parsed
from app.service import explain as service
from app.service.explain_turns import BUSY
from app.settings import Settings
from app.web.explanation_view import explanation_part
from app.web.templating import part
from sae_core.bundle import Bundle
from sae_core.explain import PROMPT_VERSION, ChatClient, ExcerptChoice
from tests import tiny
from tests.chat_endpoint import Endpoint, by_rule, endpoint
from tests.unit.service_support import FIRING, OTHER, as_json, one_sentence

KEY = "sk-a-key-that-nobody-may-read"


@pytest.fixture
def model() -> Iterator[Endpoint]:
    with endpoint() as state:
        yield state


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes.duckdb"


def explain(
    capsys: pytest.CaptureFixture[str],
    bundle: Bundle,
    model: Endpoint,
    notes: Path,
    *options: str,
) -> tuple[int, str, str]:
    command = ["explain", "--endpoint", model.url, "--explainer", "rule", "--bundle"]
    rest = [str(bundle.path), "--notes", str(notes), "--device", "cpu", *options]
    status = main([*command, *rest])
    out, err = capsys.readouterr()
    return status, out, err


def api_with(bundle: Bundle, notes: Path, model: Endpoint | None = None, **settings: Any) -> Api:
    given: dict[str, Any] = {"device": "cpu", "dtype": "float32", "threads": 1}
    if model:
        given |= {"explain_endpoint": model.url, "explain_model": "rule"} | settings
    return Api(Workbench(Settings(**given, notes=str(notes)), bundle))


def test_the_cost_is_said_before_anything_is_asked(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Bundle, model: Endpoint, notes: Path
) -> None:
    options = ["--features", str(FIRING), "--price-in", "1000", "--price-out", "2000"]
    status, out, err = explain(capsys, tiny_bundle, model, notes, *options)
    assert (status, out) == (2, "")
    assert f"1 features of {tiny.SAE_NAME} are explained by rule at {model.url}" in err
    assert "That takes 1" in err
    assert "tokens sent and" in err
    assert "at these prices" in err
    assert "give --yes to start" in err
    # Choosing contexts takes a while: it shows how far it is before the cost is known.
    assert "1/1" in err.partition("That takes")[0].partition("choosing contexts")[2]
    assert model.requests == []


@pytest.mark.parametrize(("typed", "asks"), [("y\n", True), ("\n", False), ("no\n", False)])
def test_a_person_may_say_go_on(
    typed: str,
    asks: bool,
    capsys: pytest.CaptureFixture[str],
    tiny_bundle: Bundle,
    model: Endpoint,
    notes: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = io.StringIO(typed)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    status, _, err = explain(capsys, tiny_bundle, model, notes, "--features", str(FIRING))
    assert "Go on? [y/N]" in err
    assert bool(model.requests) is asks
    assert status == (0 if asks else 2)


def test_what_is_explained_is_kept_and_not_asked_again(
    capsys: pytest.CaptureFixture[str],
    tiny_bundle: Bundle,
    model: Endpoint,
    notes: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JUMPSCOPE_EXPLAIN_KEY", KEY)
    options = ["--features", str(FIRING), str(OTHER), "--yes", "--json"]
    status, out, err = explain(capsys, tiny_bundle, model, notes, *options)
    assert status == 0, err
    first = json.loads(out)
    assert [row["feature"] for row in first["explanations"]] == [FIRING, OTHER]
    assert all(row["text"].startswith("tokens: ") for row in first["explanations"])
    assert all(-1 <= row["correlation"] <= 1 for row in first["explanations"])
    assert set(model.keys) == {f"Bearer {KEY}"}
    assert KEY not in out + err
    assert KEY.encode() not in notes.read_bytes()
    asked = len(model.requests)
    status, out, err = explain(capsys, tiny_bundle, model, notes, *options)
    assert json.loads(out) == first
    assert len(model.requests) == asked
    assert "That takes" not in err
    # Another seed is another measurement.
    explain(capsys, tiny_bundle, model, notes, *options, "--seed", "1")
    assert len(model.requests) > asked


def test_a_run_that_was_broken_off_goes_on(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Bundle, model: Endpoint, notes: Path
) -> None:
    options = ["--features", str(FIRING), "--yes"]
    model.statuses = [0, 0, 0, 400]
    status, _, err = explain(capsys, tiny_bundle, model, notes, *options)
    assert status == 2
    assert "refuses the request" in err
    status, out, err = explain(capsys, tiny_bundle, model, notes, *options)
    assert status == 0, err
    assert "of which 3 are answered already" in err
    assert f"#{FIRING}" in out
    sent = [json.dumps(each["messages"]) for each in model.requests]
    assert len(sent) - len(set(sent)) == 1  # the refused one alone


def test_an_interrupt_says_that_the_command_goes_on(
    capsys: pytest.CaptureFixture[str],
    tiny_bundle: Bundle,
    model: Endpoint,
    notes: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(ChatClient, "complete", interrupted)
    status, out, err = explain(
        capsys, tiny_bundle, model, notes, "--features", str(FIRING), "--yes"
    )
    assert (status, out) == (130, "")
    assert "stopped: the same command goes on from here." in err


def test_who_leaves_ends_the_asking_and_what_was_answered_is_kept(
    tiny_bundle: Bundle, model: Endpoint, notes: Path
) -> None:
    workbench = api_with(tiny_bundle, notes, model).workbench
    given = {"feature": FIRING, "ask": True}
    stream = service.explain(workbench, parsed(ExplainRequest, given, workbench.settings))
    cost = next(stream)["cost"]
    assert next(stream)["done"] == 1
    stream.close()
    workbench.close()  # waits for the thread that asks
    early = len(model.requests)
    assert early < cost["requests"]
    answer = api_with(tiny_bundle, notes, model).explain(FIRING, ask=True)
    assert len(answer["explanations"]) == 1
    assert len(model.requests) == cost["requests"]


def test_a_feature_that_cannot_be_explained_is_said_beside_the_others(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Bundle, model: Endpoint, notes: Path
) -> None:
    def silent_first(messages: list[dict[str, str]]) -> str:
        return "" if len(model.requests) == 1 else by_rule(messages)

    model.rule = silent_first
    features = [str(FIRING), str(OTHER), str(tiny.DEAD)]
    status, out, err = explain(capsys, tiny_bundle, model, notes, "--features", *features, "--yes")
    assert status == 0, err
    assert f"rule gives no explanation of feature {FIRING}." in out
    assert f"feature {tiny.DEAD} has 0 distinct contexts" in out
    assert f"#{OTHER}" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--endpoint", "localhost:8000"], "the endpoint is no address"),
        (["--explainer", " "], "explainer is empty"),
        (["--count", "0"], "count is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--price-in", "-1"], "price_in is -1.0"),
        (["--features", "9999"], "There is no feature 9999"),
        (["--notes", "off"], "notes are off"),
        (["--sae", "none"], "There is no SAE"),
    ],
)
def test_a_mistake_is_one_line(
    options: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tiny_bundle: Bundle,
    model: Endpoint,
    notes: Path,
) -> None:
    status, out, err = explain(capsys, tiny_bundle, model, notes, "--yes", *options)
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert model.requests == []


def test_the_endpoint_asks_only_when_it_is_told_to(
    tiny_bundle: Bundle, model: Endpoint, notes: Path
) -> None:
    api = api_with(tiny_bundle, notes, model)
    before = api.explain(FIRING)
    assert model.requests == []
    assert before["explanations"] == []
    assert before["host"] == model.url.split("/")[2]
    after = api.explain(FIRING, ask=True)
    assert after["done"] == before["cost"]["requests"] == len(model.requests)
    [row] = after["explanations"]
    assert (row["model"], row["prompt_version"], row["seed"]) == ("rule", PROMPT_VERSION, 0)
    free = {"requests": 0, "tokens_in": 0, "tokens_out": 0}
    again = as_json(api.explain(FIRING, ask=True))
    assert again == as_json(after) | {"done": 0, "cost": free} == as_json(api.explain(FIRING))
    assert len(model.requests) == after["done"]
    digest = api.workbench.bundle.content_hash(tiny.SAE_NAME)
    label = api.workbench.notes.labels(digest)[FIRING]
    assert label.text == row["text"][:200]
    assert label.source_text == "explained by rule"


def test_without_an_endpoint_nothing_is_asked(tiny_bundle: Bundle, notes: Path) -> None:
    api = api_with(tiny_bundle, notes)
    answer = api.explain(FIRING)
    assert (answer["cost"], answer["explanations"], answer["model"]) == (None, [], "")
    with pytest.raises(ValueError, match="--explain-endpoint"):
        api.explain(FIRING, ask=True)
    with one_sentence("feature"):
        api.explain(9999)


def test_a_refusal_comes_back_as_a_sentence_without_the_endpoint_s_words(
    tiny_bundle: Bundle, model: Endpoint, notes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model.statuses = [401]
    model.refusal = b'{"error": {"message": "billing account 4711"}}'
    with pytest.raises(ValueError, match=r"^127\.0\.0\.1 refuses the request \(status 401\)\.$"):
        api_with(tiny_bundle, notes, model).explain(FIRING, ask=True)
    assert "billing account 4711" in caplog.text


def test_the_model_is_sent_no_more_requests_than_it_may(
    tiny_bundle: Bundle, model: Endpoint, notes: Path
) -> None:
    api = api_with(tiny_bundle, notes, model, max_explain_requests=20)
    api.explain(FIRING, ask=True)
    for _ in range(3):
        with pytest.raises(ValueError, match="the 20 requests that it may"):
            api.explain(OTHER, ask=True)
    assert len(model.requests) == 20
    # What was answered is kept: another start goes on from there.
    api_with(tiny_bundle, notes, model).explain(OTHER, ask=True)
    sent = [json.dumps(each["messages"]) for each in model.requests]
    assert len(sent) == len(set(sent))


def test_who_asks_and_leaves_does_not_ask_at_more_places(
    tiny_bundle: Bundle, model: Endpoint, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.service.explain_turns.WAIT_SECONDS", 0.1)
    answers, going_on, most = Event(), 0, 0
    counting, arrived = Lock(), Semaphore(0)

    def held(messages: list[dict[str, str]]) -> str:
        nonlocal going_on, most
        with counting:
            going_on += 1
            most = max(most, going_on)
        arrived.release()
        answers.wait(60)
        with counting:
            going_on -= 1
        return by_rule(messages)

    model.rule = held
    workbench = api_with(tiny_bundle, notes, model).workbench
    choices = [service.chosen_excerpts(workbench, tiny.SAE_NAME, n) for n in (FIRING, OTHER)]
    with ThreadPoolExecutor(6) as pool:

        def ask(choice: ExcerptChoice) -> str:
            asking = service.asked(workbench, tiny.SAE_NAME, choice)
            try:
                next(asking)
            except ValueError as error:
                return str(error)
            finally:
                asking.close()
            return ""

        said = [pool.submit(ask, choice) for choice in choices * 3]
        try:
            for _ in zip(range(4), as_completed(said, timeout=60), strict=False):
                """Whoever comes while two are asked is told so."""
            assert all(arrived.acquire(timeout=60) for _ in range(2))
        finally:
            answers.set()
    assert sorted(each.result() for each in said) == ["", "", *[BUSY] * 4]
    assert most == 2


def test_an_explanation_of_characters_that_cannot_be_shown_is_kept_without_them(
    tiny_bundle: Bundle, model: Endpoint, notes: Path
) -> None:
    model.rule = lambda messages: (
        "riv\x1bers \ud800" if "Active tokens" in messages[-1]["content"] else by_rule(messages)
    )
    api = api_with(tiny_bundle, notes, model)
    [row] = api.explain(FIRING, ask=True)["explanations"]
    assert row["text"] == "rivers ?"
    digest = api.workbench.bundle.content_hash(tiny.SAE_NAME)
    assert api.workbench.notes.labels(digest)[FIRING].text == "rivers ?"


@pytest.mark.parametrize("nothing", ["", "<think>I should think about"])
def test_a_model_that_said_nothing_is_asked_again(
    nothing: str, tiny_bundle: Bundle, model: Endpoint, notes: Path
) -> None:
    model.rule = lambda _messages: nothing
    api = api_with(tiny_bundle, notes, model)
    with pytest.raises(ValueError, match="gives no explanation"):
        api.explain(FIRING, ask=True)
    model.rule = by_rule
    [row] = api.explain(FIRING, ask=True)["explanations"]
    assert row["text"].startswith("tokens: ")


def test_the_feature_s_page_shows_what_is_kept(
    tiny_bundle: Bundle, model: Endpoint, notes: Path
) -> None:
    api = api_with(tiny_bundle, notes, model)
    model.rule = lambda messages: (
        "<img src=x> of rivers" if "Active tokens" in messages[-1]["content"] else by_rule(messages)
    )

    def html(of: Api) -> str:
        shown = explanation_part(of.workbench, of.feature(FIRING))
        return str(part("explanation.html", "explanations", shown))

    assert "No model has explained this feature yet." in html(api)
    assert "What would rule say?" in html(api)
    assert html(api_with(tiny_bundle, notes)) == ""
    api.explain(FIRING, ask=True)
    for each in (html(api), html(api_with(tiny_bundle, notes))):
        assert "&lt;img src=x&gt; of rivers" in each
        assert f"explained by <bdi>rule</bdi> (prompt v{PROMPT_VERSION}, 20" in each
        assert "detection" in each
        assert "What would" not in each
