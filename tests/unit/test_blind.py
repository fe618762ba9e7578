"""The blind test without a browser: what is asked, what is kept, and that nothing gives it away;
`jumpscope ratings`.
"""

import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Semaphore
from typing import Any

import pytest

from app.cli import main
from app.endpoints import Api
from app.engine.workbench import Workbench
from app.requests import RatingsRequest, parsed
from app.service import blind as service
from app.settings import Settings
from app.web.blind_view import blind
from app.web.pages import BLIND_PAGE, page_html
from sae_core.bundle import Bundle
from tests import tiny
from tests.unit.render_support import Document
from tests.unit.service_support import one_sentence

MEANING = {"rater": "Ann", "kind": "meaning", "per_sae": 4, "seed": 2}
INTRUDERS = MEANING | {"kind": "intruders"}


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes.duckdb"


@pytest.fixture
def api(tiny_bundle: Bundle, notes: Path) -> Api:
    return Api(Workbench(Settings(device="cpu", threads=1, notes=str(notes)), tiny_bundle))


def request(api: Api, **given: Any) -> RatingsRequest:
    return parsed(RatingsRequest, given, api.workbench.settings)


def html(api: Api, **query: Any) -> str:
    given = {name: str(value) for name, value in query.items()}
    workbench = api.workbench
    return page_html(workbench, BLIND_PAGE, given, blind(workbench, given))


def test_one_rates_on_from_where_one_left(api: Api) -> None:
    assert api.ratings(**MEANING)["next"] == 0
    for n, verdict in enumerate(("YES", "NO")):
        answer = api.ratings(**MEANING, at=n, verdict=verdict, grade=n + 1)
        assert (answer["rated"], answer["of"], answer["next"]) == (n + 1, 4, n + 1)
    # One changes one's mind, another rater begins.
    answer = api.ratings(**MEANING, at=0, verdict="MAYBE", grade=2)
    assert answer["rated"] == 2
    assert api.ratings(**MEANING | {"rater": " Ben "})["next"] == 0
    [sae] = answer["meaning"]["saes"]
    assert sae["sae"] == tiny.SAE_NAME
    assert {row["verdict"]: row["count"] for row in sae["verdicts"]} == {
        "YES": 0,
        "MAYBE": 1,
        "NO": 1,
    }
    for n in (2, 3):
        answer = api.ratings(**MEANING, at=n, verdict="YES", grade=3)
    assert answer["next"] is None
    assert "All 4 items are rated. Thank you, <bdi>Ann</bdi>" in html(api, **MEANING)


def test_another_seed_is_another_test(api: Api) -> None:
    every = {**MEANING, "per_sae": 200}
    of = api.ratings(**every)["of"]
    for n in range(2):
        api.ratings(**every, at=n, verdict="YES", grade=3)
    answer = api.ratings(**every | {"seed": 5})
    assert (answer["rated"], answer["of"], answer["next"]) == (0, of, 0)
    for n in range(of):
        answer = api.ratings(**every | {"seed": 5}, at=n, verdict="NO", grade=1)
    assert answer["meaning"]["ratings"] == of + 2
    assert api.ratings(**every)["rated"] == 2
    for seed, marked in ((7, [0, 1, 2]), (8, [3, 4, 5])):
        given = INTRUDERS | {"per_sae": 1, "seed": seed}
        api.ratings(**given, at=0, marked=marked)
        assert "of 3 intruders in 1 test;" in html(api, **given)


def test_one_plan_is_drawn_for_all_who_want_it_and_few_at_once(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing, go_on = Semaphore(0), Event()
    drawn: list[int] = []
    original = service.rating_plan

    def held(frequencies: Any, per_sae: int, seed: int, fits: Any) -> Any:
        drawn.append(seed)
        drawing.release()
        assert go_on.wait(60)
        return original(frequencies, per_sae, seed, fits)

    monkeypatch.setattr(service, "rating_plan", held)

    def plan(seed: int) -> Any:
        return service.plan_of(api.workbench, request(api, **INTRUDERS | {"seed": seed}))

    seeds = range(service.PLANS_AT_ONCE)
    with ThreadPoolExecutor(2 * len(seeds)) as pool:
        plans = [pool.submit(plan, seed) for seed in (*seeds, *seeds)]
        try:
            assert all(drawing.acquire(timeout=60) for _ in seeds)
            with pytest.raises(ValueError, match="try again soon"):
                plan(99)
        finally:
            go_on.set()
    assert sorted(drawn) == list(seeds)
    assert all(plans[n].result() == plans[n + len(seeds)].result() for n in seeds)
    assert plan(99)


def test_an_index_without_contexts_enough_is_said(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "has_intruder_tests", lambda _index: False)
    monkeypatch.setattr(service, "intruder_contexts", None)
    with one_sentence("kind"):
        api.ratings(**INTRUDERS)
    assert api.ratings(**MEANING)["of"] == 4


def test_named_intruders_are_counted(api: Api) -> None:
    contexts = service.item_contexts(api.workbench, request(api, **INTRUDERS), 0)
    places = [n for n, context in enumerate(contexts) if context.is_intruder]
    own = [n for n, context in enumerate(contexts) if not context.is_intruder]
    for marked, named in ((places, 3), ([*places[:1], *own[:2]], 1)):
        [sae] = api.ratings(**INTRUDERS, at=0, marked=marked)["intruders"]["saes"]
        assert (sae["named"], sae["of"]) == (named, 3)


def test_agreement_of_two_raters(api: Api) -> None:
    for n in range(4):
        api.ratings(**MEANING, at=n, verdict="YES" if n else "NO", grade=2)
        answer = api.ratings(**MEANING | {"rater": "Ben"}, at=n, verdict="YES", grade=2)
    assert answer["meaning"]["rated_by_several"] == 4
    [pair] = answer["meaning"]["kappas"]
    # One always says YES: what both say alike is what chance has.
    assert (pair["raters"], pair["features"], pair["kappa"]) == (["Ann", "Ben"], 4, 0)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"verdict": "YES", "grade": 1}, "rater"),
        ({"rater": "Ann", "at": 0, "verdict": "YES"}, "verdict"),
        ({"rater": "Ann", "at": 0, "grade": 2}, "verdict"),
        ({"rater": "Ann", "at": 99, "verdict": "YES", "grade": 1, "per_sae": 2}, "at"),
        ({"rater": "Ann", "at": 0, "kind": "intruders", "marked": [0, 1]}, "marked"),
        ({"rater": "Ann", "at": 0, "kind": "intruders", "marked": [0, 0, 1]}, "marked"),
        ({"rater": "Ann", "at": 0, "kind": "intruders", "marked": [0, 1, 12]}, "marked"),
        ({"rater": "Ann", "saes": "none"}, "saes"),
        ({"verdict": "PERHAPS"}, "verdict"),
    ],
)
def test_what_is_no_rating_is_refused(api: Api, given: dict[str, Any], field: str) -> None:
    with one_sentence(field):
        api.ratings(**{"per_sae": 4} | given)
    assert api.ratings()["meaning"]["ratings"] == api.ratings()["intruders"]["ratings"] == 0


def test_the_page_gives_nothing_away(api: Api) -> None:
    plan = service.plan_of(api.workbench, request(api, **MEANING))
    for given in (MEANING, INTRUDERS):
        page = html(api, **given)
        main_part = page.partition("<main")[2].partition("</main>")[0]
        assert tiny.SAE_NAME not in main_part
        assert "#" not in re.sub(r"&#\d+;", "", main_part)
        assert "Document" not in main_part
        assert "CC0-1.0" not in main_part
        shares = [float(value) for value in re.findall(r'data-v="([\d.]+)"', main_part)]
        assert shares
        assert max(shares) <= 1
    assert len({item.feature for item in plan}) == 4


def test_a_hostile_name_and_context_stay_text(api: Api) -> None:
    page = html(api, **MEANING | {"rater": "<img src=x onerror=alert(1)>"})
    assert not Document(page).all("img")


def test_contexts_keys_and_answers_stand_on_the_page(api: Api) -> None:
    page = Document(html(api, **MEANING))
    shortcuts = [each["aria-keyshortcuts"] for each in page.all("input") if "name" in each]
    assert Counter(shortcuts) == {"1": 2, "2": 2, "3": 2}
    marks = Document(html(api, **INTRUDERS)).all("input")
    assert [each["value"] for each in marks] == [str(n) for n in range(12)]
    form = html(api)
    assert 'name="rater"' in form
    assert 'action="blind"' in form


def test_a_wrong_address_is_a_sentence(api: Api) -> None:
    for query in ({"rater": "Ann", "at": "77"}, {"per_sae": "none"}, {"kind": "other"}):
        with pytest.raises(ValueError, match=r"\.$"):
            blind(api.workbench, query)


def test_the_command_prints_what_there_is(
    api: Api, tiny_bundle: Bundle, notes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*options: str) -> str:
        status = main(
            ["ratings", "--bundle", str(tiny_bundle.path), "--notes", str(notes), *options]
        )
        out, err = capsys.readouterr()
        assert status == 0, err
        return out

    assert said() == "there are no ratings: the app's page /blind asks for them.\n"
    assert json.loads(said("--json"))["meaning"]["saes"] == []
    for n in range(4):
        api.ratings(**MEANING, at=n, verdict="YES", grade=3)
    assert "agreement: no feature was rated by two raters." in said()
    api.ratings(**MEANING | {"rater": "Ben"}, at=1, verdict="MAYBE", grade=1)
    api.ratings(**INTRUDERS, at=0, marked=[0, 1, 2])
    out = said()
    assert "meaning: 5 ratings of 4 features by 2 raters (Ann, Ben)" in out
    assert re.search(rf"^{tiny.SAE_NAME} +all +5 +80% \[38%, 96%\]", out, re.MULTILINE)
    assert "Krippendorff's alpha" in out
    assert re.search(r"tests +named +share +chance", out)
    whole = json.loads(said("--json"))
    assert whole["meaning"] == json.loads(json.dumps(api.ratings()["meaning"]))
    assert "alpha" in whole["definitions"]


def test_the_plan_is_that_of_the_page(
    api: Api, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["ratings", "--bundle", str(tiny_bundle.path), "--plan", "--per-sae", "4"]
    assert main([*command, "--seed", "2", "--json"]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    plan = service.plan_of(api.workbench, request(api, **MEANING))
    assert [(each["sae"], each["feature"]) for each in items] == [
        (item.sae, item.feature) for item in plan
    ]
    assert main([*command, "--saes", "none"]) == 2
    assert "There is no SAE" in capsys.readouterr().err
