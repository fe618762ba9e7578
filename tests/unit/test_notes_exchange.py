"""Notes as files: what is exported is imported, what is yours stays, what is wrong is told."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from app import cli
from sae_core.bundle import Bundle
from sae_core.index import Index
from sae_core.index.neuronpedia import write_neuronpedia
from sae_core.notes import Notes, kept_notes
from sae_core.notes.label_files import read_labels
from sae_core.notes.notes_exchange import Conflict, as_features, merge, read_notes, write_notes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notes.duckdb"


def batch(path: Path, *records: dict[str, Any]) -> Path:
    """A file of Neuronpedia's explanations."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return path


def test_what_is_exported_is_imported_elsewhere(path: Path, tmp_path: Path) -> None:
    mine, theirs = Notes(path), Notes(tmp_path / "theirs.duckdb")
    mine.set("a", 3, label="ships \U0001f6a2", starred=True, verdict="unclear", note="two\nlines")
    mine.set("a", 5, starred=True)
    file = tmp_path / "labels.json"
    write_notes(file, {"a": mine.of("a")})
    assert merge(theirs, read_notes(file), "labels.json") == []
    label, note = theirs.labels("a")[3], theirs.of("a").features[3]
    assert (label.text, label.source_text) == ("ships \U0001f6a2", "imported from labels.json")
    assert (note.starred, note.verdict, note.note) == (True, "unclear", "two\nlines")
    assert theirs.of("a").features[5].starred
    before = theirs.of("a").all_labels
    assert merge(theirs, read_notes(file), "labels.json") == []
    assert {i: len(each) for i, each in theirs.of("a").all_labels.items()} == {
        i: len(each) for i, each in before.items()
    }


def test_yours_stays_and_what_differs_is_told(path: Path) -> None:
    notes = Notes(path)
    notes.set("a", 3, label="mine", verdict="unclear")
    saes = {"a": {3: {"label": "theirs", "verdict": "polysemantic", "note": "n", "starred": True}}}
    said = [
        Conflict(sae_hash="a", feature=3, what="label", yours="mine", theirs="theirs"),
        Conflict(sae_hash="a", feature=3, what="verdict", yours="unclear", theirs="polysemantic"),
    ]
    assert merge(notes, saes, "x.json") == said
    feature = notes.of("a").features[3]
    assert notes.labels("a")[3].text == "mine"
    assert [each.text for each in notes.of("a").all_labels[3]] == ["mine", "theirs"]
    assert (feature.verdict, feature.note, feature.starred) == ("unclear", "n", True)
    assert merge(notes, saes, "x.json", take_theirs=True) == said
    assert notes.labels("a")[3].text == "theirs"
    assert notes.of("a").features[3].verdict == "polysemantic"


def test_csv_is_read_as_spreadsheets_write_it(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(
        '\ufeffFeature,Label,Note\r\n#3,"a, b","x"\r\n5,,\r\n7, c \x07d ,\r\n'.encode()
    )
    rows = read_labels(file, 10)
    assert [(row.feature, row.label, row.note) for row in rows] == [
        (3, "a, b", "x"),
        (7, "c d", ""),
    ]


def test_neuronpedia_s_explanations_are_read(tmp_path: Path) -> None:
    """Numbers are texts there, several explanations of one feature are usual, fields may lack."""
    one = batch(
        tmp_path / "v1/gemma/20-res/explanations/batch-0.jsonl.gz",
        {"index": "3", "description": "first", "typeName": "oai_token-act-pair"},
        {"index": "3", "description": "second", "explanationModelName": "a model"},
        {"index": "4", "description": None},
        {"index": 6, "description": "x" * 300},
    )
    batch(one.with_name("batch-1.jsonl.gz"), {"index": "7", "description": "of the other"})
    batch(tmp_path / "v1/gemma/20-res/features/batch-0.jsonl.gz", {"no": "explanation"})
    rows = read_labels(tmp_path, 8)
    assert {row.feature: row.label for row in rows} == {
        3: "second",
        6: "x" * 199 + "…",
        7: "of the other",
    }
    assert len(read_labels(one, 8)) == 2


def test_batches_are_read_by_their_numbers(tmp_path: Path) -> None:
    """Of several labels of one feature the last counts, and batch 10 comes after batch 9."""
    for n in (9, 10):
        batch(tmp_path / f"batch-{n}.jsonl.gz", {"index": 3, "description": f"of batch {n}"})
    assert [row.label for row in read_labels(tmp_path, 8)] == ["of batch 10"]


@pytest.mark.parametrize(
    "other",
    [{"modelId": "gemma-2-2b", "layer": "21-res"}, {"modelId": "gemma-2-9b", "layer": "20-res"}],
)
def test_explanations_of_several_saes_are_not_mixed(tmp_path: Path, other: dict[str, str]) -> None:
    """Their features have the same numbers."""
    one = {"modelId": "gemma-2-2b", "layer": "20-res"}
    batch(tmp_path / "a/explanations/batch-0.jsonl.gz", {"index": 3, "description": "x", **one})
    file = tmp_path / "b/explanations/batch-0.jsonl.gz"
    batch(file, {"index": 4, "description": "y", **other})
    with pytest.raises(ValueError, match="several SAEs, such as gemma-2-2b/20-res and gemma") as e:
        read_labels(tmp_path, 8)
    assert "\n" not in str(e.value)
    batch(file, {"index": 4, "description": "y", **one})
    assert {row.feature for row in read_labels(tmp_path, 8)} == {3, 4}


def test_a_row_with_a_note_alone_is_kept(tmp_path: Path, path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("feature,label,note\n3,,a note\n4,a label,\n4,,its note\n5,,\n")
    rows = read_labels(file, 10)
    assert [(row.feature, row.label, row.note) for row in rows] == [
        (3, "", "a note"),
        (4, "a label", "its note"),
    ]
    notes = Notes(path)
    merge(notes, {"a": as_features(rows)}, "labels.csv")
    assert notes.of("a").features[3].note == "a note"
    assert set(notes.labels("a")) == {4}


def test_more_notes_than_are_held_are_refused_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_notes, "MOST_NOTES", 2)
    notes = Notes(path)
    saes = {"a": {i: {"label": "x", "note": "n"} for i in range(3)}}
    with pytest.raises(ValueError, match="2 features of an SAE may have a note, and 3 would"):
        merge(notes, saes, "x.json")
    assert notes.empty
    merge(notes, {"a": {i: {"label": "x", "starred": True} for i in range(3)}}, "x.json")
    notes.set_note("a", 0, "one")
    notes.set_note("a", 1, "two")
    notes.set_note("b", 2, "of another SAE")
    with pytest.raises(ValueError, match="remove some"):
        notes.set_note("a", 2, "three")
    notes.set_note("a", 1, "two, changed")
    notes.set_star("a", 2, False)


def test_our_own_signatures_are_no_labels(tiny_bundle: Bundle, tmp_path: Path) -> None:
    index = Index.open(tiny_bundle.index_path(tiny_bundle.sae_names[0]))
    write_neuronpedia(index, tmp_path / "out", "1-x")
    index.close()
    with pytest.raises(ValueError, match="holds no labels"):
        read_labels(tmp_path / "out", 64)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"feature\n3\n", "columns feature and label"),
        ("a.csv", b"feature;label\n3;sea\n", "separated by commas"),
        ("a.csv", b"feature,label\n3.5,x\n", "line 2 of .* has '3.5' for the feature's number"),
        ("a.csv", b"feature,label\n99,x\n", "names feature 99, but this SAE has 0 to 9"),
        ("a.csv", b"feature,label\n", "holds no labels"),
        ("a.csv", b"\xff\xfe\x00", "not text"),
        ("a.jsonl", b"{", "not whole"),
        ("a.jsonl", b"[" * 200_000, "cannot be read"),
        ("a.jsonl", b"[]\n", "line 1 of .* is no explanation"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"),
        ("a.txt", b"x", "is no file of labels"),
        ("missing.csv", None, "there is no file"),
    ],
)
def test_a_wrong_file_is_one_sentence(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        read_labels(tmp_path / name, 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"format": "other"}',
        '{"format": "jumpscope-notes", "version": 2, "saes": {}}',
        '{"format": "jumpscope-notes", "version": true, "saes": {}}',
        '{"format": "jumpscope-notes", "version": 1}',
        '{"format": "jumpscope-notes", "version": 1, "saes": {"a": {"x": {}}}}',
        '{"format": "jumpscope-notes", "version": 1, "saes": {"a": {"1": {"label": 3}}}}',
        '{"format": "jumpscope-notes", "version": 1, "saes": {"a": {"1": {"verdict": "x"}}}}',
        '{"format": "jumpscope-notes", "version": 1, "saes": {"a": {"-5": {"label": "x"}}}}',
        '{"format": "jumpscope-notes", "version": 1, "saes": {"a": {"99999999999": {}}}}',
        '{"format": "jumpscope-notes", "version": 1, "saes": {"a": {"\u0665": {}}}}',
        '{"format": "jumpscope-notes", "version": 1, "saes": {"a": {"1": {"note": "\\ud800"}}}}',
        '{"format": "jumpscope-notes", "version": 1, "saes": {"a": {"1": {"label": "\\ud800"}}}}',
    ],
)
def test_a_wrong_file_of_notes_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.json") as caught:
        read_notes(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


def test_the_command_exports_imports_and_prints(
    tiny_bundle: Bundle, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = tiny_bundle.content_hash(tiny_bundle.sae_names[0])

    def ran(*options: str) -> str:
        status = cli.main(["notes", str(tiny_bundle.path), "--notes", str(path), *options])
        out = capsys.readouterr()
        assert status == 0, out.err
        return out.out

    assert "Nothing is kept" in ran()
    Notes(path).set(digest, 3, label="mine, with comma", note="a\nb", starred=True)
    assert "mine, with comma" in ran()
    ran("--export", str(tmp_path / "out.csv"))
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["feature"], row["label"], row["note"]) == ("3", "mine, with comma", "a\nb")
    assert row["starred"] == "yes"
    (tmp_path / "in.csv").write_text("feature,label\n3,other\n4,new\n")
    said = ran("--import", str(tmp_path / "in.csv"))
    assert "2 features imported" in said
    (tmp_path / "one.csv").write_text("feature,label\n7,alone\n")
    assert "1 feature imported" in ran("--import", str(tmp_path / "one.csv"))
    assert "replaced" not in said
    assert "mine, with comma" in said
    assert Notes(path).labels(digest)[3].text == "mine, with comma"
    answer = json.loads(ran("--import", str(tmp_path / "in.csv"), "--theirs", "--json"))
    assert answer["conflicts"][0]["theirs"] == "other"
    assert answer["replaced"] == 0
    assert Notes(path).labels(digest)[3].text == "other"
    (tmp_path / "in.csv").write_text("feature,label\n3,other\n4,newer\n")
    assert "1 label of an earlier in.csv is replaced." in ran("--import", str(tmp_path / "in.csv"))
    ran("--export", str(tmp_path / "out.json"))
    assert read_notes(tmp_path / "out.json")[digest][4]["label"] == "newer"


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "'=", "''@", "'"])
def test_no_text_of_a_csv_is_a_formula_and_it_comes_back_as_it_was(
    tiny_bundle: Bundle,
    path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    first: str,
) -> None:
    digest = tiny_bundle.content_hash(tiny_bundle.sae_names[0])
    text = f"{first}HYPERLINK(1)"
    Notes(path).set(digest, 3, label=text, note=text)
    kept = Notes(path).labels(digest)[3].text
    file, other = tmp_path / "out.csv", tmp_path / "other.duckdb"
    command = ["notes", str(tiny_bundle.path), "--notes"]
    assert cli.main([*command, str(path), "--export", str(file)]) == 0
    with file.open(newline="", encoding="utf-8") as opened:
        (row,) = csv.DictReader(opened)
    assert not {row["label"][0], row["note"][0]} & set("=+-@\t\r")
    assert row["feature"] == "3"
    assert cli.main([*command, str(other), "--import", str(file)]) == 0
    capsys.readouterr()
    assert Notes(other).labels(digest)[3].text == kept
    assert Notes(other).of(digest).features[3].note == text.strip()


def test_without_notes_an_export_stays_as_it_is(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("out.csv", "out.json"):
        file = tmp_path / name
        file.write_text("what was exported")
        command = ["notes", str(tiny_bundle.path), "--notes", "off", "--export", str(file)]
        assert cli.main(command) == 2
        assert "notes are off" in capsys.readouterr().err
        assert file.read_text() == "what was exported"


def test_a_file_for_more_features_than_the_sae_has_is_refused_whole(
    tiny_bundle: Bundle, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = tiny_bundle.content_hash(tiny_bundle.sae_names[0])
    file = tmp_path / "in.json"
    whole = {"format": "jumpscope-notes", "version": 1}
    saes = {digest: {"3": {"label": "x"}, "64": {"label": "y"}}}
    file.write_text(json.dumps({**whole, "saes": saes}))
    command = ["notes", str(tiny_bundle.path), "--notes", str(path), "--import", str(file)]
    assert cli.main(command) == 2
    assert "names feature 64 of" in capsys.readouterr().err
    assert Notes(path).empty
    file.write_text(json.dumps({**whole, "saes": {"of another SAE": {"5000000": {"label": "y"}}}}))
    assert cli.main(command) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--import", "a.csv", "--export", "b.csv"], "not both"),
        (["--theirs"], "--theirs goes with --import"),
        (["--export", "a.txt"], "must end in .json or .csv"),
        (["--sae", "none"], "there is no SAE"),
        (["--import", "missing.json"], "there is no file"),
    ],
)
def test_a_mistake_is_one_line(
    tiny_bundle: Bundle,
    path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    assert cli.main(["notes", str(tiny_bundle.path), "--notes", str(path), *options]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
