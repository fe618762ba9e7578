"""What comes next, on the prompt page: bars, features by their effect, ticks, earlier tokens."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Site, query

Opened = Callable[..., Page]
TEXT = "The captain looked at the dark water, while the sailors"
LAST = 12


def answer(site: Site, **options: Any) -> dict[str, Any]:
    return site.api.effects(TEXT, token=LAST, **options)


def shown(site: Site, opened: Opened, more: str = "", **how: Any) -> tuple[Page, Locator]:
    """The page with the last token chosen, and its part; what comes next is there."""
    page = opened(f"{site.url}/prompt?text={quote(TEXT)}&token={LAST}{more}", **how)
    part = page.get_by_role("region", name="What comes next")
    expect(part).to_have_attribute("aria-busy", "false")
    return page, part


def nexts(part: Locator) -> Locator:
    return part.locator(".next-bars > li")


def rows(part: Locator) -> Locator:
    return part.locator("table.effects tbody tr")


def features(part: Locator) -> list[str]:
    return [text.lstrip("#") for text in rows(part).locator(".pick.id").all_inner_texts()]


def expected(effects: list[dict[str, Any]]) -> list[str]:
    return [str(row["feature"]) for row in effects[:12]]


def minus(value: float, decimals: int = 2) -> str:
    return f"{value:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def test_a_token_shows_what_comes_next_and_what_carries_it(site: Site, opened: Opened) -> None:
    page, part = shown(site, opened)
    told = answer(site)
    expect(nexts(part)).to_have_count(8)
    for line, row in zip(nexts(part).all(), told["base"], strict=True):
        expect(line.get_by_role("button")).to_contain_text(row["text"].strip())
        expect(line.locator(".s2 .n")).to_have_text("\N{EN DASH}")
    assert features(part) == expected(told["effects"])
    first = told["effects"][0]
    strongest = max(told["effects"], key=lambda row: row["activation"])
    assert first["feature"] != strongest["feature"], "what fires most does not carry most"
    cells = rows(part).first.locator("td.n")
    expect(cells).to_have_text([f"{first['kl']:.3f}", minus(first["dlogp"])])
    assert query(page) == {"text": TEXT, "token": str(LAST)}
    part.locator("[data-rest]").click()
    expect(rows(part)).to_have_count(len(told["effects"]))


def test_the_arm_under_the_pointer_and_under_the_focus(site: Site, opened: Opened) -> None:
    page, part = shown(site, opened)
    effects = answer(site)["effects"]
    moved = next(n for n, row in enumerate(effects) if row["becomes"]["text"])
    column = part.locator(".next-line.s2 .n")
    height = part.evaluate("node => node.clientHeight")
    rows(part).nth(moved).hover()
    expect(part.locator(".arm")).to_contain_text(f"Without #{effects[moved]['feature']}")
    expect(column.first).not_to_have_text("\N{EN DASH}")
    under_pointer = column.all_inner_texts()
    assert part.evaluate("node => node.clientHeight") == height, "nothing moves under the pointer"
    page.mouse.move(5, 5)
    expect(column.first).to_have_text("\N{EN DASH}")
    rows(part).nth(moved + 1).get_by_role("checkbox").focus()
    expect(part.locator(".arm")).to_contain_text(f"Without #{effects[moved + 1]['feature']}")
    assert column.all_inner_texts() != under_pointer
    rows(part).nth(moved).get_by_role("checkbox").focus()
    expect(part.locator(".arm")).to_contain_text(f"Without #{effects[moved]['feature']}")
    assert column.all_inner_texts() == under_pointer


def test_another_next_token_is_followed(site: Site, opened: Opened) -> None:
    page, part = shown(site, opened)
    other = answer(site)["base"][1]
    nexts(part).nth(1).get_by_role("button").focus()
    page.keyboard.press("Enter")
    told = answer(site, target=other["id"])
    ordered = sorted(told["effects"], key=lambda row: -abs(row["dlogp"]))
    expect(rows(part).first.locator("td.n").last).to_have_text(minus(ordered[0]["dlogp"]))
    assert features(part) == expected(ordered)
    expect(part.locator("th.change")).to_contain_text(other["text"].strip())
    assert query(page)["next"] == f"{LAST}.{other['id']}"
    assert query(page)["by"] == "change"
    expect(nexts(part).nth(1).get_by_role("button")).to_be_focused()
    # The address brings it back; of another token it says nothing.
    again = opened(page.url).get_by_role("region", name="What comes next")
    expect(rows(again).first.locator("td.n").last).to_have_text(minus(ordered[0]["dlogp"]))
    page.locator("#tokens [role=button]").nth(LAST - 1).click()
    expect(part).to_have_attribute("aria-busy", "false")
    expect(nexts(part).first.get_by_role("button")).to_have_attribute("aria-pressed", "true")


@pytest.mark.parametrize("order", ["activation", "share", "lift"])
def test_the_order_can_be_chosen(site: Site, opened: Opened, order: str) -> None:
    page, part = shown(site, opened)
    part.get_by_label("features by").select_option(order)
    effects = sorted(answer(site)["effects"], key=lambda row: -row[order])
    expect(rows(part).first.locator(".pick.id")).to_have_text(f"#{effects[0]['feature']}")
    assert features(part) == expected(effects)
    assert query(page)["by"] == order


def test_ticked_features_are_taken_away_together(site: Site, opened: Opened) -> None:
    page, part = shown(site, opened)
    effects = answer(site)["effects"]
    for n in range(2):
        rows(part).nth(n).get_by_role("checkbox").focus()
        page.keyboard.press("Space")
        expect(rows(part).nth(n).get_by_role("checkbox")).to_be_focused()
    pairs = [{"position": LAST, "feature": row["feature"]} for row in effects[:2]]
    joint = answer(site, joint=pairs)["joint"]
    expect(part.locator(".joint tbody tr").nth(0).locator("td")).to_have_text(
        [f"{joint['kl']:.3f}", minus(joint["dlogp"])]
    )
    expect(part.locator(".joint tbody tr").nth(2).locator("td")).to_have_text(
        [minus(joint["beyond_kl"], 3), minus(joint["beyond_dlogp"])]
    )
    page.mouse.move(5, 5)
    part.locator("[data-untick]").focus()
    expect(part.locator(".arm")).to_contain_text("Without the 2 ticked")
    ticks = "-".join(f"{LAST}.{row['feature']}" for row in effects[:2])
    assert query(page)["off"] == f"{LAST}-{ticks}"
    part.locator("[data-untick]").click()
    expect(part.locator(".joint")).to_have_count(0)
    assert "off" not in query(page)


def test_earlier_tokens_are_estimated_and_the_largest_measured(site: Site, opened: Opened) -> None:
    page, part = shown(site, opened)
    part.get_by_label("earlier tokens too").check()
    told = answer(site, earlier=True)
    expect(part).to_have_attribute("aria-busy", "false")
    expect(part).to_contain_text(f"{told['rank_correlation']:.2f}")
    first = told["effects"][0]
    expect(rows(part).first.locator("td.n")).to_have_text(
        [f"{first['kl']:.3f}", minus(first["dlogp"]), minus(first["estimate"])]
    )
    part.locator("[data-rest]").click()
    estimated = next(n for n, row in enumerate(told["effects"]) if not row["exact"])
    expect(rows(part).nth(estimated).get_by_role("checkbox")).to_be_disabled()
    expect(rows(part).nth(estimated).locator("td.n").first).to_have_text("\N{EN DASH}")
    assert query(page)["earlier"] == "1"


def test_special_tokens_have_a_prediction_and_no_effects(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/prompt?text={quote(TEXT)}&token=0")
    part = page.get_by_role("region", name="What comes next")
    expect(nexts(part)).to_have_count(8)
    expect(part).to_contain_text("A special token keeps its activation")
    expect(rows(part)).to_have_count(0)


def test_a_number_has_its_card_and_uniformity_waits_for_a_click(site: Site, opened: Opened) -> None:
    page, part = shown(site, opened)
    part.get_by_role("button", name="Reproduce: effects on this prediction").click()
    first = answer(site)["effects"][0]
    value = page.get_by_role("dialog").locator(".value")
    expect(value).to_contain_text(f"without feature #{first['feature']} on token {LAST}")
    assert float(value.locator("b").inner_text()) == pytest.approx(first["kl"], rel=1e-4)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Measure the uniformity of effects").click()
    uniformity = site.api.prompt_features(TEXT, uniformity=True)["totals"]["uniformity"]
    expect(page.locator("#totals .stat").last.locator("dd")).to_have_text(f"{uniformity:.2f}")


def test_it_fits_a_phone(site: Site, opened: Opened) -> None:
    page, part = shown(site, opened, "&earlier=1", phone=True)
    page.set_viewport_size({"width": 320, "height": 700})
    wide = part.evaluate("node => node.scrollWidth - node.clientWidth")
    assert wide <= 0
    # Words have the width below the numbers, too.
    room = "rows => rows.map(e => e.querySelector('.beside').clientWidth / e.clientWidth)"
    assert min(rows(part).evaluate_all(room)) > 0.85
    first = answer(site, earlier=True)["effects"][0]
    rows(part).first.locator(".pick.id").tap()
    feature = page.get_by_role("region", name="Selected feature")
    expect(feature).to_contain_text(f"#{first['feature']}")


def test_ready_predictions_are_what_their_titles_say(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/prompt")
    links = page.locator("#predictions-title + ul a")
    expect(links).to_have_count(3)
    addresses = [link.get_attribute("href") for link in links.all()]
    links.first.click()
    part = page.get_by_role("region", name="What comes next")
    first, second, third = site.workbench.bundle.examples["predictions"]
    told = explained(site, first)["effects"]
    expect(rows(part).first.locator(".pick.id")).to_have_text(f"#{told[0]['feature']}")
    strongest = max(told, key=lambda row: row["activation"])
    assert told[0]["kl"] > 5 * strongest["kl"]
    assert told[0]["dlogp"] < 5 * strongest["dlogp"] < 0
    followed(part, "hour")

    together = opened(f"{site.url}/{addresses[1]}").get_by_role("region", name="What comes next")
    joint = explained(site, second, joint=second["together"])["joint"]
    assert joint["kl"] > 20 * joint["sum_kl"]
    beyond = together.locator(".joint tbody tr").nth(2).locator("td")
    expect(beyond).to_have_text([minus(joint["beyond_kl"], 3), minus(joint["beyond_dlogp"])])
    followed(together, "day")

    earlier = opened(f"{site.url}/{addresses[2]}").get_by_role("region", name="What comes next")
    followed(earlier, "queen")
    # After the largest of the last token itself, two features of the king.
    expect(rows(earlier).nth(0)).to_contain_text(f"token {third['token']}")
    for row in (1, 2):
        expect(rows(earlier).nth(row)).to_contain_text("token 2")
        expect(rows(earlier).nth(row)).to_contain_text(re.compile("king", re.IGNORECASE))


def explained(site: Site, prediction: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What the API says of a ready prediction."""
    given = {name: prediction[name] for name in ("text", "token", "target", "sae")}
    return site.api.effects(**given, **more)


def followed(part: Locator, word: str) -> None:
    expect(nexts(part).locator("[aria-pressed=true]")).to_contain_text(word)
