"""Export in a browser: files, pictures and cells of what each view shows."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Site

Opened = Callable[..., Page]

LONG = 90_000  # ms
SVG = "{http://www.w3.org/2000/svg}"


def taken(page: Page, button: str) -> bytes:
    """The file that a button of the dialog, named exactly so, gives."""
    with page.expect_download(timeout=LONG) as download:
        page.get_by_role("button", name=button, exact=True).click()
    return Path(download.value.path()).read_bytes()


def exported(page: Page) -> Page:
    """The page with its dialog open."""
    page.locator("#export").click()
    expect(page.locator("#taken")).to_be_visible()
    return page


def rows_of(file: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.decode())))


def cell_of(page: Page, name: str) -> str:
    """The cell of Python that the dialog shows for an answer."""
    page.get_by_role("button", name=f"Python: {name}", exact=True).click()
    return page.locator("#taken pre").inner_text(timeout=LONG)


def run(cell: str) -> dict[str, Any]:
    """The names that a cell has made; its last line must be one of them, or a value."""
    names: dict[str, Any] = {}
    exec(cell, names)
    return names


def texts_of(svg: bytes) -> str:
    return " ".join(each.text or "" for each in ElementTree.fromstring(svg).iter(f"{SVG}text"))


def test_all_features_that_match_and_not_only_those_of_the_page(site: Site, opened: Opened) -> None:
    query = {"q": "said", "min": "0.001"}
    page = exported(opened(f"{site.url}/features?{urlencode(query)}"))
    rows = rows_of(taken(page, "CSV: All features that match"))
    answer = site.api.search_features(query="said", min_frequency=0.001, limit=200)
    assert len(rows) == answer["total"] > 3
    assert {int(row["feature"]) for row in rows} == {each["feature"] for each in answer["features"]}
    by_feature = {each["feature"]: each["frequency"] for each in answer["features"]}
    assert all(float(row["frequency"]) == by_feature[int(row["feature"])] for row in rows)
    shown = rows_of(taken(page, "CSV: Features"))
    assert [row["feature"] for row in shown] == [row["feature"] for row in rows][: len(shown)]
    names = run(cell_of(page, "All features that match"))
    assert len(names["rows"]) == answer["total"]


def test_a_file_that_leaves_rows_out_says_so(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/features")

    def fewer(route: Route) -> None:
        script = route.fetch()
        route.fulfill(response=script, body=script.text().replace("20_000", "150"))

    page.route("**/export-answers.js*", fewer)
    exported(page)
    total = site.api.search_features(limit=1)["total"]
    for form in ("CSV", "JSON"):
        file = taken(page, f"{form}: All features that match")
        rows = rows_of(file) if form == "CSV" else json.loads(file)["answer"]["features"]
        row = page.locator("#taken li").filter(has_text="All features that match")
        expect(row).to_contain_text(f"The file holds the first {len(rows):,} of {total:,}.")
        assert 150 <= len(rows) < total


def test_a_features_pictures_tables_and_cell(site: Site, opened: Opened) -> None:
    page = exported(opened(f"{site.url}/features?feature=12", scheme="dark"))
    digest = site.workbench.bundle.content_hash(site.workbench.sae_name())
    svg = taken(page, "SVG: Before the threshold")
    assert "threshold" in texts_of(svg)
    assert digest in texts_of(svg).replace(" ", "")
    assert "/features?feature=12" in texts_of(svg).replace(" ", "")
    # In the light colours, and in plain ones that every viewer knows.
    assert b"#fbfbfa" in svg
    for foreign in (b"var(", b"light-dark", b"color-mix", b"foreignObject"):
        assert foreign not in svg
    bars = list(ElementTree.fromstring(svg).iter(f"{SVG}rect"))
    answer = site.api.feature(feature=12)
    assert len(bars) > len(answer["pre_activation_histogram"]["counts"])
    assert page.locator("html").get_attribute("data-theme") == "system"
    png = taken(page, "PNG: Before the threshold")
    assert png.startswith(b"\x89PNG")
    assert len(png) > 3000

    whole = json.loads(taken(page, "JSON: This feature"))
    assert whole["content_hash"] == digest
    assert whole["answer"]["neighbours"] == answer["neighbours"]
    page.get_by_role("button", name="CSV: This feature", exact=True).click()
    rows = rows_of(taken(page, "CSV: neighbours"))
    assert [int(row["feature"]) for row in rows] == [n["feature"] for n in answer["neighbours"]]
    contexts = rows_of(taken(page, "CSV: groups.contexts"))
    assert len(contexts) == sum(len(group["contexts"]) for group in answer["groups"])
    names = run(cell_of(page, "This feature"))
    assert names["neighbours_table"]["feature"].tolist() == [
        n["feature"] for n in answer["neighbours"]
    ]
    assert len(names["groups_contexts_table"]) == len(contexts)


def test_a_heat_map_holds_the_words_and_the_mark_of_what_is_left_out(
    site: Site, opened: Opened
) -> None:
    page = exported(opened(f"{site.url}/features?feature=12"))
    name = page.locator("#taken .export-name").filter(has_text="Strongest").first.inner_text()
    words = texts_of(taken(page, f"SVG: {name}"))
    first = page.locator("details.group").first
    shown = first.locator(".tokens .peak").first.inner_text()
    assert shown.strip() in words
    assert "…" in words
    # What is folded away is not on the picture.
    folded = first.locator("details.rest .title").first.text_content()
    assert folded
    assert folded.split(" · ")[0].split()[0] not in texts_of(taken(page, "SVG: When it fires"))


def test_effects_are_those_of_the_chosen_token(site: Site, opened: Opened) -> None:
    text = "The old man walked into the room."
    page = opened(f"{site.url}/prompt?{urlencode({'text': text, 'token': 4})}")
    expect(page.locator(".next-bars")).to_be_visible(timeout=LONG)
    exported(page)
    whole = json.loads(taken(page, "JSON: What comes next"))
    assert whole["asked"]["token"] == 4
    assert whole["answer"]["effects"]
    bars = taken(page, "SVG: What comes next: Likeliest next tokens")
    assert "%" in texts_of(bars)
    names = run(cell_of(page, "What comes next"))
    told = [round(each["kl"], 5) for each in whole["answer"]["effects"]]
    assert [
        round(each, 5)
        for each in names["answer"]["effects"] and names["effects_table"]["kl"].tolist()
    ] == pytest.approx(told, abs=1e-4)
    tokens = rows_of(taken_table(page, "This text", "tokens"))
    assert "".join(row["text"] for row in tokens[1:]) == text


def taken_table(page: Page, answer: str, table: str) -> bytes:
    """One of several tables of an answer."""
    page.get_by_role("button", name=f"CSV: {answer}", exact=True).click()
    return taken(page, f"CSV: {table}")


def test_the_texts_of_a_steering(site: Site, opened: Opened) -> None:
    edits = json.dumps([{"feature": 12, "mode": "set", "strength": 1}])
    values = {"prompt": "The old man", "edits": edits, "max_new_tokens": 6}
    page = opened(f"{site.url}/steer?{urlencode(values)}")
    page.locator("#generate").click()
    expect(page.locator("#run-status")).to_contain_text("Done", timeout=LONG)
    exported(page)
    whole = json.loads(taken(page, "JSON: Steering"))["answer"]
    texts = taken(page, "Texts: Steering").decode()
    steered = "".join(token["text"] for token in whole["steered"])
    assert texts.startswith("# as it is\n\nThe old man")
    assert f"# steered\n\nThe old man{steered}\n" in texts


@pytest.mark.parametrize("path", ["", "sql?q=SELECT+feature+FROM+features+LIMIT+3"])
def test_other_views_give_their_tables(site: Site, opened: Opened, path: str) -> None:
    page = opened(f"{site.url}/{path}")
    expect(page.locator("main table:visible, main dl.stats").first).to_be_visible(timeout=LONG)
    exported(page)
    button = page.locator("#taken button").filter(has_text="CSV").last
    assert rows_of(taken(page, button.get_attribute("aria-label") or ""))


@pytest.mark.parametrize("phone", [False, True])
def test_the_dialog_is_left_by_keyboard_and_the_focus_comes_back(
    site: Site, opened: Opened, phone: bool
) -> None:
    page = opened(f"{site.url}/features?feature=12", phone=phone)
    page.locator("#export").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#taken")).to_be_visible()
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0
    page.keyboard.press("Escape")
    expect(page.locator("#taken")).to_be_hidden()
    assert page.evaluate("document.activeElement.id") == "export"


def test_hostile_text_is_text_in_a_picture(hostile_site: Site, opened: Opened) -> None:
    text = '<img src=x onerror=alert(1)> & "quotes"'
    page = opened(f"{hostile_site.url}/prompt?{urlencode({'text': text})}")
    expect(page.locator("#tokens span").first).to_be_visible(timeout=LONG)
    exported(page)
    svg = taken(page, "SVG: Tokens")
    assert not list(ElementTree.fromstring(svg).iter(f"{SVG}img"))
    assert b"<img" not in svg
