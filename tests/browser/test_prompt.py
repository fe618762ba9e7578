"""The prompt page: one analysis, then everything at once in the browser."""

import re
from collections.abc import Callable
from urllib.parse import parse_qs, quote, urlparse

from playwright.sync_api import Page, expect

from tests.browser.conftest import Site

Opened = Callable[..., Page]
TEXT = 'The old man walked into the room, opened the letter and said, "I knew it."'


def query(page: Page) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(urlparse(page.url).query).items()}


def analysed(site: Site, opened: Opened, more: str = "", **how: object) -> Page:
    page = opened(f"{site.url}/prompt?text={quote(TEXT)}{more}", **how)
    expect(page.locator("#tokens span").first).to_be_visible()
    return page


def test_a_text_is_analysed_and_read_token_by_token(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/prompt")
    page.get_by_label("Text to analyse").fill(TEXT)
    page.get_by_role("button", name="Analyse").click()
    found = site.service.prompt_features(TEXT)
    tokens = page.locator("#tokens [role=button]")
    expect(tokens).to_have_count(len(found["tokens"]))
    expect(page.locator("#tokens")).to_have_text(re.compile(re.escape(TEXT)))
    expect(page.locator("#totals")).to_contain_text(f"{found['totals']['tokens']}")
    expect(page.locator("#totals")).to_contain_text(f"{found['totals']['fvu']:.3f}")
    assert query(page) == {"text": TEXT}

    chosen = found["tokens"][5]
    tokens.nth(5).click()
    panel = page.get_by_role("region", name="Selected token")
    expect(panel.locator("tbody tr")).to_have_count(chosen["active"])
    expect(panel).to_contain_text(f"{chosen['loss']:.2f} → {chosen['spliced_loss']:.2f}")
    strongest = max(
        (row for row in found["features"] if 5 in [i for i, _ in row["tokens"]]),
        key=lambda row: dict(map(tuple, row["tokens"]))[5],
    )
    expect(panel.locator("button.pick").first).to_have_text(f"#{strongest['feature']}")

    panel.locator("button.pick").first.click()
    expect(page.get_by_label("One feature")).to_be_checked()
    feature = page.get_by_role("region", name="Selected feature")
    expect(feature).to_contain_text(strongest["signature"])
    expect(feature.locator("tbody tr")).to_have_count(min(12, len(strongest["tokens"])))
    lit = [i for i in range(tokens.count()) if colour(page, i) > 0]
    assert lit == [i for i, _ in strongest["tokens"]]
    assert query(page) == {
        "text": TEXT,
        "token": "5",
        "feature": str(strongest["feature"]),
        "view": "feature",
    }
    expect(feature.get_by_role("link", name="Open its page")).to_have_attribute(
        "href", f"features?feature={strongest['feature']}"
    )


def colour(page: Page, token: int) -> float:
    style = page.locator("#tokens span[role=button]").nth(token).get_attribute("style") or ""
    found = re.search(r"--a:\s*([\d.]+)", style)
    return float(found.group(1)) if found else 0.0


def test_a_link_reopens_the_same_view_and_back_undoes_a_choice(site: Site, opened: Opened) -> None:
    row = site.service.prompt_features(TEXT)["features"][2]
    page = analysed(site, opened, f"&token=3&feature={row['feature']}&view=feature&sort=share")
    expect(page.get_by_label("One feature")).to_be_checked()
    expect(page.get_by_label("sort by")).to_have_value("share")
    expect(page.locator("#tokens [aria-pressed=true]")).to_have_attribute("data-i", "3")
    expect(page.get_by_role("region", name="Selected feature")).to_contain_text(row["signature"])
    page.get_by_text("Features active", exact=True).click()
    expect(page.locator("#legend")).to_contain_text("features active on each token")
    page.go_back()
    expect(page.get_by_label("One feature")).to_be_checked()
    page.go_forward()
    expect(page.get_by_label("Features active")).to_be_checked()


def test_sorting_and_hiding_answer_without_the_server(site: Site, opened: Opened) -> None:
    page = analysed(site, opened)
    features = site.service.prompt_features(TEXT)["features"]
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    first = page.locator("#text-features button.pick").first
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
    assert requests == []


def test_tokens_are_one_stop_for_the_keyboard(site: Site, opened: Opened) -> None:
    page = analysed(site, opened)
    tokens = page.locator("#tokens [role=button]")
    assert tokens.evaluate_all("all => all.filter(t => t.tabIndex === 0).length") == 1
    tokens.nth(1).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(3)).to_be_focused()
    expect(page.locator("#tip")).to_contain_text("nats")
    page.keyboard.press("Enter")
    expect(tokens.nth(3)).to_have_attribute("aria-pressed", "true")
    expect(tokens.nth(3)).to_be_focused()
    page.keyboard.press("Home")
    expect(tokens.first).to_be_focused()
    page.get_by_label("Text to analyse").fill("Another text")
    page.get_by_label("Text to analyse").press("Control+Enter")
    expect(page.locator("#tokens")).to_contain_text("Another text")
    expect(page.locator("#tokens [aria-pressed=true]")).to_have_count(0)


def test_texts_that_cannot_be_analysed_get_one_sentence(site: Site, opened: Opened) -> None:
    page = analysed(site, opened)
    field = page.get_by_label("Text to analyse")
    alert = page.get_by_role("alert")
    field.fill("   ")
    page.get_by_role("button", name="Analyse").click()
    expect(alert).to_contain_text("empty")
    expect(page.locator("#result")).to_be_hidden()
    field.fill("long " * 20_000)
    page.get_by_role("button", name="Analyse").click()
    expect(alert).to_contain_text("limit")
    field.fill(TEXT)
    page.get_by_role("button", name="Analyse").click()
    expect(page.locator("#tokens")).to_contain_text("The old man")
    expect(alert).to_have_count(0)


def test_another_sae_analyses_the_same_text(site: Site, opened: Opened) -> None:
    other = site.service.bundle.sae_names[-1]
    page = analysed(site, opened, "&token=4")
    page.get_by_label("SAE", exact=True).select_option(other)
    found = site.service.prompt_features(TEXT, other)
    expect(page.locator("#totals")).to_contain_text(f"{found['totals']['fvu']:.3f}")
    expect(page.locator("#text-features button.pick").first).to_have_text(
        f"#{found['features'][0]['feature']}"
    )
    assert query(page) == {"sae": other, "text": TEXT, "token": "4"}


def test_hostile_text_is_shown_as_text(site: Site, opened: Opened) -> None:
    hostile = "<img src=x onerror=alert(1)> ${alert(1)} {{7*7}} `a` \\n </script> & \"q\" 'q'"
    page = opened(f"{site.url}/prompt?text={quote(hostile)}")
    expect(page.locator("#tokens")).to_contain_text(hostile)
    assert page.locator("#tokens img").count() == 0
