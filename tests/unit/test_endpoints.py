"""The endpoints' definitions: what is made from them, and the values that callers rely on."""

import ast
import html
import inspect
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from app.endpoints import BY_NAME, ENDPOINTS, Api, Endpoint, docstring, function_of
from app.engine.workbench import Workbench
from app.requests import EditRequest, SteerRequest, parameters_of, parsed
from app.settings import Settings
from app.web.api_view import api as api_page
from app.web.api_view import python_of
from app.web.pages import API_PAGE, PAGES, page_html
from sae_core.bundle import Bundle
from tests.unit.service_support import NO_PLAIN_WORDS

SIGNATURES: dict[str, dict[str, Any]] = {
    "feature": {"feature": None, "sae": ""},
    "search_features": {
        "query": "",
        "sae": "",
        "sort": "",
        "descending": True,
        "min_frequency": 0.0,
        "max_frequency": 1.0,
        "limit": 50,
        "offset": 0,
        "min_output_score": 0.0,
        "max_side_effect": None,
        "kept": "",
    },
    "notes": {
        "feature": None,
        "sae": "",
        "starred": "",
        "label": None,
        "verdict": "",
        "note": None,
    },
    "lists": {
        "list_id": "",
        "action": "",
        "name": "",
        "feature": None,
        "sae": "",
        "place": 0,
        "document": None,
        "source": "",
        "theirs": "",
        "features": None,
    },
    "saved": {"action": "", "name": "", "address": "", "saved_id": ""},
    "sql": {"query": "", "sae": "", "limit": 200},
    "prompt_features": {
        "text": "",
        "sae": "",
        "limit": 200,
        "messages": None,
        "uniformity": False,
    },
    "delta_loss": {"text": "", "sae": "", "messages": None},
    "test_text": {"text": "", "feature": None, "sae": ""},
    "tokens": {"text": "", "messages": None},
    "effects": {
        "text": "",
        "token": None,
        "sae": "",
        "target": None,
        "next_tokens": 8,
        "earlier": False,
        "estimates": True,
        "exact": 30,
        "joint": None,
        "limit": 200,
        "messages": None,
    },
    "compare": {
        "text": "",
        "other_text": "",
        "sae": "",
        "token": None,
        "limit": 200,
        "messages": None,
        "other_messages": None,
    },
    "patch": {
        "text": "",
        "other_text": "",
        "features": None,
        "sae": "",
        "token": None,
        "messages": None,
        "other_messages": None,
    },
    "splice": {"text": "", "states": None, "edits": None, "messages": None},
    "steer": {
        "prompt": "",
        "edits": None,
        "sae": "",
        "max_new_tokens": 60,
        "temperature": 0.8,
        "seed": 0,
        "messages": None,
    },
    "ladder": {
        "prompt": "",
        "edits": None,
        "sae": "",
        "max_new_tokens": 40,
        "temperature": 0.8,
        "seed": 0,
        "messages": None,
        "edit": 0,
        "strengths": None,
        "seeds": 3,
        "margin": 1.0,
    },
    "prove": {
        "prompt": "",
        "edits": None,
        "sae": "",
        "max_new_tokens": 60,
        "temperature": 0.8,
        "seed": 0,
        "messages": None,
        "edit": 0,
        "seeds": 6,
    },
    "explain": {"feature": None, "sae": "", "ask": False},
    "ratings": {
        "rater": "",
        "kind": "meaning",
        "saes": "",
        "per_sae": 20,
        "seed": 0,
        "at": None,
        "verdict": "",
        "grade": 0,
        "marked": None,
    },
    "check": {"sae": ""},
    "threshold": {
        "feature": None,
        "sae": "",
        "threshold": None,
        "measured": True,
        "penalty": None,
        "bandwidth": None,
        "tokens": 4000,
    },
    "map": {"sae": "", "features": None, "limit": 2**18},
    "find": {"positives": None, "negatives": None, "sae": "", "limit": 20},
    "co_activation": {"feature": None, "sae": "", "other_sae": "", "limit": 10, "tokens": 4000},
    "reproduce": {"asked": None},
}
"""Names, order and defaults of every endpoint's parameters: programs of other people hold them."""


@pytest.fixture(scope="module")
def workbench(tiny_bundle: Bundle) -> Workbench:
    return Workbench(Settings(threads=1), tiny_bundle)


def test_names_order_and_defaults_are_what_callers_know(workbench: Workbench) -> None:
    assert [endpoint.name for endpoint in ENDPOINTS] == list(SIGNATURES)
    for endpoint in ENDPOINTS:
        signature = inspect.signature(function_of(endpoint, workbench))
        given = {name: each.default for name, each in signature.parameters.items()}
        assert list(given.items()) == list(SIGNATURES[endpoint.name].items())


def test_an_edit_s_defaults_are_what_callers_know() -> None:
    edit = EditRequest(feature=5)
    assert (edit.mode, edit.strength, edit.value, edit.positions) == ("set", None, None, None)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_functions_say_what_the_definition_says(workbench: Workbench, endpoint: Endpoint) -> None:
    function = function_of(endpoint, workbench)
    assert function.__name__ == endpoint.name
    told = inspect.getdoc(function) or ""
    assert told == inspect.cleandoc(docstring(endpoint, workbench.settings))
    assert told.startswith(endpoint.summary)
    assert endpoint.returns in told
    for each in parameters_of(endpoint.request, workbench.settings):
        assert f"{each.name}: {each.sentence}" in told
        assert each.limits in told
    assert not NO_PLAIN_WORDS.search(endpoint.summary)
    assert inspect.isgeneratorfunction(function) == endpoint.streams
    assert inspect.iscoroutinefunction(function) == endpoint.waits


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_examples_are_requests(endpoint: Endpoint) -> None:
    assert parsed(endpoint.request, endpoint.example, Settings())


def test_what_streams_and_what_waits() -> None:
    streaming = [endpoint.name for endpoint in ENDPOINTS if endpoint.streams]
    assert streaming == ["steer", "ladder", "prove", "explain"]
    assert [endpoint.name for endpoint in ENDPOINTS if endpoint.waits] == ["check"]


def test_the_last_of_a_stream_is_the_answer(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grow(_workbench: Workbench, request: SteerRequest) -> Iterator[dict[str, Any]]:
        for length in range(3):
            yield {"seed": request.seed, "length": length}

    endpoint = BY_NAME["steer"]
    monkeypatch.setattr("app.endpoints.BY_NAME", {"steer": _with_answer(endpoint, grow)})
    answer = Api(workbench).steer("x", [{"feature": 5}], seed=3)
    assert answer == {"seed": 3, "length": 2}


def _with_answer(endpoint: Endpoint, answer: Any) -> Endpoint:
    from dataclasses import replace

    return replace(endpoint, answer=answer)


def fields_of(page: str) -> dict[str, dict[str, str]]:
    """Attributes of a page's controls by the name of the parameter."""
    controls = re.findall(r"<(?:input|select|textarea) ([^>]*)>", page)
    attributes = [dict(re.findall(r'([\w-]+)="([^"]*)"', each)) for each in controls]
    return {each["name"]: each for each in attributes if "name" in each}


def test_the_steering_form_has_the_definition_s_defaults_and_bounds(workbench: Workbench) -> None:
    page = next(each for each in PAGES if each.name == "steer")
    written = fields_of(page_html(workbench, page, {}, page.view(workbench, {})))
    for each in parameters_of(SteerRequest, workbench.settings):
        if each.name not in ("max_new_tokens", "temperature", "seed"):
            continue
        field = written[each.name]
        assert float(field["value"]) == each.default
        assert float(field["min"]) == each.least
        assert each.most is None or float(field["max"]) == each.most


def test_the_api_page_s_forms_have_the_definition_s_defaults(workbench: Workbench) -> None:
    page = page_html(workbench, API_PAGE, {}, api_page(workbench, {}))
    for endpoint in ENDPOINTS:
        (form,) = re.findall(rf'<form data-endpoint="{endpoint.name}".*?</form>', page, re.DOTALL)
        written = fields_of(form)
        for each in parameters_of(endpoint.request, workbench.settings):
            field = written[each.name]
            if isinstance(each.default, int | float) and not isinstance(each.default, bool):
                assert float(field["placeholder"]) == each.default
            if each.kind == "yes or no":
                (tag,) = re.findall(rf'<input [^>]*name="{each.name}"[^>]*>', form)
                assert (" checked" in tag) is each.default
            if each.choices:
                chosen = endpoint.example.get(each.name, each.default)
                assert f'value="{chosen}" selected' in form
            if each.name in endpoint.example and isinstance(endpoint.example[each.name], str):
                assert html.escape(endpoint.example[each.name]) in form


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_a_cell_of_python_gives_what_the_example_holds(endpoint: Endpoint) -> None:
    """Also what JSON writes otherwise: a switch is True, and not true."""
    flags = {each.name: each.default for each in parameters_of(endpoint.request, Settings())}
    switches = {name: value for name, value in flags.items() if isinstance(value, bool)}
    given = replace(endpoint, example={**switches, **endpoint.example})
    # The import, the client, then the call.
    asked = ast.parse(python_of(given, "http://127.0.0.1:7860")).body[2]
    assert isinstance(asked, ast.Assign)
    assert isinstance(asked.value, ast.Call)
    arguments = {each.arg: ast.literal_eval(each.value) for each in asked.value.keywords}
    assert arguments == {**given.example, "api_name": f"/{endpoint.name}"}
