"""Lists of features and saved pages in the file: order, limits, two writers, another's file."""

import json
import threading
from pathlib import Path

import pytest

from sae_core.notes import ListedFeature, Notes
from sae_core.notes.feature_lists import MOST_FEATURES, MOST_LISTS, FeatureList, insert_list
from sae_core.notes.feature_lists import TOPIC as LISTS
from sae_core.notes.list_exchange import checked_document, document_of, merge_list
from sae_core.notes.saved_pages import MOST_ADDRESS

A, B = "a" * 64, "b" * 64


def feature(number: int, sae_hash: str = A) -> ListedFeature:
    return ListedFeature(
        sae_hash=sae_hash, sae="first" if sae_hash == A else "other", feature=number
    )


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "notes.duckdb")


def made(notes: Notes, name: str, *features: ListedFeature) -> str:
    list_id = notes.lists.make(name)
    for each in features:
        notes.lists.add(list_id, each)
    return list_id


def order(notes: Notes, list_id: str) -> list[tuple[str, int]]:
    return [each.place for each in notes.lists.get(list_id).features]


def test_lists_keep_their_order_and_hold_features_of_several_saes(notes: Notes) -> None:
    assert notes.lists.all() == ()
    years = made(notes, " years \n of  births ", feature(3), feature(3, B), feature(1), feature(3))
    assert notes.lists.get(years).name == "years of births"
    assert order(notes, years) == [(A, 3), (B, 3), (A, 1)]
    notes.lists.move(years, (A, 1), 0)
    assert order(notes, years) == [(A, 1), (A, 3), (B, 3)]
    notes.lists.move(years, (A, 1), 99)
    assert order(notes, years) == [(A, 3), (B, 3), (A, 1)]
    notes.lists.take(years, (A, 3))
    notes.lists.take(years, (A, 77))
    assert order(notes, years) == [(B, 3), (A, 1)]
    # Of another reader of the same file, too.
    assert Notes(notes.file.path).lists.get(years) == notes.lists.get(years)


def test_lists_are_renamed_and_removed_and_labels_stay(notes: Notes) -> None:
    one, other = made(notes, "one", feature(3)), made(notes, "Another", feature(4))
    notes.set_label(A, 3, "kept")
    notes.lists.rename(one, "zebra")
    assert [each.name for each in notes.lists.all()] == ["Another", "zebra"]
    notes.lists.remove(one)
    assert [each.id for each in notes.lists.all()] == [other]
    assert notes.labels(A)[3].text == "kept"
    for act in (notes.lists.remove, notes.lists.get, lambda gone: notes.lists.rename(gone, "x")):
        with pytest.raises(ValueError, match="there is no such list"):
            act(one)
    for name in ("", "  ", "x" * 101, "a\0b"):
        with pytest.raises(ValueError, match=r"^the (name|list) has "):
            notes.lists.make(name)
    assert len(notes.lists.all()) == 1


def test_there_are_no_more_lists_and_features_than_a_page_can_show(notes: Notes) -> None:
    full = tuple(feature(i) for i in range(MOST_FEATURES))
    with notes.transaction(LISTS) as connection:
        for i in range(MOST_LISTS):
            features = full if i == 0 else ()
            insert_list(connection, FeatureList(id=f"{i:012x}", name=f"{i}", features=features))
    with pytest.raises(ValueError, match="200 lists already"):
        notes.lists.make("one more")
    with pytest.raises(ValueError, match="200 features at most"):
        notes.lists.add("0" * 12, feature(MOST_FEATURES))
    assert order(notes, "0" * 12) == [each.place for each in full]


def test_two_writers_lose_nothing(notes: Notes) -> None:
    list_id, other = notes.lists.make("shared"), Notes(notes.file.path)

    def add(writer: Notes, first: int) -> None:
        for i in range(first, first + 8):
            writer.lists.add(list_id, feature(i))

    threads = [threading.Thread(target=add, args=pair) for pair in ((notes, 0), (other, 100))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [number for _, number in order(notes, list_id)]
    assert sorted(numbers) == [*range(8), *range(100, 108)]
    for first in (0, 100):
        own = [n for n in numbers if first <= n < first + 8]
        assert own == sorted(own)


def file_of(notes: Notes, list_id: str) -> dict:
    return json.loads(json.dumps(document_of(notes.lists.get(list_id), notes.of)))


def test_a_list_of_somebody_else_s_is_made_with_labels_and_notes(
    notes: Notes, tmp_path: Path
) -> None:
    theirs = Notes(tmp_path / "theirs.duckdb")
    list_id = made(theirs, "years", feature(3), feature(9, B))
    theirs.set(A, 3, label="in 1914", starred=True, note="n")
    theirs.set(B, 9, verdict="unclear")
    file = file_of(theirs, list_id)
    for _ in range(2):  # repeating it changes nothing
        assert merge_list(notes, checked_document(file), "theirs.json") == []
        assert notes.lists.all() == theirs.lists.all()
    label = notes.labels(A)[3]
    assert (label.text, label.source_text) == ("in 1914", "imported from theirs.json")
    assert notes.of(A).features[3].note == "n"
    assert not notes.of(A).features[3].starred
    assert notes.of(B).features[9].verdict == "unclear"


def test_of_what_both_say_yours_stays_until_theirs_is_chosen(notes: Notes, tmp_path: Path) -> None:
    theirs = Notes(tmp_path / "theirs.duckdb")
    list_id = made(notes, "mine", feature(1), feature(2), feature(4))
    merge_list(theirs, checked_document(file_of(notes, list_id)), "")
    notes.set(A, 1, label="my label", note="my note")
    theirs.set(A, 1, label="their label", note="their note")
    theirs.lists.rename(list_id, "theirs")
    theirs.lists.move(list_id, (A, 4), 0)
    theirs.lists.add(list_id, feature(7))
    document = checked_document(file_of(theirs, list_id))
    conflicts = merge_list(notes, document, "t.json")
    assert {(each.what, each.feature, each.yours, each.theirs) for each in conflicts} == {
        ("name", None, "mine", "theirs"),
        ("order", None, "#1, #2, #4, #7", "#4, #1, #2, #7"),
        ("label", 1, "my label", "their label"),
        ("note", 1, "my note", "their note"),
    }
    assert notes.lists.get(list_id).name == "mine"
    assert order(notes, list_id) == [(A, 1), (A, 2), (A, 4), (A, 7)]
    assert notes.labels(A)[1].text == "my label"
    keys = {each.what: each.key for each in conflicts}
    left = merge_list(notes, document, "t.json", {keys["order"], keys["note"]})
    assert {each.what for each in left} == {"name", "label"}
    assert order(notes, list_id) == [(A, 4), (A, 1), (A, 2), (A, 7)]
    assert notes.of(A).features[1].note == "their note"
    assert notes.labels(A)[1].text == "my label"
    assert merge_list(notes, document, "t.json", {keys["name"], keys["label"]}) == []
    assert notes.lists.get(list_id).name == "theirs"
    assert notes.labels(A)[1].text == "their label"
    assert merge_list(notes, document, "t.json") == []


def test_a_choice_counts_only_for_what_was_seen(notes: Notes) -> None:
    list_id = made(notes, "mine", feature(1))
    file = file_of(notes, list_id) | {"name": "theirs"}
    [conflict] = merge_list(notes, checked_document(file), "f")
    notes.lists.rename(list_id, "changed meanwhile")
    [left] = merge_list(notes, checked_document(file), "f", {conflict.key})
    assert left.yours == notes.lists.get(list_id).name == "changed meanwhile"


def test_a_merge_is_kept_whole_or_not_at_all(notes: Notes) -> None:
    """Where the list is refused, no label of the file is kept either."""
    file = file_of(notes, made(notes, "full", *map(feature, range(150))))
    moved = [row | {"feature": row["feature"] + 100, "label": "theirs"} for row in file["features"]]
    notes.set_label(A, 249, "mine")
    with pytest.raises(ValueError, match="a list holds 200 features at most"):
        merge_list(notes, checked_document(file | {"features": moved}), "f.json")
    assert {i: each.text for i, each in notes.labels(A).items()} == {249: "mine"}


@pytest.mark.parametrize(
    "change",
    [
        {"format": "another"},
        {"version": 2},
        {"version": True},
        {"id": "../../etc"},
        {"id": None},
        {"name": " "},
        {"name": 5},
        {"features": None},
        {"features": [5]},
        {"features": [{"sae_hash": A, "sae": "first"}]},
        {"features": [{"sae_hash": "x", "sae": "first", "feature": 1}]},
        {"features": [{"sae_hash": A, "sae": "first", "feature": -1}]},
        {"features": [{"sae_hash": A, "sae": "first", "feature": True}]},
        {"features": [{"sae_hash": A, "sae": "first", "feature": 2**31}]},
        {"features": [{"sae_hash": A, "sae": 7, "feature": 1}]},
        {"features": [{"sae_hash": A, "sae": "first", "feature": 1, "label": 5}]},
        {"features": [{"sae_hash": A, "sae": "first", "feature": 1, "label": "x" * 201}]},
        {"features": [{"sae_hash": A, "sae": "first", "feature": 1, "verdict": "good"}]},
        {"features": [{"sae_hash": A, "sae": "first", "feature": 1, "note": "half \ud800"}]},
        {"features": [{"sae_hash": A, "sae": "first\ud800", "feature": 1}]},
        {"features": [{"sae_hash": A, "sae": "first", "feature": i} for i in range(201)]},
    ],
)
def test_a_file_that_is_none_is_told_in_one_sentence(notes: Notes, change: dict) -> None:
    file = file_of(notes, made(notes, "mine", feature(1))) | change
    with pytest.raises(ValueError, match=r"^this (is no list|list (was|of features is))"):
        checked_document(file)
    for nothing in (None, [], "text", 5):
        with pytest.raises(ValueError, match="is no list of features"):
            checked_document(nothing)


def test_pages_are_saved_by_a_name_the_newest_first(notes: Notes) -> None:
    saved = notes.saved
    assert saved.all() == []
    first = saved.save("ships", "prompt?text=The+ship")
    saved.save("louder", "steer?prompt=The&edits=%5B%5D")
    saved.save("proven", "steer?prompt=The&proof=0")
    assert [each.name for each in saved.all()] == ["proven", "louder", "ships"]
    assert [each.kind for each in saved.all()] == ["proof", "steering", "prompt"]
    again = saved.save(" ships ", "prompt?text=Two+ships")
    assert again != first
    assert [each.address for each in saved.all() if each.name == "ships"] == [
        "prompt?text=Two+ships"
    ]
    saved.remove(again)
    saved.remove("gone")
    assert [each.name for each in saved.all()] == ["proven", "louder"]


@pytest.mark.parametrize(
    "address",
    [
        "",
        "prompt",
        "prompt?",
        "prompt?sae=other",
        "features?feature=1",
        "https://example.org/prompt?text=x",
        "//example.org/prompt?text=x",
        "javascript:alert(1)//prompt?text=x",
        "../prompt?text=x",
        "prompt?text=a b",
        "prompt?text=a\nb",
        "steer?text=\N{SNOWMAN}",
        "prompt?text=" + "x" * MOST_ADDRESS,
    ],
)
def test_only_pages_of_the_app_are_saved(notes: Notes, address: str) -> None:
    with pytest.raises(ValueError, match=r"can be saved|to be saved"):
        notes.saved.save("name", address)
    assert notes.saved.all() == []


def test_without_a_file_nothing_is_kept_and_nothing_is_there() -> None:
    off = Notes(None)
    assert off.lists.all() == ()
    assert off.saved.all() == []
    for act in (lambda: off.lists.make("x"), lambda: off.saved.save("x", "prompt?text=x")):
        with pytest.raises(ValueError, match="notes are off"):
            act()
