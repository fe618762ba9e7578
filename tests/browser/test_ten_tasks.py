"""The ten tasks of a first hour, each done as a person does it, and its steps counted.

`Hand` counts what a hand does: clicks (also those into a field that is written into), choices of a
menu, and keys that submit or step. Features are chosen by searching, as somebody would who does not
know their numbers. docs/tasks.md says how each is done, and in how many steps at most.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Site

Opened = Callable[..., Page]
LONG = 60_000  # ms; what asks the model
PASSAGE = (
    "The harbour lay quiet in the evening. An old man sat on the wall and looked at the water, "
    "and beside him stood a boy who had never seen the sea before. They had walked since the "
    "morning, over the hills and through the woods, and now they were tired. The man told of the "
    "ships that he had sailed in when he was young, of storms in the night and of islands in the "
    "south where nobody had been. The boy listened and said nothing. Then a bell began to ring in "
    "the town, and people came out of their houses and went down the street to the church. A "
    "woman with a lamp stopped in front of them and asked where they came from. The old man "
    "answered that they had come from the mountains, and that they wanted to go on with the first "
    "ship in the morning. She shook her head. There would be no ship, she said, for the captain "
    "was"
)


DOCS = Path(__file__).parents[2] / "docs" / "tasks.md"


def most(task: int, *, times: int = 1) -> int:
    """The steps that docs/tasks.md states for a task, for each of `times` where it says so, besides
    those on the way there and back.
    """
    row = next(
        line
        for line in DOCS.read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| {task} |")
    )
    steps, _, each = row.rstrip(" |").rpartition("|")[2].strip().partition(" ")
    assert each in ("", "each"), row
    assert bool(each) == (times > 1), row
    return int(steps) * times


class Hand:
    """What a person does on a page; `steps` counts it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.steps = 0

    def click(self, target: Locator, *, shift: bool = False) -> None:
        self.steps += 1
        target.click(modifiers=["Shift"] if shift else [], timeout=LONG)

    def open(self, tab: str) -> None:
        """A page of the navigation."""
        navigation = self.page.get_by_role("navigation", name="Pages", exact=True)
        self.click(navigation.get_by_role("link", name=tab, exact=True))

    def write(self, field: Locator, text: str) -> None:
        """Click into a field, and write in place of what is there."""
        self.click(field)
        field.fill(text)

    def press(self, key: str) -> None:
        self.steps += 1
        self.page.keyboard.press(key)

    def choose(self, menu: Locator, option: str) -> None:
        self.steps += 1
        menu.select_option(option)

    def search(self, words: str) -> Locator:
        """Search on the Features page; the first result's link. The search follows the typing."""
        self.write(self.page.locator("#q"), words)
        expect(
            self.page.locator('#results[data-asked*=\'"query": "' + words[:4] + "']")
        ).to_be_visible()
        return self.page.locator("td.id a").first


@pytest.fixture
def hand(own_site: Site, opened: Opened) -> Hand:
    """A person who looks at the overview."""
    return Hand(opened(own_site.url))


def opened_feature(hand: Hand, link: Locator) -> str:
    """Follow a link to a feature; the feature's number."""
    number = link.inner_text()
    hand.click(link)
    expect(hand.page.locator("h1[data-feature-name] .id")).to_have_text(number)
    return number


def test_1_find_features_and_judge_whether_each_means_one_thing(hand: Hand) -> None:
    hand.open("Features")
    page = hand.page
    for words in ("death", "money", "except", "not"):
        opened_feature(hand, hand.search(words))
        # Evidence for one meaning: each interval says on how many words it is.
        expect(page.locator(".strip a").first).to_contain_text("word")
        expect(page.locator(".contexts")).to_contain_text(words[:5])
        hand.choose(page.get_by_label("Verdict"), "monosemantic: one meaning")
        expect(page.locator("[data-kept]")).to_have_text("Kept.")
        hand.click(page.locator("#back"))
    # A search, its first result, a verdict and the way back for each.
    assert hand.steps <= most(1, times=4) + 1


def test_2_why_it_fires_on_this_token_and_what_comes_without_it(hand: Hand) -> None:
    page = hand.page
    hand.click(page.get_by_role("link", name="All that fires in this sentence"))
    row = page.locator("table.effects tbody tr").first
    expect(row).to_be_visible(timeout=LONG)
    hand.click(row.locator("[data-feature]"))
    # What it would be without the feature, as probabilities.
    expect(page.locator(".next")).to_contain_text("the likeliest is")
    # Why here: how strong it is on this token, and what it fires on elsewhere.
    expect(row).to_contain_text("of max")
    hand.click(page.get_by_role("link", name="Open its page"))
    expect(page.locator(".groups .context").first).to_be_visible()
    assert hand.steps <= most(2)


def test_3_which_features_matter_in_a_long_passage(hand: Hand) -> None:
    page = hand.page
    hand.open("Prompt")
    hand.write(page.get_by_label("Text to analyse"), PASSAGE)
    hand.press("Control+Enter")
    tokens = page.locator("#tokens [role=button]")
    expect(tokens.last).to_be_visible(timeout=LONG)
    assert tokens.count() >= 180
    hand.click(tokens.last)
    effects = page.locator("table.effects tbody tr")
    expect(effects.first).to_be_visible(timeout=LONG)
    # By their effect on the prediction, the largest first, not by activation.
    sizes = [float(row.locator("td.n").first.inner_text()) for row in effects.all()[:5]]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 0
    assert hand.steps <= most(3)


def test_4_make_a_text_speak_of_something_find_the_strength_prove_it(hand: Hand) -> None:
    page = hand.page
    hand.open("Features")
    hand.search("sea")
    # Of those that fire on it, one that makes the model say so.
    hand.choose(page.get_by_label("writes at least"), "0.05")
    expect(page.locator("#results[data-asked*='\"min_output_score\": 0.05']")).to_be_visible()
    link = page.locator("td.id a").first
    number = link.inner_text()
    link.hover()
    hand.click(page.locator("#glance").get_by_role("link", name="Steer with it"))
    hand.write(page.get_by_label("Prompt", exact=True), "The old man walked into the")
    # As small as a test needs: a person leaves them as they are.
    small = {"ladder-seeds": "2", "ladder-max_new_tokens": "12", "ladder-strengths": "0.5, 1"}
    for name, value in (small | {"steer-max_new_tokens": "12", "proof-seeds": "3"}).items():
        page.locator(f"#{name}").evaluate("(field, value) => { field.value = value; }", value)
    hand.click(page.get_by_role("button", name="Find the strength"))
    expect(page.locator("#ladder-sentence")).not_to_be_empty(timeout=LONG)
    # Each strength's texts stand there: nothing has to be generated to be read or proven.
    expect(page.locator("#rungs > li p").first).not_to_be_empty()
    hand.click(page.locator("#rungs > li button[data-strength]").first)
    hand.click(page.get_by_role("button", name="Prove it"))
    expect(page.locator(".proof-sentence")).to_be_visible(timeout=LONG)
    expect(page.locator("#proof")).to_contain_text(number)
    assert hand.steps <= most(4)


def test_5_compare_two_prompts(hand: Hand) -> None:
    page = hand.page
    hand.open("Prompt")
    hand.write(page.get_by_label("Text to analyse"), "The king came home and he")
    hand.click(page.get_by_role("button", name="Compare with another text"))
    # Text B begins as text A, and has the focus.
    other = page.get_by_label("Text B, to compare with")
    expect(other).to_be_focused()
    other.fill("The king came home and she")
    hand.click(page.get_by_role("button", name="Compare", exact=True))
    rows = page.locator("#comparison .compared tbody tr")
    expect(rows.first).to_be_visible(timeout=LONG)
    expect(page.locator("#comparison .texts .tokens .only-here")).to_have_count(0)
    assert hand.steps <= most(5)


def test_6_collect_ten_with_labels_and_notes_share_them_come_back(
    hand: Hand, own_site: Site, opened: Opened
) -> None:
    page = hand.page
    hand.open("Features")
    hand.search("ship")
    links = page.locator("td.id a")
    numbers = [links.nth(row).inner_text() for row in range(10)]
    for row in range(10):
        hand.click(links.nth(row), shift=True)
    tray = page.locator(".tray")
    hand.click(tray.get_by_role("button", name="Add to a list"))
    # The field of a new list's name has the focus.
    expect(tray.get_by_label("Name of the new list")).to_be_focused()
    tray.get_by_label("Name of the new list").fill("ten of the sea")
    hand.press("Enter")
    hand.click(tray.get_by_role("link", name="ten of the sea"))
    opened_feature(hand, page.locator("[data-entry] .names a").first)
    for place, number in enumerate(numbers):
        expect(page.locator("h1[data-feature-name] .id")).to_have_text(number)
        hand.write(page.get_by_label("Your label"), f"about ships, {place}")
        hand.press("Enter")
        expect(page.locator("[data-kept]")).to_have_text("Kept.")
        if place == 0:
            hand.click(page.locator(".own-notes summary"))
            hand.write(page.get_by_label("Your note"), "the strongest of them")
        if place < 9:
            hand.click(page.get_by_role("link", name="Next feature"))
    hand.click(page.locator("#back"))
    expect(page.locator("[data-entry]")).to_have_count(10)
    with page.expect_download() as download:
        hand.click(page.get_by_role("link", name="Download as JSON"))
    shared = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert "about ships, 9" in json.dumps(shared)
    # Each is gathered, labelled in two steps and stepped on from.
    assert hand.steps <= most(6, times=10)
    # Tomorrow, in another browser.
    later = Hand(opened(own_site.url))
    later.click(later.page.get_by_role("contentinfo").get_by_role("link", name="Lists"))
    later.click(later.page.get_by_role("link", name="ten of the sea"))
    expect(later.page.locator("[data-entry] .names").first).to_contain_text("about ships, 0")
    expect(later.page.locator("[data-entry]").first).to_contain_text("the strongest of them")
    assert later.steps <= 2


def test_7_is_this_threshold_well_placed_and_what_would_relu_do(hand: Hand) -> None:
    page = hand.page
    hand.open("Features")
    opened_feature(hand, hand.search("ship"))
    lab = page.locator("[data-lab]")
    # The verdict stands there: a valley, a slope or the bulk.
    expect(lab.locator(".says")).to_contain_text("threshold")
    hand.click(lab.get_by_text("ReLU", exact=True))
    expect(lab.locator(".says")).to_contain_text("false positives")
    hand.click(lab.get_by_role("button", name="Measure"))
    # It takes as long as the model needs; tests of the lab wait for what comes of it.
    expect(lab.locator(".measured")).not_to_be_empty()
    assert hand.steps <= most(7)


def test_8_compare_the_two_saes_and_splice_both(hand: Hand) -> None:
    page = hand.page
    rows = page.locator("table.saes tbody tr")
    expect(rows).to_have_count(2)
    hand.open("Prompt")
    hand.click(page.locator("[data-example]").first)
    hand.click(page.get_by_text("Splice switch"))
    sets = page.locator("#switch fieldset")
    for place in range(2):
        hand.click(sets.nth(place).get_by_text("Spliced", exact=True))
    expect(page.locator("#switch table tbody tr").nth(1)).to_be_visible(timeout=LONG)
    assert hand.steps <= most(8)


def test_9_export_what_is_seen(hand: Hand) -> None:
    page = hand.page
    hand.open("Features")
    hand.search("ship")
    shown = page.locator("td.id a").all_inner_texts()
    hand.click(page.locator("#export"))
    taken = page.locator("#taken")
    expect(taken).to_be_visible()
    with page.expect_download(timeout=LONG) as download:
        name = "CSV: All features that match"
        hand.click(taken.get_by_role("button", name=name, exact=True))
    file = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(file))
    assert [f"#{row['feature']}" for row in rows[: len(shown)]] == shown
    hand.click(taken.get_by_role("button", name="Python: All features that match", exact=True))
    expect(taken.locator("pre")).to_contain_text("ship")
    assert hand.steps <= most(9)


def test_10_explain_l0_fvu_and_delta_loss_to_a_student(hand: Hand) -> None:
    page = hand.page
    # It comes above the scales and moves them away from the pointer, with which the tip goes.
    expect(page.locator("#living-answer li").first).to_be_visible(timeout=LONG)
    scales = page.locator(".scales .stat")
    expect(scales).to_have_count(3)
    for place, words in enumerate(("active", "variance", "loss")):
        # Each has its scale, and its definition at a click.
        expect(scales.nth(place).locator(".scale")).to_be_visible()
        hand.click(scales.nth(place).locator("button"))
        expect(page.locator("#tip")).to_contain_text(words)
    hand.click(page.get_by_role("link", name="A tour in six steps"))
    expect(page.locator("#tour")).to_contain_text("step 1 of 6")
    assert hand.steps <= most(10)
