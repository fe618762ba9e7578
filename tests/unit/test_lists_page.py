"""Lists over the endpoint, on their page, and as files that are read without the app."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.endpoints import Api
from app.requests import RequestError
from app.service import lists as service
from app.web.list_files import list_html, list_json
from app.web.pages import LISTS_PAGE, PAGES, page_html
from sae_core.bundle import Bundle
from sae_core.index import Index
from sae_core.notes import ListedFeature
from tests.unit.render_support import Document
from tests.unit.service_support import FIRING, OTHER, SETTINGS, api_of, as_json
from tests.unit.test_pages import ask

NAME = "the <b>sea</b> & ships"


@pytest.fixture(scope="module")
def shared(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Api:
    """One workbench for all tests: nothing here loads its model."""
    path = tmp_path_factory.mktemp("lists") / "notes.duckdb"
    return api_of(tiny_bundle, replace(SETTINGS, notes=str(path), check_tokens=0))


@pytest.fixture
def api(shared: Api) -> Iterator[Api]:
    """Nothing is kept before and after."""
    yield shared
    path = shared.workbench.notes.file.path
    assert path is not None
    path.unlink(missing_ok=True)


def html_of(api: Api, **query: str) -> str:
    return page_html(api.workbench, LISTS_PAGE, query, LISTS_PAGE.view(api.workbench, query))


def made(api: Api, *features: int) -> str:
    list_id = api.lists(action="make", name=NAME)["list"]["id"]
    for feature in features:
        api.lists(list_id, "add", feature=feature)
    return list_id


def numbers(answer: dict[str, Any]) -> list[int]:
    return [each["feature"] for each in answer["list"]["features"]]


def test_a_list_is_made_filled_put_in_order_and_removed(api: Api) -> None:
    empty = api.lists()
    assert (empty["lists"], empty["list"], empty["can_keep"]) == ([], None, True)
    list_id = made(api, FIRING, OTHER)
    api.notes(FIRING, label="ships", verdict="unclear", note="n")
    answer = as_json(api.lists(list_id))
    assert answer["lists"] == [{"id": list_id, "name": NAME, "size": 2}]
    first, second = answer["list"]["features"]
    known = as_json(api.feature(FIRING))
    assert (first["label"], first["verdict"], first["note"]) == ("ships", "unclear", "n")
    assert (first["signature"], second["label"]) == (known["signature"], None)
    strongest = known["groups"][0]["contexts"][0]
    assert first["context"] == {key: strongest[key] for key in first["context"]}
    assert strongest["value"] == pytest.approx(known["max_act"], rel=0.02)
    assert numbers(api.lists(list_id, "move", feature=OTHER, place=0)) == [OTHER, FIRING]
    assert numbers(api.lists(list_id, "take", feature=OTHER)) == [FIRING]
    assert api.lists(list_id, "rename", name="new")["list"]["name"] == "new"
    assert api.lists(list_id, "remove")["lists"] == []
    assert api.notes(FIRING)["label"] == "ships"


def test_a_list_reads_each_context_once_and_keeps_no_more_than_it_may(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = api.workbench.sources.index(api.workbench.sae_name())
    read: list[int] = []
    whole = index.strongest_contexts
    monkeypatch.setattr(index, "strongest_contexts", lambda ids: read.extend(ids) or whole(ids))
    service._GLIMPSES.pop(index, None)
    monkeypatch.setattr(service, "CACHED_FEATURES", 2)
    list_id = made(api, FIRING, OTHER)
    read.clear()
    first = api.lists(list_id)
    assert (
        api.lists(list_id, "move", feature=OTHER, place=0)["list"]["features"]
        == (first["list"]["features"][::-1])
    )
    assert read == []
    api.lists(list_id, "add", feature=OTHER + 1)
    assert read == [OTHER + 1]
    assert len(service._GLIMPSES[index]) == 2


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"list_id": "none"}, "list_id"),
        ({"list_id": "none", "action": "take", "feature": 1}, "list_id"),
        ({"action": "add"}, "feature"),
        ({"action": "add", "feature": 64}, "feature"),
        ({"action": "add", "feature": 1, "sae": "none"}, "sae"),
        ({"action": "merge"}, "document"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(api: Api, asked: dict, field: str) -> None:
    with pytest.raises(RequestError) as error:
        api.lists(**asked)
    assert error.value.field == field


def test_a_list_holds_what_the_bundle_has_not_got(api: Api) -> None:
    list_id = made(api, FIRING)
    foreign = ListedFeature(sae_hash="f" * 64, sae="<elsewhere>", feature=FIRING)
    api.workbench.notes.lists.add(list_id, foreign)
    api.workbench.notes.set_label("f" * 64, FIRING, "from there")
    api.notes(FIRING, label="from here")
    rows = api.lists(list_id)["list"]["features"]
    assert [(each["here"], each["label"]) for each in rows] == [
        (True, "from here"),
        (False, "from there"),
    ]
    assert "context" not in rows[1]
    page = html_of(api, list=list_id)
    assert "&lt;elsewhere&gt; (not in this bundle)" in page.replace("<bdi>", "").replace(
        "</bdi>", ""
    )
    assert page.count(f'href="features?feature={FIRING}"') == 1
    assert numbers(api.lists(list_id, "take", feature=FIRING, sae="f" * 64)) == [FIRING]
    assert api.lists(list_id)["list"]["features"][0]["here"]


def test_the_page_escapes_names_and_shows_the_strongest_context(api: Api) -> None:
    list_id = made(api, FIRING, OTHER)
    api.notes(FIRING, label="<i>x</i>", note="<script>")
    html = html_of(api, list=list_id)
    page = Document(html)
    assert "<b>sea" not in html
    assert "<i>x" not in html
    assert "&lt;script&gt;" in html
    assert len(page.all("li", **{"data-feature": str(FIRING)})) == 1
    tokens = page.all("div", **{"class": "tokens"})
    assert [each["aria-label"] for each in tokens] == [
        f"Strongest context of #{FIRING}",
        f"Strongest context of #{OTHER}",
    ]
    moves = [each for each in page.all("button") if "data-move" in each]
    disabled = [(each["data-move"], "aria-disabled" in each) for each in moves]
    assert disabled == [("-1", True), ("1", False), ("-1", False), ("1", True)]
    everything = html_of(api)
    assert "2 features" in everything
    assert Document(everything).all("a", href=f"lists?list={list_id}")


def test_a_feature_s_page_says_which_lists_hold_it(api: Api) -> None:
    list_id, other = made(api, FIRING), api.lists(action="make", name="other")["list"]["id"]
    [features] = [each for each in PAGES if each.name == "features"]
    query = {"feature": str(FIRING)}
    shown = page_html(api.workbench, features, query, features.view(api.workbench, query))
    boxes = {
        box["data-in-list"]: "checked" in box
        for box in Document(shown).all("input", type="checkbox")
        if "data-in-list" in box
    }
    assert boxes == {list_id: True, other: False}


def test_the_files_of_a_list_are_downloaded_and_never_drawn_by_the_app(api: Api) -> None:
    list_id = made(api, FIRING)
    for kind in ("json", "html"):
        answer: httpx.Response = ask(api.workbench, f"/lists.{kind}?list={list_id}")
        assert answer.status_code == 200
        name = f'attachment; filename="the-b-sea-b-ships.{kind}"'
        assert answer.headers["content-disposition"] == name
        assert answer.headers["cache-control"] == "no-store"
        gone = ask(api.workbench, f"/lists.{kind}?list=none")
        assert (gone.status_code, gone.headers["content-type"][:10]) == (404, "text/plain")
    assert ask(api.workbench, "/lists?list=none").status_code == 404
    assert ask(api.workbench, f"/lists?list={list_id}").status_code == 200


def test_the_json_of_a_list_comes_back_with_its_conflicts(api: Api) -> None:
    list_id = made(api, FIRING, OTHER)
    api.notes(FIRING, label="theirs")
    file = json.loads(list_json(api.workbench, list_id))
    api.notes(FIRING, label="mine")
    answer = as_json(api.lists(action="merge", document=file, source="b.json"))
    [conflict] = answer["conflicts"]
    assert (conflict["what"], conflict["yours"], conflict["theirs"]) == ("label", "mine", "theirs")
    assert api.notes(FIRING)["label"] == "mine"
    theirs = conflict["key"]
    again = api.lists(action="merge", document=file, source="b.json", theirs=theirs)
    assert again["conflicts"] == []
    assert api.notes(FIRING)["label"] == "theirs"
    with pytest.raises(ValueError, match="is no list of features"):
        api.lists(action="merge", document={"a": 1})


def test_the_html_of_a_list_needs_nothing_else(api: Api) -> None:
    list_id = made(api, FIRING)
    api.notes(FIRING, label="<i>x</i>", note="a\nb")
    html = list_html(api.workbench, list_id)
    page = Document(html)
    assert not page.all("script")
    assert not [each for each in page.all("link") if not each["href"].startswith("data:")]
    assert not page.all("img")
    assert not page.all("a")
    assert "url(" not in html
    assert "@import" not in html
    assert not [name for _, attributes in page.elements for name in attributes if name[:2] == "on"]
    assert "prefers-color-scheme:dark" in html
    assert "&lt;i&gt;x&lt;/i&gt;" in html
    assert api.workbench.bundle.content_hash(api.workbench.sae_name()) in html
    assert "Made by Jumpscope" in html
    [tokens] = page.all("div", **{"class": "tokens"})
    assert "tabindex" not in tokens
    strongest = api.feature(FIRING)["groups"][0]["contexts"][0]
    assert strongest["tokens"][strongest["peak"]].strip() in page.text
    assert 'style="--a:1.000"' in html


def test_pages_are_saved_listed_and_removed(api: Api) -> None:
    assert api.saved()["saved"] == []
    saved = api.saved(action="save", name=NAME, address="prompt?text=The+sea&token=2")
    [one] = saved["saved"]
    assert (one["name"], one["kind"]) == (NAME, "prompt")
    html = html_of(api)
    assert Document(html).all("a", href="prompt?text=The+sea&token=2")
    assert "<b>sea" not in html
    assert api.saved(action="remove", saved_id=one["id"])["saved"] == []
    with pytest.raises(ValueError, match="can be saved"):
        api.saved(action="save", name="x", address="https://example.org")
    for name in ("prompt", "steer"):
        [page] = [each for each in PAGES if each.name == name]
        drawn = page_html(api.workbench, page, {}, page.view(api.workbench, {}))
        assert Document(drawn).all("form", **{"class": "line"})
        assert "data-save-page" in drawn


def test_without_notes_nothing_offers_to_keep(tiny_bundle: Bundle) -> None:
    off = api_of(tiny_bundle, replace(SETTINGS, notes="off"))
    assert "notes are off" in html_of(off)
    assert "data-list-form" not in html_of(off)
    [prompt] = [each for each in PAGES if each.name == "prompt"]
    drawn = page_html(off.workbench, prompt, {}, prompt.view(off.workbench, {}))
    assert "data-save-page" not in drawn


def test_a_damaged_file_is_said_on_the_page(api: Api) -> None:
    path = api.workbench.notes.file.path
    assert path is not None
    path.write_text("damaged")
    said = [html_of(api), *(answer["problem"] for answer in (api.lists(), api.saved()))]
    for each in said:
        assert "notes.duckdb is damaged" in each
        assert str(path.parent) not in each  # where files lie is nobody's business


def test_several_features_are_added_by_one_request_all_or_none(api: Api) -> None:
    list_id = made(api, OTHER)
    added = api.lists(list_id, "add", features=[FIRING, OTHER, 3, FIRING])
    assert numbers(added) == [OTHER, FIRING, 3], "what is in it stays where it is"
    last = api.workbench.sources.d_sae(api.workbench.sae_name())
    with pytest.raises(RequestError, match="There is no feature") as raised:
        api.lists(list_id, "add", features=[5, last])
    assert raised.value.field == "features.1"
    with pytest.raises(RequestError, match="Name at least one feature"):
        api.lists(list_id, "add", features=[])
    assert numbers(api.lists(list_id)) == [OTHER, FIRING, 3]


def test_a_files_name_that_cannot_be_shown_is_no_source_of_labels(api: Api) -> None:
    list_id = made(api, FIRING)
    file = json.loads(list_json(api.workbench, list_id))
    file["features"][0]["label"] = "theirs"
    for hidden in ("\x1b[31m", "\x9b31m", "\x7f", "\0"):
        with pytest.raises(ValueError, match="the source of a label has characters that cannot"):
            api.lists(action="merge", document=file, source=f"a{hidden}.json")
    assert api.lists(list_id)["list"]["features"][0]["label"] is None
    api.lists(action="merge", document=file, source=" two\n words ")
    [label] = api.notes(FIRING)["labels"]
    assert label["source"] == "imported from two words"


def test_a_long_list_is_read_in_one_query_and_says_what_each_features_page_says(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = api.workbench.index()
    features = list(range(min(60, api.workbench.sources.d_sae(api.workbench.sae_name()))))
    list_id = made(api)
    api.lists(list_id, "add", features=features)
    asked = []
    rows = Index._rows

    def counted(self: Index, statement: str, *arguments: Any) -> Any:
        asked.append(statement)
        return rows(self, statement, *arguments)

    monkeypatch.setattr(Index, "_rows", counted)
    service._GLIMPSES.clear()
    shown = api.lists(list_id)["list"]["features"]
    assert len([each for each in asked if "FROM pages" in each]) == 1
    assert len(asked) == 1, "each feature by itself"
    monkeypatch.undo()
    for each in shown:
        known = index.feature(each["feature"])
        contexts = known["groups"][0]["contexts"]
        context = each["context"]
        assert bool(context) == bool(contexts and known["max_act"] > 0)
        assert each["signature"] == known["signature"]
        if context:
            assert context == {key: contexts[0][key] for key in context}
    assert any(each["context"] for each in shown)


def test_a_list_asks_for_the_weights_of_its_own_saes_alone(
    chat_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another's might have to be fetched; those that cannot be had are tried once."""
    notes = str(tmp_path / "notes.duckdb")
    api = api_of(chat_bundle, replace(SETTINGS, notes=notes, check_tokens=0))
    first, second = chat_bundle.sae_names
    list_id = api.lists(action="make", name="of the second")["list"]["id"]
    api.lists(list_id, "add", feature=1, sae=second)
    api.workbench.notes.lists.add(list_id, ListedFeature(sae_hash="0" * 64, sae="x", feature=1))
    asked = []
    content_hash = Bundle.content_hash

    def counted(bundle: Bundle, name: str) -> str:
        asked.append(name)
        if name == first:
            raise ValueError("it cannot be fetched.")
        return content_hash(bundle, name)

    monkeypatch.setattr(Bundle, "content_hash", counted)
    for _ in range(2):
        shown = api.lists(list_id)["list"]["features"]
        assert [(each["sae"], each["here"]) for each in shown] == [(second, True), ("x", False)]
    assert asked.count(first) == 1
    api.lists(list_id, "take", feature=1, sae="0" * 64)
    asked.clear()
    assert service.list_order(api.workbench, list_id) == [(second, 1)]
    assert asked == [second]
