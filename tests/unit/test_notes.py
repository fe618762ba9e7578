"""Stars, labels, verdicts and notes: what is set is read, by the hash of the SAE's weights."""

from pathlib import Path

import pytest

from sae_core.notes import Notes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notes.duckdb"


def test_what_is_set_is_read_of_that_sae_alone(path: Path) -> None:
    notes = Notes(path)
    notes.set_label("a", 3, "  years \n and dates ")
    notes.set_star("a", 3, True)
    notes.set_verdict("a", 3, "polysemantic")
    notes.set_note("a", 3, "two lines\nof text")
    feature, label = notes.of("a").features[3], notes.labels("a")[3]
    assert (label.text, label.kind, label.source_text) == ("years and dates", "yours", "yours")
    assert (feature.starred, feature.verdict) == (True, "polysemantic")
    assert feature.note == "two lines\nof text"
    assert feature.time is not None
    assert dict(notes.labels("b")) == {}
    assert dict(notes.of("b").features) == {}


def test_what_is_taken_back_is_gone(path: Path) -> None:
    notes = Notes(path)
    notes.set_label("a", 3, "one")
    notes.set_label("a", 3, "two")
    notes.set_star("a", 3, True)
    notes.set_note("a", 3, "text")
    assert notes.labels("a")[3].text == "two"
    notes.set_label("a", 3, "")
    notes.set_star("a", 3, False)
    assert notes.of("a").features[3].note == "text"
    notes.set_note("a", 3, "")
    assert dict(notes.labels("a")) == {}
    assert dict(notes.of("a").features) == {}


def test_your_label_goes_before_imported_ones_and_those_before_explanations(path: Path) -> None:
    notes = Notes(path)
    notes.set_label("a", 3, "explained", "explanation", "a model (prompt v1)")
    assert notes.labels("a")[3].text == "explained"
    assert notes.labels("a")[3].source_text == "explained by a model (prompt v1)"
    notes.set_label("a", 3, "from one", "imported", "one.csv")
    notes.set_label("a", 3, "from two", "imported", "two.csv")
    assert notes.labels("a")[3].source_text == "imported from two.csv"
    notes.set_label("a", 3, "mine")
    texts = [label.text for label in notes.of("a").all_labels[3]]
    assert texts == ["mine", "from two", "from one", "explained"]
    notes.set_label("a", 3, "")
    assert notes.labels("a")[3].text == "from two"


def test_many_labels_are_kept_together(path: Path) -> None:
    notes = Notes(path)
    notes.set_labels("a", {i: f"label {i}" for i in range(5000)}, "imported", "x.csv")
    notes.set_labels("a", {1: "new", 2: ""}, "imported", "x.csv")
    labels = notes.labels("a")
    assert len(labels) == 4999
    assert (labels[1].text, labels[4999].text) == ("new", "label 4999")


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda notes: notes.set_label("a", 1, "x" * 201), "has 201 characters but may have 200"),
        (lambda notes: notes.set_label("a", 1, "a\0b"), "cannot be shown"),
        (lambda notes: notes.set_note("a", 1, "x" * 4001), "may have 4000"),
        (lambda notes: notes.set_note("a", 1, "\ud800"), "halves of characters"),
        (lambda notes: notes.set_label("a", 1, "\ud800"), "halves of characters"),
        (lambda notes: notes.set_verdict("a", 1, "good"), "use one of monosemantic"),
    ],
)
def test_what_cannot_be_kept_is_one_sentence(path: Path, write, said: str) -> None:
    notes = Notes(path)
    with pytest.raises(ValueError, match=said):
        write(notes)
    assert dict(notes.labels("a")) == {}


def test_text_is_kept_as_it_is(path: Path) -> None:
    """Quotes, markup and every script; SQL takes all as values."""
    notes = Notes(path)
    for i, text in enumerate(["'; DROP TABLE labels; --", "<b>&amp;</b>", "\u05d0 \U0001f600 é"]):
        notes.set_label("'a' --", i, text)
        assert notes.labels("'a' --")[i].text == text
