"""The results of the study of very frequent features: sites and seeds put together, and read.

    python -m benchmarks.paper together --runs FOLDER ... --out benchmarks/results

puts the files that `frequent` wrote into the folders, one of each site, into one small table with a
row for each site, kind and L0; of several folders, each has kinds or seeds of its own. Over seeds,
a number is the mean, but the least of what is least and the most of what is most; an interval
reaches from the lowest end of any seed's to the highest, so it holds what text and seeds leave
open.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper.results import path_of, read_file, shortened

KEYS = ("site", "kind", "target", "seed")
DIGITS = 3
"""Significant ones, which the page's tables do not exceed."""
QUARTILES = ("by_token", "by_previous", "by_place", "nearest")


def together(folders: Sequence[Path], out: Path) -> None:
    """Write `paper_frequent.json` into `out`; ValueError if there is nothing to put together, an
    SAE is there twice, or the parts were not measured alike.
    """
    parts, seconds = [], 0.0
    for folder in folders:
        files = sorted(folder.glob("paper_frequent_*.json"))
        if not files:
            raise ValueError(f"{folder} has no results of frequent: run it first.")
        of_folder = [read_file(path) for path in files]
        seconds += max(part["seconds"] for part in of_folder)
        parts += of_folder
    settings = _common(parts)
    groups: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for part in parts:
        for row in part["rows"]:
            key = (part["settings"]["site"], row["kind"], row["target"])
            if row["seed"] in [each["seed"] for each in groups.setdefault(key, [])]:
                raise ValueError(f"{' '.join(map(str, key))} of seed {row['seed']} is there twice.")
            groups[key].append(row)
    flats = {key: [flat(row) for row in rows] for key, rows in groups.items()}
    names = list(dict.fromkeys(n for each in flats.values() for row in each for n in row))
    data = {
        "study": "frequent",
        "settings": settings,
        "machine": parts[0]["machine"],
        "seconds": round(seconds, 1),
        "measured_tokens": parts[0]["tokens"],
        "columns": names,
        "rows": [
            [*key, [row["seed"] for row in groups[key]]]
            + [over_seeds(name, [row[name] for row in flats[key] if name in row]) for name in names]
            for key in flats
        ],
    }
    text = json.dumps(shortened(data, DIGITS), separators=(",", ":"))
    path_of("frequent", out).write_text(text + "\n", encoding="utf-8")


def _common(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The settings that all parts share, with the seeds of any; ValueError for others."""
    own = ("site", "trained")
    first = {k: v for k, v in parts[0]["settings"].items() if k not in own}
    for part in parts:
        there = {k: v for k, v in part["settings"].items() if k not in own}
        if (there, part["tokens"]) != (first, parts[0]["tokens"]):
            raise ValueError("the results of frequent were not measured alike: run all of it anew.")
    seeds = {seed for part in parts for seed in part["settings"].get("trained", [])}
    return first | {"trained": sorted(seeds)}


def flat(row: dict[str, Any], before: str = "") -> dict[str, Any]:
    """A row's numbers and lists of numbers by dotted names, without those of `KEYS`."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            found |= flat(value, f"{before}{name}.")
        elif value is not None and (before or name not in KEYS):
            found[before + name] = value
    return found


def over_seeds(name: str, values: Sequence[Any]) -> Any:
    """One value for all seeds; null without any."""
    values = [v for v in values if not isinstance(v, list) or None not in v]
    if not values:
        return None
    if not isinstance(values[0], list):
        end = {"least": min, "most": max}.get(name.rpartition("_")[2])
        return end(values) if end else sum(values) / len(values)
    columns = list(zip(*values, strict=True))
    means = [sum(column) / len(column) for column in columns]
    if name.rpartition(".")[2] in QUARTILES:
        return means
    return [means[0], min(columns[1]), max(columns[2]), *(sum(c) for c in columns[3:])]


class Table:
    """The table of `together`, by site, kind, L0 and dotted name."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._names = {name: place for place, name in enumerate(data["columns"], len(KEYS))}
        self._rows = {(row[0], row[1], int(row[2])): row for row in data["rows"]}
        self.seeds = sorted({seed for row in data["rows"] for seed in row[3]})

    def get(self, site: str, kind: str, target: int, name: str) -> Any:
        """A number or a list; None where it was not measured."""
        row = self._rows.get((site, kind, target))
        place = self._names.get(name)
        return None if row is None or place is None else row[place]
