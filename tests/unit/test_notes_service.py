"""The endpoint of notes, and labels wherever an answer or a page names a feature."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.endpoints import Api
from app.requests import RequestError
from app.service.labels import with_labels
from app.web.pages import PAGES, page_html
from sae_core.bundle import Bundle
from sae_core.notes import Notes
from tests.unit.render_support import Document
from tests.unit.service_support import FIRING, OTHER, SETTINGS, api_of, as_json, one_sentence

LABEL = "the <b>sea</b> & ships"


@pytest.fixture(scope="module")
def shared(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Api:
    """One workbench for all tests: its model is loaded once."""
    path = tmp_path_factory.mktemp("notes") / "notes.duckdb"
    return api_of(tiny_bundle, replace(SETTINGS, notes=str(path)))


@pytest.fixture
def api(shared: Api) -> Iterator[Api]:
    """Nothing is kept before and after."""
    yield shared
    path = shared.workbench.notes.file.path
    assert path is not None
    path.unlink(missing_ok=True)


def text_of_page(api: Api, name: str, **query: str) -> str:
    page = next(each for each in PAGES if each.name == name)
    return page_html(api.workbench, page, query, page.view(api.workbench, query))


def test_what_is_kept_is_answered_and_what_is_left_out_stays(api: Api) -> None:
    before = as_json(api.notes(FIRING))
    assert (before["starred"], before["label"], before["verdict"]) == (False, None, "")
    assert before["can_keep"]
    api.notes(FIRING, starred="yes", label=LABEL, verdict="polysemantic", note="a\nb")
    after = as_json(api.notes(FIRING, note="c"))
    assert (after["starred"], after["label"], after["note"]) == (True, LABEL, "c")
    assert after["verdict"] == "polysemantic"
    assert [each["source"] for each in after["labels"]] == ["yours"]
    gone = api.notes(FIRING, starred="no", label="", verdict="none", note="")
    assert {key: gone[key] for key in before} == before


def test_one_that_is_wrong_keeps_nothing_of_the_others(api: Api) -> None:
    with one_sentence("label"):
        api.notes(FIRING, starred="yes", label="x" * 201)
    with one_sentence():
        api.notes(FIRING, starred="yes", label="a\x00b")
    with one_sentence("verdict"):
        api.notes(FIRING, starred="yes", verdict="good")
    with pytest.raises(RequestError, match="There is no feature"):
        api.notes(64, starred="yes")
    assert not api.notes(FIRING)["starred"]


def test_without_notes_it_reads_and_keeps_nothing(tiny_bundle: Bundle) -> None:
    api = api_of(tiny_bundle, replace(SETTINGS, notes="off"))
    assert not api.notes(FIRING)["can_keep"]
    with pytest.raises(ValueError, match="notes are off"):
        api.notes(FIRING, starred="yes")
    assert "data-own-notes" not in text_of_page(api, "features", feature=str(FIRING))


def test_a_damaged_file_is_said_and_pages_go_on(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "notes.duckdb"
    path.write_text("damaged")
    api = api_of(tiny_bundle, replace(SETTINGS, notes=str(path)))
    assert api.notes(FIRING)["problem"].startswith("notes.duckdb is damaged")
    page = text_of_page(api, "features", feature=str(FIRING))
    assert "is damaged" in page
    assert str(tmp_path) not in page + api.notes(FIRING)["problem"]
    assert api.search_features()["total"] == 64


def labels_in(part: object) -> set[tuple[int, str | None]]:
    """Every feature that an answer names with its label."""
    if isinstance(part, list):
        return {each for item in part for each in labels_in(item)}
    if not isinstance(part, dict):
        return set()
    inner = {each for value in part.values() for each in labels_in(value)}
    if "signature" in part:
        inner.add((part["feature"], part.get("label")))
    return inner


def test_every_answer_that_names_a_feature_has_its_label(api: Api) -> None:
    text = "The sea and the ship. <script>"
    fires = [row["feature"] for row in api.prompt_features(text)["features"]]
    named, other = fires[0], fires[1]
    api.notes(named, label=LABEL)
    answers = {
        "feature": api.feature(named),
        "search_features": api.search_features(limit=64),
        "prompt_features": api.prompt_features(text),
        "effects": api.effects(text, earlier=True),
        "compare": api.compare(text, text + " more"),
    }
    for name, answer in answers.items():
        labels = labels_in(as_json(answer))
        assert (named, LABEL) in labels, name
        assert (other, LABEL) not in labels, name
    neighbour = api.feature(named)["neighbours"][0]["feature"]
    api.notes(neighbour, label="beside")
    assert (neighbour, "beside") in labels_in(api.feature(named)["neighbours"])


def test_only_the_saes_that_an_answer_names_are_hashed(
    chat_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashing one from the hub fetches it; one that cannot be had is not asked for each time."""
    first, second = chat_bundle.sae_names[:2]
    api = api_of(chat_bundle, replace(SETTINGS, notes=str(tmp_path / "notes.duckdb")))
    asked: list[str] = []
    hashed = Bundle.content_hash

    def content_hash(bundle: Bundle, name: str) -> str:
        asked.append(name)
        if name == second:
            raise ValueError("it cannot be reached.")
        return hashed(bundle, name)

    monkeypatch.setattr(Bundle, "content_hash", content_hash)
    row = {"feature": 1, "signature": "s"}
    assert with_labels(api.workbench, row) is row
    assert asked == []  # nothing is kept
    Notes(tmp_path / "notes.duckdb").set_label(hashed(chat_bundle, first), 1, "of the first")
    assert with_labels(api.workbench, {"rows": [row, row]})["rows"][0]["label"] == "of the first"
    assert set(asked) == {first}
    asked.clear()
    of_second = {"sae": second, "rows": [row]}
    for _ in range(3):
        assert with_labels(api.workbench, of_second) is of_second
    assert asked == [second]


def test_an_open_index_is_searched_while_its_weights_cannot_be_had(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = api_of(tiny_bundle, replace(SETTINGS, notes=str(tmp_path / "notes.duckdb")))
    api.feature(FIRING)
    Notes(tmp_path / "notes.duckdb").set_star("another", 1, True)

    def content_hash(bundle: Bundle, name: str) -> str:
        raise ValueError("it cannot be reached.")

    monkeypatch.setattr(Bundle, "content_hash", content_hash)
    assert api.search_features(query=f"#{FIRING}")["total"] == 1
    assert api.search_features(query="e")["total"] > 0


def test_an_edit_is_answered_as_it_was_sent(api: Api) -> None:
    """Its settings go back to repeat the run."""
    api.notes(FIRING, label=LABEL)
    edits = [{"feature": FIRING, "mode": "set", "value": 4.0}]
    run = api.steer("The sea", edits, max_new_tokens=1)
    assert "label" not in run["settings"]["edits"][0]
    api.steer(**run["settings"])


def test_labels_are_those_of_the_sae_that_a_part_names(chat_bundle: Bundle, tmp_path: Path) -> None:
    api = api_of(chat_bundle, replace(SETTINGS, notes=str(tmp_path / "notes.duckdb")))
    first, second = chat_bundle.sae_names[:2]
    api.notes(1, sae=first, label="of the first")
    api.notes(1, sae=second, label="of the second")
    row = {"feature": 1, "signature": "s"}
    answer = {
        "rows": [row],
        "of_second": {"sae": second, "rows": [row]},
    }
    labelled = with_labels(api.workbench, answer)
    assert labelled["rows"][0]["label"] == "of the first"
    assert labelled["of_second"]["rows"][0]["label"] == "of the second"
    proof = {"target": {"sae": second}, "arms": [row, {"feature": None, "signature": None}]}
    labelled = with_labels(api.workbench, proof)
    assert labelled["arms"] == [{**row, "label": "of the second"}, proof["arms"][1]]
    assert "label" not in row


def test_the_page_of_a_feature_has_its_label_above_its_signature(api: Api) -> None:
    signature = api.feature(FIRING)["signature"]
    plain = Document(text_of_page(api, "features", feature=str(FIRING)))
    assert "hidden" in plain.all("p", **{"class": "own-signature"})[0]
    api.notes(FIRING, label=LABEL, starred="yes", verdict="unclear", note="<i>")
    html = text_of_page(api, "features", feature=str(FIRING))
    page = Document(html)
    assert "the &lt;b&gt;sea&lt;/b&gt; &amp; ships" in html
    assert "<b>sea</b>" not in html
    assert f"#{FIRING} the &lt;b&gt;" in html.partition("</title>")[0]
    assert "hidden" not in page.all("p", **{"class": "own-signature"})[0]
    assert signature.split(" ")[0] in html
    assert 'value="unclear" selected' in html
    assert 'aria-pressed="true"' in html
    assert "&lt;i&gt;</textarea>" in html


def test_lists_show_the_label(api: Api) -> None:
    api.notes(FIRING, label="ships at sea")
    assert "ships at sea" in text_of_page(api, "features", q=str(FIRING))
    highlights = text_of_page(api, "overview")
    api.notes(OTHER, label="")
    if f'feature={FIRING}"' in highlights:
        assert "ships at sea" in highlights


def test_the_list_shows_only_what_is_kept_of_a_kind(api: Api) -> None:
    def ids(kept: str, **asked: object) -> list[int]:
        answer = api.search_features(kept=kept, **asked)
        rows = [row["feature"] for row in answer["features"]]
        assert answer["total"] == len(rows)
        return rows

    assert ids("starred") == ids("labelled") == ids("noted") == []
    api.notes(FIRING, starred="yes")
    api.notes(OTHER, label="a label")
    api.notes(OTHER, note="a note")
    assert ids("starred") == ids("starred", query=str(FIRING)) == [FIRING]
    assert ids("labelled") == ids("noted") == [OTHER]
    assert ids("starred", query=f"#{OTHER}") == []
    rows = api.search_features(limit=64)["features"]
    assert {row["feature"] for row in rows if row["starred"]} == {FIRING}
    api.notes(FIRING, starred="no")
    assert ids("starred") == []


def test_a_row_of_the_list_has_its_star_and_the_address_the_filter(api: Api) -> None:
    api.notes(FIRING, starred="yes")
    page = Document(text_of_page(api, "features", sort="id", desc="0"))
    stars = {star["data-row-star"]: star for star in page.all("button", **{"class": "row-star"})}
    assert len(stars) == 50
    pressed = {name for name, star in stars.items() if star["aria-pressed"] == "true"}
    assert pressed == {str(FIRING)}
    assert stars[str(FIRING)]["aria-label"] == f"Star #{FIRING}"
    filtered = Document(text_of_page(api, "features", kept="starred"))
    assert len(filtered.all("button", **{"class": "row-star"})) == 1
    assert [o["value"] for o in filtered.all("option") if "selected" in o][1:] == ["starred"]
    assert filtered.all("a", href="features?sort=max_act&kept=starred")
    assert "must be" in text_of_page(api, "features", kept="everything")


def test_without_notes_the_list_has_no_stars(tiny_bundle: Bundle) -> None:
    off = api_of(tiny_bundle, replace(SETTINGS, notes="off"))
    page = Document(text_of_page(off, "features"))
    assert not page.all("button", **{"class": "row-star"})
    assert not page.all("select", name="kept")
