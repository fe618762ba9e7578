"""Where a feature's page was opened from, as its address says it."""

import re

import pytest

from app.engine.workbench import Workbench
from app.requests import SearchRequest
from app.service.features import search_features
from app.settings import Settings
from app.web.list_query import PAGE_SIZE
from app.web.walk import walk_of
from sae_core.bundle import Bundle
from tests.unit.test_pages import ask


@pytest.fixture(scope="module")
def workbench(tiny_bundle: Bundle) -> Workbench:
    return Workbench(Settings(threads=1, notes="off"), tiny_bundle)


def numbers(workbench: Workbench, **asked: object) -> list[int]:
    request = SearchRequest.model_validate({"limit": 200, **asked})
    return [row["feature"] for row in search_features(workbench, request)["features"]]


@pytest.mark.parametrize("at", ["", "0", "1", "20", "60", "9999", "999999999", "x", "-3"])
def test_the_order_is_the_lists_wherever_the_address_says_it_stands(
    workbench: Workbench, at: str
) -> None:
    sae, order = workbench.sae_name(), numbers(workbench, sort="threshold", descending=False)
    assert len(order) > PAGE_SIZE
    for place in (1, 2, PAGE_SIZE, PAGE_SIZE + 1, len(order)):
        query = {"from": "features?sort=threshold&desc=0&page=9", "at": at}
        walk = walk_of(workbench, query, sae, order[place - 1])
        assert walk is not None
        assert (walk.place, walk.total) == (place, len(order))
        before, after = order[place - 2] if place > 1 else None, (order[place:] or [None])[0]
        assert walk.previous == (None if before is None else ("", before))
        assert walk.next == (None if after is None else ("", after))
        page = f"&page={-(-place // PAGE_SIZE)}" if place > PAGE_SIZE else ""
        assert walk.back == f"features?sort=threshold&desc=0{page}"
        step = walk.step(walk.next, 1, "a text")
        if after is None:
            assert step is None
        else:
            assert step is not None
            assert step["feature"] == after
            assert f"at={place + 1}" in step["href"]
            assert "page" not in step["href"]


def test_where_an_answer_lists_few_the_list_has_shorter_pages_and_is_walked_alike(
    tiny_bundle: Bundle,
) -> None:
    settings = Settings(device="cpu", check_tokens=0, notes="off", max_rows=20)
    workbench = Workbench(settings, tiny_bundle)
    sae = workbench.sae_name()
    order = [
        feature for skip in (0, 20, 40) for feature in numbers(workbench, limit=20, offset=skip)
    ]
    text = ask(workbench, "/features?page=2").text
    assert "21 to 40 of 64" in text
    assert re.findall(r'class="id">.*?>#(\d+)</a>', text) == [str(each) for each in order[20:40]]
    walk = walk_of(workbench, {"from": "features?page=2", "at": "21"}, sae, order[20])
    assert walk is not None
    assert (walk.place, walk.back) == (21, "features?page=2")
    assert walk.previous == ("", order[19])
    assert 'data-most-rows="20"' in ask(workbench, "/map").text


def test_an_order_in_the_address_is_walked_and_what_is_no_feature_left_out(
    workbench: Workbench,
) -> None:
    query = {"from": "find?positives=a+b", "walk": "5.x.3.999999.7"}
    walk = walk_of(workbench, query, workbench.sae_name(), 3)
    assert walk is not None
    assert (walk.place, walk.total, walk.previous, walk.next) == (2, 3, ("", 5), ("", 7))
    assert walk.back == "find?positives=a+b"
    assert walk.carried == {"from": "find?positives=a+b", "walk": "5.3.7"}
    gone = walk_of(workbench, query, workbench.sae_name(), 4)
    assert gone is not None
    assert (gone.place, gone.previous, gone.next) == (None, None, None)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "https://example.org/features",
        "//example.org/find",
        "javascript:alert(1)",
        "http://[",
        "../features",
        "features?sort=nothing",
        "features?min=2",
        "features?sae=none",
        "lists?list=none",
    ],
)
def test_an_address_that_means_nothing_is_no_origin(workbench: Workbench, origin: str) -> None:
    assert walk_of(workbench, {"from": origin}, workbench.sae_name(), 3) is None
