"""No dead ends: a card beside a feature's number, and contexts that Prompt reads."""

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.conftest import Site
from tests.demo_features import of_the_sea

Opened = Callable[..., Page]


def test_a_pointer_that_rests_on_a_number_sees_the_feature(site: Site, opened: Opened) -> None:
    page = opened(site.url + "/features?q=ship")
    links = page.locator("main td a[href*='feature=']")
    card = page.locator("#glance")
    for row in (0, 2):
        links.nth(row).hover()
        number = links.nth(row).inner_text()
        expect(card.locator(".glance-name .id")).to_have_text(number)
        expect(card.locator(".tokens")).to_have_count(3)
        expect(card.locator(".peak").first).to_be_visible()
    # It can be reached, and what it offers leads on.
    card.hover()
    expect(card).to_be_visible()
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()
    links.first.hover()
    expect(card).to_be_visible()
    card.get_by_text("Steer with it").click()
    page.wait_for_url("**/steer?*")


def test_a_link_that_comes_under_a_resting_pointer_shows_nothing(
    site: Site, opened: Opened
) -> None:
    page = opened(site.url + "/features?q=ship")
    page.evaluate("""() => {
        const box = document.createElement("div");
        box.id = "early";
        box.style = "position:fixed;left:640px;top:280px;width:120px;height:60px;z-index:99";
        document.body.append(box);
    }""")
    page.mouse.move(700, 300)
    page.mouse.move(704, 304)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    # The browser says that it is over another element now, though it has not moved.
    page.evaluate("""() => new Promise((over) => {
        const box = document.getElementById("early");
        const link = document.createElement("a");
        link.href = "features?feature=5";
        link.textContent = "#5";
        link.style = box.style.cssText;
        link.addEventListener("pointerover", () => over(), { once: true });
        box.replaceWith(link);
    })""")
    page.evaluate("new Promise(r => setTimeout(() => requestAnimationFrame(r)))")
    assert not [url for url in asked if "/glance?" in url or "/feature-links" in url]
    # It is pointed at when the pointer moves to it.
    page.mouse.move(10, 10)
    page.mouse.move(704, 304)
    expect(page.locator("#glance")).to_contain_text("#5")
    page.set_viewport_size({"width": 900, "height": 700})
    expect(page.locator("#glance")).to_be_hidden()


def test_the_keyboard_sees_it_too_and_a_finger_goes_straight_there(
    site: Site, opened: Opened
) -> None:
    page = opened(site.url + "/features?q=ship")
    link = page.locator("main td a[href*='feature=']").first
    number = link.inner_text()
    page.locator("#content").focus()
    while not link.evaluate("node => node === document.activeElement"):
        page.keyboard.press("Tab")
    card = page.locator("#glance")
    expect(card).to_be_visible()
    expect(card).to_contain_text(number)
    # It covers nothing that is clicked next.
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text(number)
    phone = opened(site.url + "/features?q=ship", phone=True)
    phone.locator("main td a[href*='feature=']").first.tap()
    expect(phone.get_by_role("heading", level=1)).to_contain_text(number)
    expect(phone.locator("#glance:not([hidden])")).to_have_count(0)


def test_a_context_opens_in_prompt_with_its_token_chosen(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/features?feature={of_the_sea()}")
    context = page.locator(".context").nth(1)
    word = context.locator(".peak").inner_text()
    context.get_by_text("In Prompt").click()
    page.wait_for_url("**/prompt?*")
    chosen = page.locator("#tokens [aria-pressed=true]")
    expect(chosen).to_have_text(word)
    assert "token=peak" not in page.url
    expect(page.locator("#selection")).to_contain_text(f"#{of_the_sea()}")
    # By the keyboard: a token of a context, and Enter.
    page.go_back()
    page.locator(".groups").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_url("**/prompt?*")
    expect(chosen).to_have_count(1)
