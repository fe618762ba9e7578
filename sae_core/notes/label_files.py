"""Labels in files of others: CSV, and the explanations of Neuronpedia's exports.

CSV has a first line with the columns `feature` and `label`, maybe `note`. Neuronpedia's layout is
gzipped JSON lines, `explanations/batch-N.jsonl.gz`, of which `index` (the feature) and
`description` are read; a folder of such files is read whole. Our own export of signatures in that
layout (`sae_core.index.neuronpedia`) holds no labels.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sae_core.notes.feature_notes import MOST_LABEL, MOST_NOTE

_SIGNATURE: Final = "jumpscope-signature"
"""`typeName` of what `sae_core.index.neuronpedia` writes."""


@dataclass(frozen=True, kw_only=True)
class LabelRow:
    """One feature's label as a file has it."""

    feature: int
    label: str
    note: str = ""


def read_labels(path: Path, d_sae: int) -> list[LabelRow]:
    """The labels of a file or folder for an SAE of `d_sae` features; of several of one feature the
    last. Longer ones are cut.

    ValueError with one sentence if it cannot be read, holds none, or names a feature that the SAE
    has not got.
    """
    if path.is_dir():
        files = sorted(path.rglob("explanations/*.jsonl*")) or sorted(path.glob("*.jsonl*"))
        rows = [row for file in files for row in _explanations(file)]
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        rows = list(_explanations(path))
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
    labels = {row.feature: row for row in rows if row.label}
    if not labels:
        raise ValueError(f"{path} holds no labels.")
    return list(labels.values())


def _csv_rows(path: Path) -> Iterator[LabelRow]:
    with _told(path), path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        names = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
        if not {"feature", "label"} <= set(names):
            raise ValueError(f"{path} needs a first line with the columns feature and label.")
        for row in rows:
            text = (row[names["feature"]] or "").strip().removeprefix("#")
            note = (row[names["note"]] or "") if "note" in names else ""
            yield _row(path, rows.line_num, text, row[names["label"]], note)


def _explanations(path: Path) -> Iterator[LabelRow]:
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
                    yield _row(path, line, str(record["index"]), record.get("description"), "")


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
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: it is not whole, or not text.") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error
