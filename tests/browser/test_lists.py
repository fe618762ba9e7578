"""Lists in a browser: gathered on features' pages, put in order by keys, merged from a dropped file
with conflicts, taken away as a page; prompts and steerings saved and opened again.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from app.web.lists_view import NEAR
from tests.browser.conftest import Site
from tests.waiting import wait_until

Opened = Callable[..., Page]
ONE, OTHER, THIRD = 12, 5, 40
DROP = """([name, text]) => {
  const data = new DataTransfer();
  data.items.add(new File([text], name, { type: "application/json" }));
  for (const kind of ["dragover", "drop"]) {
    document.getElementById("content").dispatchEvent(
      new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
  }
}"""


def made(site: Site, name: str, *features: int) -> str:
    list_id = site.api.lists(action="make", name=name)["list"]["id"]
    for feature in features:
        site.api.lists(list_id, "add", feature=feature)
    return list_id


def numbers(site: Site, list_id: str) -> list[int]:
    return [each["feature"] for each in site.api.lists(list_id)["list"]["features"]]


def test_a_feature_is_added_on_its_page_and_taken_out_there(clean: Site, opened: Opened) -> None:
    page = opened(f"{clean.url}/features?feature={ONE}")
    page.get_by_text("Add to list").click()
    page.get_by_label("Name of a new list").fill("ships & <b>sea</b>")
    page.get_by_label("Name of a new list").press("Enter")
    box = page.get_by_role("checkbox", name="ships & <b>sea</b>")
    expect(box).to_be_checked()
    said = page.locator(".in-lists [data-said]")
    expect(said).to_have_text("Kept.")
    [there] = clean.api.lists()["lists"]
    assert numbers(clean, there["id"]) == [ONE]
    page.goto(f"{clean.url}/features?feature={OTHER}")
    page.get_by_text("Add to list").click()
    box.check()
    expect(said).to_have_text("Kept.")
    assert numbers(clean, there["id"]) == [ONE, OTHER]
    box.uncheck()
    # For a moment it still says of the tick before that it is kept.
    wait_until(lambda: numbers(clean, there["id"]) == [ONE])
    expect(said).to_have_text("Kept.")
    page.reload()
    page.get_by_text("Add to list").click()
    expect(box).not_to_be_checked()
    assert numbers(clean, there["id"]) == [ONE]


def test_a_list_is_made_and_put_in_order_with_the_keyboard_alone(
    clean: Site, opened: Opened
) -> None:
    list_id = made(clean, "in order", ONE, OTHER, THIRD)
    page = opened(f"{clean.url}/lists?list={list_id}")
    order = page.locator("[data-entry]")
    expect(order.first.locator(".tokens")).to_be_visible()
    down = page.get_by_role("button", name=f"Move #{ONE} down", exact=True)
    down.focus()
    page.keyboard.press("Enter")
    expect(order.nth(1)).to_have_attribute("data-feature", str(ONE))
    expect(down).to_be_focused()
    page.keyboard.press("Alt+ArrowDown")
    expect(order.nth(2)).to_have_attribute("data-feature", str(ONE))
    page.keyboard.press("Alt+ArrowDown")  # there is no further place
    page.keyboard.press("Alt+ArrowUp")
    expect(order.nth(1)).to_have_attribute("data-feature", str(ONE))
    assert numbers(clean, list_id) == [OTHER, ONE, THIRD]
    # Two in a row move by two places, though the first is not answered yet.
    page.locator(f"[data-feature='{OTHER}'] [data-move='1']").evaluate(
        "button => [1, 2].forEach(() => button.click())"
    )
    expect(order.nth(2)).to_have_attribute("data-feature", str(OTHER))
    assert numbers(clean, list_id) == [ONE, THIRD, OTHER]
    page.get_by_role("button", name=f"Take #{ONE} out of the list").press("Enter")
    expect(order).to_have_count(2)
    page.get_by_text("Rename or remove this list").press("Enter")
    page.get_by_label("Name of this list").fill("another name")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("another name")
    page.get_by_role("button", name="Remove this list").press("Enter")
    expect(page.get_by_text("No list yet")).to_be_visible()
    assert clean.api.lists()["lists"] == []


def test_a_dropped_file_is_merged_and_conflicts_are_chosen(clean: Site, opened: Opened) -> None:
    list_id = made(clean, "theirs", ONE, OTHER)
    clean.api.notes(ONE, label="their label")
    page = opened(f"{clean.url}/lists?list={list_id}")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download as JSON").click()
    file = json.loads(download.value.path().read_text(encoding="utf-8"))
    clean.api.lists(list_id, "rename", name="mine")
    clean.api.notes(ONE, label="my label")
    page.goto(f"{clean.url}/lists")
    page.evaluate(DROP, ["theirs.json", json.dumps(file)])
    name = page.get_by_role("group", name="The name of the list")
    label = page.get_by_role("group", name=f"The label of #{ONE}")
    expect(name).to_contain_text("Yours: mine")
    expect(label).to_contain_text("Theirs: their label")
    label.get_by_label("Theirs").check()
    page.get_by_role("button", name="Keep what is chosen").click()
    expect(page.locator("#said")).to_contain_text("What is chosen is kept.")
    expect(page.locator(".conflict")).to_have_count(0)
    expect(page.locator("[data-entry]").first).to_contain_text("their label")
    expect(page.get_by_role("heading", level=1)).to_have_text("mine")
    page.evaluate(DROP, ["x.json", "no JSON"])
    expect(page.locator("#said")).to_contain_text("x.json is no JSON file.")
    page.evaluate(DROP, ["x.json", '{"a": 1}'])
    expect(page.locator("#said")).to_contain_text("is no list of features")


def test_two_presses_make_one_list_and_two_files_are_refused(clean: Site, opened: Opened) -> None:
    page = opened(f"{clean.url}/lists")
    page.get_by_label("Name of a new list").fill("ships")
    page.evaluate("""() => {
        const form = document.querySelector("[data-list-form=make]");
        form.requestSubmit();
        form.requestSubmit();
    }""")
    expect(page.get_by_role("heading", name="ships")).to_be_visible()
    page.wait_for_timeout(500)
    assert [each["name"] for each in clean.api.lists()["lists"]] == ["ships"]
    page.evaluate("""() => {
        const data = new DataTransfer();
        for (const name of ["a.json", "b.json"]) data.items.add(new File(["{}"], name));
        document.getElementById("content").dispatchEvent(
            new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
    }""")
    expect(page.get_by_role("alert")).to_have_text("These are 2 files: drop one at a time.")


def test_what_is_left_out_of_a_context_is_marked(clean: Site, opened: Opened) -> None:
    page = opened(f"{clean.url}/lists?list={made(clean, 'ships', ONE, OTHER, THIRD)}")
    for tokens, context in zip(
        page.locator(".entries .tokens").all(),
        clean.workbench.index().strongest_contexts([ONE, OTHER, THIRD]).values(),
        strict=True,
    ):
        before, after = tokens.evaluate(
            "(node) => ['::before', '::after'].map((part) => getComputedStyle(node, part).content)"
        )
        assert context is not None
        peak, size = context["peak"], len(context["tokens"])
        assert before == ('"…"' if peak > NEAR[0] else "none")
        assert after == ('"…"' if peak + NEAR[1] + 1 < size else "none")
    page.goto(f"{clean.url}/features?q=sea")
    glimpse = page.locator(".glimpse").first
    assert glimpse.evaluate("(node) => getComputedStyle(node, '::before').content") == '"…"'


def test_a_list_is_among_what_is_exported(clean: Site, opened: Opened) -> None:
    list_id = made(clean, "to take", ONE, OTHER)
    page = opened(f"{clean.url}/lists?list={list_id}")
    page.locator("#export").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON: This list", exact=True).click()
    answer = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))["answer"]
    assert [each["feature"] for each in answer["list"]["features"]] == [ONE, OTHER]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_downloaded_page_is_read_without_the_app(
    clean: Site, opened: Opened, tmp_path: Path, scheme: str
) -> None:
    list_id = made(clean, "to read", ONE, OTHER)
    clean.api.notes(ONE, label="the label", note="x" * 300)
    page = opened(f"{clean.url}/lists?list={list_id}", scheme=scheme)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download as a page").click()
    assert download.value.suggested_filename == "to-read.html"
    file = tmp_path / "list.html"
    download.value.save_as(file)
    page.goto("about:blank")  # the app's page asks for its state now and then
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.set_viewport_size({"width": 320, "height": 700})
    page.goto(file.as_uri())
    expect(page.get_by_role("heading", name=f"#{ONE} the label")).to_be_visible()
    token = page.locator(".tokens .peak").first
    expect(token).to_be_visible()
    background = token.evaluate("(node) => getComputedStyle(node).backgroundColor")
    assert background not in ("rgba(0, 0, 0, 0)", "transparent")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(paper.removeprefix("rgb(").split(",")[0]) > 128) == (scheme == "light")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert requests == [file.as_uri()]


def test_a_prompt_and_a_steering_are_saved_and_opened_again(clean: Site, opened: Opened) -> None:
    page = opened(f"{clean.url}/prompt?text=The%20ship%20%26%20sea&token=2")
    tokens = page.locator("#tokens [role=button]").first
    expect(tokens).to_be_visible(timeout=60_000)
    page.locator(".save-page summary").click()
    page.get_by_label("Name to save this page by").fill("a ship")
    page.keyboard.press("Enter")
    expect(page.locator(".save-page [data-said]")).to_have_text("Saved.")
    edits = f"%5B%7B%22feature%22%3A{ONE}%7D%5D"
    page.goto(f"{clean.url}/steer?prompt=Once&tokens=3&edits={edits}")
    expect(page.locator("#run-status")).to_contain_text("Done", timeout=60_000)
    page.locator(".save-page summary").click()
    page.get_by_label("Name to save this page by").fill("louder")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".save-page [data-said]")).to_have_text("Saved.")
    page.get_by_role("link", name="All that is saved").click()
    expect(page.locator("main")).to_contain_text("steering")
    page.get_by_role("button", name="Remove louder").click()
    expect(page.get_by_role("link", name="louder")).to_have_count(0)
    page.get_by_role("link", name="a ship").click()
    expect(page.get_by_label("Text to analyse")).to_have_value("The ship & sea")
    expect(tokens).to_be_visible(timeout=60_000)


@pytest.mark.parametrize("width", [1440, 390, 320])
def test_no_list_is_wider_than_its_window(clean: Site, opened: Opened, width: int) -> None:
    list_id = made(clean, "y" * 100, ONE, OTHER)
    clean.api.notes(ONE, label="x" * 200, note="z" * 300)
    clean.api.saved(action="save", name="w" * 100, address="prompt?text=x")
    page = opened(clean.url)
    page.set_viewport_size({"width": width, "height": 800})
    for where in ("lists", f"lists?list={list_id}", f"features?feature={ONE}"):
        page.goto(f"{clean.url}/{where}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, (where, width)
