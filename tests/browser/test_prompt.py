"""The prompt page: one analysis, then everything at once in the browser."""

import re
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Locator, Page, expect

from app.engine.workbench import Workbench
from tests.browser.conftest import PHONE, Site, query

Opened = Callable[..., Page]
TEXT = 'The old man walked into the room, opened the letter and said, "I knew it."'
HEBREW = "שלום 🙂 עולם\nA river"


def analysis(site: Site, text: str = TEXT, sae: str = "") -> dict[str, Any]:
    return site.api.prompt_features(text, sae, limit=0)


def analysed(site: Site, opened: Opened, more: str = "", *, text: str = TEXT, **how: Any) -> Page:
    page = opened(f"{site.url}/prompt?text={quote(text)}{more}", **how)
    expect(page.locator("#tokens span").first).to_be_visible()
    return page


def tokens_of(page: Page) -> Locator:
    return page.locator("#tokens [role=button]")


def token_panel(page: Page) -> Locator:
    return page.get_by_role("region", name="Selected token")


def read_here(page: Page) -> Locator:
    """The part of the token's panel with what fires on it."""
    return token_panel(page).get_by_role("region", name="Read here")


def feature_panel(page: Page) -> Locator:
    return page.get_by_role("region", name="Selected feature")


def colour(page: Page, token: int) -> float:
    style = tokens_of(page).nth(token).get_attribute("style") or ""
    match = re.search(r"--a:\s*([\d.]+)", style)
    return float(match.group(1)) if match else 0.0


def is_in_sight(page: Page, part: Locator) -> bool:
    """Whether a part's upper edge is within the window, and nothing lies over it."""
    box = part.bounding_box()
    assert box is not None
    size = page.viewport_size
    assert size is not None
    inside = 0 <= box["y"] <= size["height"] - 40 and 0 <= box["x"] <= size["width"]
    return inside and part.evaluate(
        """node => {
          const box = node.getBoundingClientRect();
          const top = document.elementFromPoint(box.left + box.width / 3, box.top + 4);
          return node.contains(top) || top?.contains(node);
        }"""
    )


def test_a_text_is_analysed_and_read_token_by_token(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/prompt")
    page.get_by_label("Text to analyse").fill(TEXT)
    page.get_by_role("button", name="Analyse").click()
    answer = analysis(site)
    tokens = tokens_of(page)
    expect(tokens).to_have_count(len(answer["tokens"]))
    expect(page.locator("#tokens")).to_have_text(re.compile(re.escape(TEXT)))
    expect(page.locator("#totals")).to_contain_text(f"{answer['totals']['tokens']}")
    expect(page.locator("#totals")).to_contain_text(f"{answer['totals']['fvu']:.3f}")
    assert query(page) == {"text": TEXT}

    chosen = answer["tokens"][5]
    tokens.nth(5).click()
    panel = read_here(page)
    expect(panel.locator("tbody tr")).to_have_count(chosen["active"])
    strongest = chosen["active_features"][0][0]
    expect(panel.locator("tbody .pick").first).to_have_text(f"#{strongest}")

    panel.locator("tbody .pick").first.click()
    row = next(row for row in answer["features"] if row["feature"] == strongest)
    expect(page.get_by_role("radio", name="One feature")).to_be_checked()
    expect(feature_panel(page)).to_contain_text(row["signature"])
    lit = [i for i in range(tokens.count()) if colour(page, i) > 0]
    assert lit == [i for i, _ in row["tokens"]]
    assert query(page) == {
        "text": TEXT,
        "token": "5",
        "feature": str(strongest),
        "view": "feature",
    }
    expect(feature_panel(page).get_by_role("link", name="Open its page")).to_have_attribute(
        "href", f"features?feature={strongest}"
    )


def test_what_is_predicted_stands_apart_from_what_is_read(site: Site, opened: Opened) -> None:
    page = analysed(site, opened, "&token=5")
    token = analysis(site)["tokens"][5]
    panel = token_panel(page)
    predicted = panel.get_by_role("region", name="Predicted here")
    read = panel.get_by_role("region", name="Read here")
    expect(predicted.locator("dd")).to_have_text(
        [
            f"{token['loss']:.2f}",
            f"{token['spliced_loss']:.2f}",
            f"{token['delta']:+.2f}".replace("-", "\N{MINUS SIGN}"),
            f"{token['kl']:.3f}",
        ]
    )
    expect(predicted.locator("[data-feature]")).to_have_count(0)
    expect(read.locator("[data-feature]")).to_have_count(token["active"])
    expect(read).to_contain_text(f"{token['active']} features active on this token")
    assert "loss" not in read.inner_text()
    below, above = read.bounding_box(), predicted.bounding_box()
    assert above is not None
    assert below is not None
    assert below["y"] >= above["y"] + above["height"]
    # What fires here acts on what comes next: that is one click away.
    read.locator("[data-token]").click()
    expect(panel.get_by_role("heading", level=2)).to_contain_text("token 6")
    # Nothing predicts the first token, and the SAE leaves it alone.
    tokens_of(page).first.click()
    expect(predicted.locator("dd")).to_have_count(0)
    expect(read).to_contain_text("special token")


@pytest.mark.parametrize("phone", [False, True])
def test_what_was_chosen_last_is_on_top_and_in_sight(
    site: Site, opened: Opened, phone: bool
) -> None:
    long = " ".join([TEXT] * 12)
    page = analysed(site, opened, text=long, phone=phone)
    tokens = tokens_of(page)
    last = tokens.nth(tokens.count() - 5)
    last.click()
    assert is_in_sight(page, token_panel(page).get_by_role("heading", level=2))
    assert is_in_sight(page, last)
    read_here(page).locator("tbody .pick").nth(1).click()
    panels = page.locator("#selection-body > section")
    expect(panels.first).to_have_attribute("aria-label", "Selected feature")
    expect(panels).to_have_count(2)
    assert is_in_sight(page, panels.first.get_by_role("heading", level=2))
    # The address keeps which was the last.
    page.reload()
    expect(panels.first).to_have_attribute("aria-label", "Selected feature")
    assert is_in_sight(page, panels.first.get_by_role("heading", level=2))
    feature_panel(page).locator("[data-token]").first.click()
    expect(panels.first).to_have_attribute("aria-label", "Selected token")
    assert is_in_sight(page, panels.first.get_by_role("heading", level=2))


def test_on_a_phone_the_panel_is_closed_with_what_was_chosen(site: Site, opened: Opened) -> None:
    page = analysed(site, opened, "&token=4", phone=True)
    sheet = page.locator("#selection")
    expect(sheet).to_be_visible()
    page.get_by_role("button", name="Close", exact=True).click()
    expect(sheet).to_be_hidden()
    assert query(page) == {"text": TEXT}
    expect(page.locator("#tokens [aria-pressed=true]")).to_have_count(0)


def test_all_tokens_of_a_feature_can_be_seen(site: Site, opened: Opened) -> None:
    row = max(analysis(site)["features"], key=lambda row: len(row["tokens"]))
    many = len(row["tokens"])
    assert many > 12
    page = analysed(site, opened, f"&view=feature&feature={row['feature']}")
    rows = feature_panel(page).locator("tbody tr")
    expect(rows).to_have_count(12)
    expect(feature_panel(page)).to_contain_text(f"on {many} of these")
    feature_panel(page).get_by_role("button", name=f"Show the other {many - 12}").click()
    expect(rows).to_have_count(many)


def test_a_link_reopens_the_same_view_and_back_undoes_a_choice(site: Site, opened: Opened) -> None:
    row = analysis(site)["features"][2]
    page = analysed(site, opened, f"&token=3&feature={row['feature']}&view=feature&sort=share")
    expect(page.get_by_role("radio", name="One feature")).to_be_checked()
    expect(page.get_by_label("sort by")).to_have_value("share")
    expect(page.locator("#tokens [aria-pressed=true]")).to_have_attribute("data-i", "3")
    expect(feature_panel(page)).to_contain_text(row["signature"])
    page.locator(".segments").get_by_text("Features active", exact=True).click()
    expect(page.locator("#legend")).to_contain_text("features active on each token")
    page.go_back()
    expect(page.get_by_role("radio", name="One feature")).to_be_checked()
    page.go_forward()
    expect(page.get_by_role("radio", name="Features active")).to_be_checked()


def test_values_of_a_link_that_mean_nothing_are_left_out(site: Site, opened: Opened) -> None:
    page = analysed(site, opened, "&token=999&feature=x&view=toString&sort=7&hide=9")
    expect(page.get_by_role("radio", name="Cost of the SAE")).to_be_checked()
    expect(page.get_by_label("sort by")).to_have_value("activation")
    expect(page.locator("#selection")).to_contain_text("Choose a token")


def test_sorting_and_hiding_answer_without_the_server(site: Site, opened: Opened) -> None:
    page = analysed(site, opened)
    features = analysis(site)["features"]
    # Modules that are fetched on demand are there, and so is the check of the SAE.
    expect(page.locator("#badge .green")).to_be_visible()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    first = page.locator("#text-features .pick").first
    expect(first).to_have_text(f"#{features[0]['feature']}")
    page.get_by_label("sort by").select_option("frequency")
    rarest = min(features, key=lambda row: row["frequency"])
    expect(first).to_have_text(f"#{rarest['feature']}")
    page.get_by_label("sort by").select_option("share")
    fullest = max(features, key=lambda row: row["peak"] / row["max_act"])
    expect(first).to_have_text(f"#{fullest['feature']}")

    slider = page.get_by_label("Hide features that fire on more")
    slider.fill("-2")
    kept = [row for row in features if row["frequency"] <= 0.01]
    expect(page.locator("#features-title")).to_have_text(f"Features on this text ({len(kept)})")
    hidden = len(features) - len(kept)
    note = page.locator("#text-features").get_by_text(f"Hidden: {hidden} feature")
    expect(note).to_be_visible()
    assert query(page)["hide"] == "0.01"
    page.locator("#text-features").get_by_role("button", name="Show", exact=True).click()
    expect(page.locator("#features-title")).to_contain_text(f"({len(features)})")
    page.get_by_role("button", name=f"Show the other {len(features) - 40}").click()
    expect(page.locator("#text-features tbody tr")).to_have_count(len(features))
    assert [url for url in requests if "gradio_api" in url] == []


def test_tokens_are_one_stop_for_the_keyboard_and_speak_their_value(
    site: Site, opened: Opened
) -> None:
    page = analysed(site, opened)
    tokens = tokens_of(page)
    assert tokens.evaluate_all("all => all.filter(t => t.tabIndex === 0).length") == 1
    token = analysis(site)["tokens"][3]
    named = tokens.nth(3).get_attribute("aria-label") or ""
    change = f"{token['delta']:+.2f}".replace("-", "\N{MINUS SIGN}")
    assert named.startswith(f"“{token['text']}”")
    assert f"predicted: {change} nats" in named
    page.locator(".segments").get_by_text("Features active", exact=True).click()
    expect(tokens.nth(3)).to_have_attribute("aria-label", re.compile(f"{token['active']} feature"))
    tokens.nth(1).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(3)).to_be_focused()
    expect(page.locator("#tip")).to_contain_text(f"{token['active']} feature")
    page.keyboard.press("Enter")
    expect(tokens.nth(3)).to_have_attribute("aria-pressed", "true")
    expect(tokens.nth(3)).to_be_focused()
    page.keyboard.press("Home")
    expect(tokens.first).to_be_focused()
    page.get_by_label("Text to analyse").fill("Another text")
    page.get_by_label("Text to analyse").press("Control+Enter")
    expect(page.locator("#tokens")).to_contain_text("Another text")
    expect(page.locator("#tokens [aria-pressed=true]")).to_have_count(0)


def test_a_refused_text_is_marked_and_kept(site: Site, opened: Opened) -> None:
    page = analysed(site, opened)
    field = page.get_by_label("Text to analyse")
    alert = page.locator("#prompt-form [role=alert]")
    long = "long " * 600
    for text, words in (("   ", "empty"), (long, "limit")):
        field.fill(text)
        page.get_by_role("button", name="Analyse").click()
        expect(alert).to_contain_text(words)
        expect(alert).to_have_count(1)
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_be_focused()
        expect(field).to_have_value(text)
        described = (field.get_attribute("aria-describedby") or "").split()
        assert alert.get_attribute("id") in described
        assert "prompt-hint" in described
        expect(page.locator("#result")).to_be_hidden()
    # The mark goes when the text is changed, not only when it is accepted.
    field.fill(TEXT)
    expect(alert).to_have_count(0)
    assert field.get_attribute("aria-invalid") is None
    assert field.get_attribute("aria-describedby") == "prompt-hint"
    page.get_by_role("button", name="Analyse").click()
    expect(page.locator("#tokens")).to_contain_text("The old man")


def test_another_sae_analyses_the_same_text(site: Site, opened: Opened) -> None:
    other = site.workbench.bundle.sae_names[-1]
    page = analysed(site, opened, "&token=4")
    page.get_by_label("SAE", exact=True).select_option(other)
    answer = analysis(site, sae=other)
    expect(page.locator("#totals")).to_contain_text(f"{answer['totals']['fvu']:.3f}")
    expect(page.locator("#text-features .pick").first).to_have_text(
        f"#{answer['features'][0]['feature']}"
    )
    assert query(page) == {"sae": other, "text": TEXT, "token": "4"}


def test_a_waiting_text_says_its_place_and_can_be_stopped(
    site: Site, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, begun = threading.Event(), threading.Event()
    load = Workbench.load

    def held(workbench: Workbench) -> Any:
        begun.set()
        assert free.wait(60)
        return load(workbench)

    stopped = analysed(site, opened)
    monkeypatch.setattr(Workbench, "load", held)
    try:
        first = opened(f"{site.url}/prompt?text=The%20river")
        status = first.locator("#status")
        expect(status).to_have_text("Analysing…")
        assert begun.wait(20)
        stopped.get_by_label("Text to analyse").fill("The harbour")
        stopped.get_by_role("button", name="Analyse").click()
        expect(stopped.locator("#status")).to_contain_text("Waiting: next in the queue")
        stopped.get_by_role("button", name="Stop").click()
        expect(stopped.locator("#status")).to_contain_text("Stopped")
        expect(stopped.get_by_role("button", name="Stop")).to_be_hidden()
        # Nothing of another text stays, and what was typed does.
        expect(stopped.locator("#result")).to_be_hidden()
        expect(stopped.get_by_label("Text to analyse")).to_have_value("The harbour")
        free.set()
        expect(first.locator("#tokens")).to_contain_text("The river")
        expect(status).to_be_empty()
    finally:
        free.set()
    stopped.get_by_role("button", name="Analyse").click()
    expect(stopped.locator("#tokens")).to_contain_text("The harbour")


def test_spaces_before_a_word_have_no_colour(site: Site, opened: Opened) -> None:
    page = analysed(site, opened)
    words = [row["text"].strip(" ") or row["text"] for row in analysis(site)["tokens"]]
    assert tokens_of(page).all_text_contents() == words
    # On the page they are there.
    assert TEXT in (page.locator("#tokens").text_content() or "")


@pytest.mark.parametrize("phone", [False, True])
def test_partial_characters_are_seen_and_chosen_and_texts_read_in_their_direction(
    site: Site, opened: Opened, phone: bool
) -> None:
    page = analysed(site, opened, text=HEBREW, phone=phone)
    tokens = tokens_of(page)
    widths = tokens.evaluate_all(
        "all => all.map(t => Math.max(0, ...[...t.getClientRects()].map(r => r.width)))"
    )
    assert min(widths) > 2
    rows = analysis(site, HEBREW)["tokens"]
    partial = next(row["i"] for row in rows if row["text"] == "")
    expect(tokens.nth(partial)).to_have_text("⟨D7⟩")
    tokens.nth(partial).click()
    expect(token_panel(page).get_by_role("heading", level=2)).to_contain_text("⟨D7⟩")
    assert (tokens.nth(partial).get_attribute("aria-label") or "").startswith("“⟨D7⟩”")
    # The Hebrew paragraph begins at the right, the English one at the left.
    area = page.locator("#tokens").bounding_box()
    starts = [tokens.nth(i).bounding_box() for i in (1, len(rows) - 1)]
    assert area is not None
    first, last = starts
    assert first is not None
    assert last is not None
    middle = area["x"] + area["width"] / 2
    assert first["x"] > middle
    assert last["x"] < middle
    assert page.get_by_label("Text to analyse").get_attribute("dir") == "auto"


def test_a_phone_shows_tokens_before_totals_and_tables_whole(site: Site, opened: Opened) -> None:
    page = analysed(site, opened, phone=True)
    tokens, totals = page.locator("#tokens").bounding_box(), page.locator("#totals").bounding_box()
    assert tokens is not None
    assert totals is not None
    assert tokens["y"] + tokens["height"] < totals["y"]
    cells = page.locator("#text-features tr").nth(1).locator("td")
    expect(cells).to_have_count(4)
    for cell in cells.all():
        box = cell.bounding_box()
        assert box is not None
        assert box["width"] > 20
        assert box["x"] + box["width"] <= PHONE["width"]


def test_hostile_text_is_shown_as_text(site: Site, opened: Opened) -> None:
    hostile = "<img src=x onerror=alert(1)> ${alert(1)} {{7*7}} `a` \\n </script> & \"q\" 'q'"
    page = opened(f"{site.url}/prompt?text={quote(hostile)}")
    expect(page.locator("#tokens")).to_contain_text(hostile)
    expect(page.get_by_label("Text to analyse")).to_have_value(hostile)
    assert page.locator("#tokens img").count() == 0
