"""Labels in files of others: CSV, and the explanations of Neuronpedia's exports.

CSV has a first line with the columns `feature` and `label`, maybe `note`. Neuronpedia's layout is
gzipped JSON lines, `explanations/batch-N.jsonl.gz`, of which `index` (the feature) and
`description` are read; a folder of such files is read whole. Our own export of signatures in that
layout (`sae_core.index.neuronpedia`) holds no labels.

Programs for tables take a text that begins with =, +, -, @, a tab or a line's end for a formula and
run it, whoever wrote it: a CSV of ours has an apostrophe before such a text (`as_cell`), which is
taken away when it is read.
"""

import csv
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sae_core.notes.feature_notes import MOST_LABEL, MOST_NOTE

_SIGNATURE: Final = "jumpscope-signature"
"""`typeName` of what `sae_core.index.neuronpedia` writes."""
_FORMULA: Final = re.compile(r"'*[=+\-@\t\r\n]")
"""What a formula begins with; after apostrophes too, so that the first can be told from them."""


@dataclass(frozen=True, kw_only=True)
class LabelRow:
    """One feature's label as a file has it."""

    feature: int
    label: str
    note: str = ""


def read_labels(path: Path, d_sae: int) -> list[LabelRow]:
    """The labels and notes of a file or folder for an SAE of `d_sae` features; of several of one
    feature the last. Longer ones are cut.

    ValueError with one sentence if it cannot be read, holds none, names a feature that the SAE has
    not got, or is of several SAEs.
    """
    if path.is_dir():
        files = [*path.rglob("explanations/*.jsonl*")] or [*path.glob("*.jsonl*")]
        rows = _explanations(path, sorted(files, key=_by_number))
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        rows = _explanations(path, [path])
    elif path.suffix.lower() == ".csv":
        rows = list(_csv_rows(path))
    else:
        raise ValueError(
            f"{path} is no file of labels: use a .csv with the columns feature and label, or "
            "Neuronpedia's .jsonl.gz."
        )
    wrong = next((row.feature for row in rows if not 0 <= row.feature < d_sae), None)
    if wrong is not None:
        raise ValueError(f"{path} names feature {wrong}, but this SAE has 0 to {d_sae - 1}.")
    kept: dict[int, LabelRow] = {}
    for row in rows:
        if row.label or row.note:
            before = kept.get(row.feature, row)
            label, note = row.label or before.label, row.note or before.note
            kept[row.feature] = LabelRow(feature=row.feature, label=label, note=note)
    if not kept:
        raise ValueError(f"{path} holds no labels.")
    return list(kept.values())


def as_cell(text: str) -> str:
    """A text as it stands in a CSV: no program takes it for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def _text_of(cell: str) -> str:
    """What `as_cell` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _by_number(path: Path) -> tuple[Path, list[tuple[int, str]]]:
    """batch-10 comes after batch-9."""
    parts = re.findall(r"(\d+)|(\D+)", path.name)
    return path.parent, [(int(number or -1), text) for number, text in parts]


def _csv_rows(path: Path) -> Iterator[LabelRow]:
    with _told(path), path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        names = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
        if not {"feature", "label"} <= set(names):
            raise ValueError(
                f"{path} needs a first line with the columns feature and label, separated by "
                "commas."
            )
        for row in rows:
            text = (row[names["feature"]] or "").strip().removeprefix("#")
            note = (row[names["note"]] or "") if "note" in names else ""
            label = _text_of(row[names["label"]] or "")
            yield _row(path, rows.line_num, text, label, _text_of(note))


def _explanations(path: Path, files: Sequence[Path]) -> list[LabelRow]:
    """Those of all files; ValueError if they are of several SAEs, whose features share numbers."""
    rows: list[LabelRow] = []
    saes: dict[str, None] = {}
    for file in files:
        for sae, row in _records(file):
            rows.append(row)
            saes.setdefault(sae)
    if len(saes) > 1:
        first, second = itertools.islice(saes, 2)
        raise ValueError(
            f"{path} has explanations of several SAEs, such as {first[:80]} and {second[:80]}: "
            "name the folder or file of one."
        )
    return rows


def _records(path: Path) -> Iterator[tuple[str, LabelRow]]:
    """The explanations of a file, and the SAE that each is of."""
    with _told(path):
        opened: Any = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as file:
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue
                record = json.loads(text)
                if not isinstance(record, dict) or "index" not in record:
                    raise ValueError(f"line {line} of {path} is no explanation of a feature.")
                if record.get("typeName") != _SIGNATURE:
                    sae = f"{record.get('modelId', '?')}/{record.get('layer', '?')}"
                    feature, text = str(record["index"]), record.get("description")
                    yield sae, _row(path, line, feature, text, "")


def _row(path: Path, line: int, feature: str, label: Any, note: str) -> LabelRow:
    if not feature.isascii() or not feature.isdigit():
        raise ValueError(f"line {line} of {path} has {feature[:40]!r} for the feature's number.")
    shown = "".join(c if c.isprintable() else " " for c in str(label or ""))
    text = " ".join(shown.split())
    cut = text if len(text) <= MOST_LABEL else text[: MOST_LABEL - 1] + "…"
    return LabelRow(feature=int(feature), label=cut, note=note.strip()[:MOST_NOTE])


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the file is refused for inside the block, as one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}.") from error
    except (
        UnicodeDecodeError,
        json.JSONDecodeError,
        RecursionError,
        csv.Error,
        EOFError,
        zlib.error,
    ) as error:
        raise ValueError(f"{path} cannot be read: it is not whole, or not text.") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error
