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
from sae_core.notes import Notes
from sae_core.notes.label_files import read_labels
from sae_core.notes.notes_exchange import Conflict, merge, read_notes, write_notes


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
        ("a.csv", b"feature,label\n3.5,x\n", "line 2 of .* has '3.5' for the feature's number"),
        ("a.csv", b"feature,label\n99,x\n", "names feature 99, but this SAE has 0 to 9"),
        ("a.csv", b"feature,label\n", "holds no labels"),
        ("a.csv", b"\xff\xfe\x00", "not text"),
        ("a.jsonl", b"{", "not whole"),
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
        '{"format": "jumpscope-notes", "version": 1}',
        '{"format": "jumpscope-notes", "version": 1, "saes": {"a": {"x": {}}}}',
        '{"format": "jumpscope-notes", "version": 1, "saes": {"a": {"1": {"label": 3}}}}',
        '{"format": "jumpscope-notes", "version": 1, "saes": {"a": {"1": {"verdict": "x"}}}}',
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
    assert "mine, with comma" in said
    assert Notes(path).labels(digest)[3].text == "mine, with comma"
    answer = json.loads(ran("--import", str(tmp_path / "in.csv"), "--theirs", "--json"))
    assert answer["conflicts"][0]["theirs"] == "other"
    assert Notes(path).labels(digest)[3].text == "other"
    ran("--export", str(tmp_path / "out.json"))
    assert read_notes(tmp_path / "out.json")[digest][4]["label"] == "new"


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
