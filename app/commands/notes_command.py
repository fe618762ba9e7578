"""`jumpscope notes`: what you keep about features, as files."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from app.commands.shared import JSONFlag, open_bundle, table, to_json

if TYPE_CHECKING:
    from sae_core.bundle import Bundle
    from sae_core.notes import Notes
    from sae_core.notes.notes_exchange import Conflict


@dataclass(frozen=True, kw_only=True)
class NotesCommand:
    """Print, export or import labels, stars, verdicts and notes of a bundle's features.

    They are kept by the hash of an SAE's weights. An export is JSON, or CSV with the columns
    feature, label, note, verdict and starred; an import is such a JSON file, a CSV with feature and
    label (and note), or Neuronpedia's explanations. What is yours stays, and is printed where an
    import says otherwise.
    """

    bundle: Annotated[str, tyro.conf.Positional] = "demo"
    """Folder of a bundle; `demo` is the bundled one."""
    sae: str = ""
    """SAE whose features are meant; empty is the bundle's first."""
    import_: Annotated[str, tyro.conf.arg(name="import")] = ""
    """File to import: .json, .csv, .jsonl.gz, or a folder of the last."""
    export: str = ""
    """File to write: .json or .csv."""
    theirs: JSONFlag = False
    """Where an import says otherwise than you, take it in place of yours."""
    notes: str = ""
    """File of notes; empty is notes.duckdb in the user's data folder."""
    json: JSONFlag = False
    """Print JSON."""

    def execute(self) -> str:
        """Import, export or read; returns what is printed."""
        from sae_core.notes import Notes

        if self.import_ and self.export:
            raise ValueError("give either --import or --export, not both.")
        if self.theirs and not self.import_:
            raise ValueError("--theirs goes with --import.")
        bundle, notes = open_bundle(self.bundle), Notes.named(self.notes)
        if not notes.kept:
            raise ValueError("notes are off: there are none to print, export or import.")
        if self.sae and self.sae not in bundle.sae_names:
            raise ValueError(
                f"there is no SAE {self.sae!r}: use one of {', '.join(bundle.sae_names)}."
            )
        name = self.sae or bundle.sae_names[0]
        if self.import_:
            return self._imported(bundle, notes, name)
        if notes.problem:
            raise ValueError(notes.problem)
        return self._written(notes, bundle.content_hash(name))

    def _imported(self, bundle: "Bundle", notes: "Notes", name: str) -> str:
        from sae_core.notes.label_files import read_labels
        from sae_core.notes.notes_exchange import as_features, merge, read_notes

        path = Path(self.import_)
        if path.suffix.lower() == ".json":
            saes = read_notes(path)
            self._check_numbers(bundle, saes)
        else:
            rows = read_labels(path, bundle.sae_config(name).d_sae)
            saes = {bundle.content_hash(name): as_features(rows)}
        replaced = _replaced(notes, saes, path.name)
        conflicts = merge(notes, saes, path.name, take_theirs=self.theirs)
        count = sum(map(len, saes.values()))
        if self.json:
            rows = [_as_row(each) for each in conflicts]
            answer = {"features": count, "replaced": replaced, "conflicts": rows}
            return to_json({**answer, "theirs": self.theirs})
        features = "feature" if count == 1 else "features"
        said = f"{count:,} {features} imported from {path.name}."
        if replaced:
            labels, are = ("label", "is") if replaced == 1 else ("labels", "are")
            said += f" {replaced:,} {labels} of an earlier {path.name} {are} replaced."
        if not conflicts:
            return said
        who = "theirs taken" if self.theirs else "yours kept"
        heads = ["feature", "what", "yours", "theirs"]
        cells = [
            [f"#{each.feature}", each.what, _short(each.yours), _short(each.theirs)]
            for each in conflicts
        ]
        return f"{said}\n{len(conflicts):,} said otherwise ({who}):\n{table([heads, *cells])}"

    def _check_numbers(self, bundle: "Bundle", saes: dict[str, dict[int, dict[str, Any]]]) -> None:
        """ValueError if a file names features that an SAE of the bundle has not got; those whose
        weights would have to be fetched for that are not looked at.
        """
        for name in bundle.sae_names:
            if not Path(bundle.sae_source(name)).exists():
                continue
            features = saes.get(bundle.content_hash(name), {})
            d_sae = bundle.sae_config(name).d_sae
            if features and max(features) >= d_sae:
                raise ValueError(
                    f"{self.import_} names feature {max(features)} of {name}, which has 0 to "
                    f"{d_sae - 1}."
                )

    def _written(self, notes: "Notes", sae_hash: str) -> str:
        from sae_core.files import atomic_write
        from sae_core.notes.notes_exchange import exported, write_notes

        kept = notes.of(sae_hash)
        features = exported(kept)
        path = Path(self.export)
        if self.export and path.suffix.lower() not in (".json", ".csv"):
            raise ValueError(f"{path} must end in .json or .csv.")
        if not self.export:
            if self.json:
                return to_json({"sae_hash": sae_hash, "features": features})
            return _shown(features)
        if path.suffix.lower() == ".json":
            write_notes(path, {sae_hash: kept})
        else:
            with atomic_write(path) as temporary:
                temporary.write_text(_csv(features), encoding="utf-8", newline="")
        if self.json:
            return to_json({"features": len(features), "file": str(path)})
        return f"{len(features):,} features written to {path}"


def _shown(features: dict[str, dict[str, Any]]) -> str:
    if not features:
        return "Nothing is kept about this SAE's features yet."
    heads = ["feature", "star", "label", "verdict", "note"]
    rows = [
        [
            f"#{number}",
            "*" if row.get("starred") else "",
            row.get("label", ""),
            row.get("verdict", ""),
            _short(row.get("note", "")),
        ]
        for number, row in features.items()
    ]
    return table([heads, *rows])


def _csv(features: dict[str, dict[str, Any]]) -> str:
    from sae_core.notes.label_files import as_cell

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["feature", "label", "note", "verdict", "starred"])
    for number, row in features.items():
        texts = [as_cell(row.get(key, "")) for key in ("label", "note", "verdict")]
        writer.writerow([number, *texts, "yes" if row.get("starred") else ""])
    return text.getvalue()


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59] + "…"


def _replaced(notes: "Notes", saes: dict[str, dict[int, dict[str, Any]]], source: str) -> int:
    """Labels of another text that an earlier file of this name has given."""
    return sum(
        label.kind == "imported" and label.source == source and label.text != row["label"]
        for sae_hash, features in saes.items()
        for feature, row in features.items()
        if row.get("label")
        for label in notes.of(sae_hash).all_labels.get(feature, ())
    )


def _as_row(conflict: "Conflict") -> dict[str, Any]:
    return {
        "sae_hash": conflict.sae_hash,
        "feature": conflict.feature,
        "what": conflict.what,
        "yours": conflict.yours,
        "theirs": conflict.theirs,
    }
