"""What is kept about features is read in blocks: those that changed, and all of them rightly."""

import random
from pathlib import Path

import pytest

from sae_core.notes import Notes
from sae_core.notes.feature_notes import TOPIC, Kind
from sae_core.notes.notes_reading import NotesReader, all_notes


def test_a_star_reads_no_label_anew(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes.duckdb")
    notes.set_labels("a", {i: f"feature {i}" for i in range(3000)}, "imported", "a.csv")
    before = notes.of("a").all_labels
    notes.set_star("a", 5, True)
    after = notes.of("a").all_labels
    assert notes.of("a").features[5].starred
    assert all(after[i] is before[i] for i in range(3000))


def test_a_label_reads_its_neighbours_anew_and_no_others(tmp_path: Path) -> None:
    notes, other = Notes(tmp_path / "notes.duckdb"), Notes(tmp_path / "notes.duckdb")
    notes.set_labels("a", {i: f"feature {i}" for i in range(3000)}, "imported", "a.csv")
    notes.set_label("b", 5, "of another SAE")
    before = notes.of("a").all_labels, notes.of("b").all_labels
    other.set_label("a", 5, "years")
    assert notes.labels("a")[5].text == "years"
    assert notes.of("a").all_labels[2999] is before[0][2999]
    assert notes.of("b").all_labels[5] is before[1][5]
    assert len(notes.labels("a")) == 3000


def test_a_number_below_zero_breaks_nothing(tmp_path: Path) -> None:
    """Older versions kept such numbers from other programs' files."""
    notes = Notes(tmp_path / "notes.duckdb")
    notes.set("a", 5, label="years", starred=True)
    with notes.transaction(TOPIC) as connection:
        for table in ("labels", "features"):
            connection.execute(
                f"INSERT INTO {table} SELECT * REPLACE (-feature AS feature) FROM {table}"
            )
    notes.forget()
    assert notes.labels("a")[5].text == notes.labels("a")[-5].text == "years"
    assert notes.of("a").features[-5].starred


@pytest.mark.parametrize("seed", range(3))
def test_what_is_read_again_and_again_is_what_there_is(tmp_path: Path, seed: int) -> None:
    chance, notes = random.Random(seed), Notes(tmp_path / "notes.duckdb")
    reader = NotesReader()
    for _ in range(40):
        sae, feature = chance.choice("ab"), chance.choice([0, 1, 1023, 1024, 2047, 5000])
        kind: Kind = "yours" if chance.random() < 0.5 else "imported"
        change = chance.randrange(4)
        if change == 0:
            notes.set_label(sae, feature, chance.choice(["", "one", "two"]), kind, "a.csv")
        elif change == 1:
            notes.set_star(sae, feature, chance.random() < 0.5)
        elif change == 2:
            notes.set_note(sae, feature, chance.choice(["", "a note", "another"]))
        else:
            notes.set_labels(sae, {i: chance.choice(["", "many"]) for i in range(feature, 5001)})
        with notes.reading(TOPIC) as connection:
            assert reader.read(connection) == all_notes(connection)
