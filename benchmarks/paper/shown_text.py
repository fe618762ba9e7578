"""What the pages and figures share: the results read, and how numbers are written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper.results import FOLDER, path_of, read
from benchmarks.pareto_report import curves_of, merged

Results = dict[str, Any]
UNMEASURED = "(not measured)"
"""What stands in a sentence for a number that there is not."""

UNTRAINED = "\n\nNot trained before the time was up.\n\n"
"""What stands in the place of a table."""
NAMES = {"llama": "Llama", "mistral": "Mistral"}
"""Of families of language models."""
LATER = ("comparison", "elsewhere")
"""Studies without which the pages say that they were not run."""

KERNEL_NAMES = {
    "rectangle": "rectangle",
    "triangular": "triangular",
    "epanechnikov": "Epanechnikov",
    "gaussian": "Gaussian",
    "fourth_order": "fourth order",
    "own_jump": "own jump",
}


def load(folder: Path = FOLDER) -> Results:
    """The results of all studies by name, those of `LATER` where they were run; `pareto` is the
    first comparison of architectures.
    """
    studies = ["threshold", "rounding", "run", "kernels", "bandwidth", "frequencies", "frequent"]
    studies += ["proofs"]
    studies += [name for name in LATER if path_of(name, folder).is_file()]
    held: Results = {name: read(name, folder) for name in studies}
    pareto = merged([folder / "pareto_h200.json"])
    return held | {"pareto": curves_of(pareto), "pareto_targets": pareto["settings"]["targets"]}


def digits(value: float, count: int = 3) -> str:
    """With so many significant digits, and no exponent."""
    if value == 0:
        return "0"
    places = max(0, count - 1 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{places}f}"


def share(value: float, count: int = 2) -> str:
    """As per cent; tenths of one below ten."""
    value = 100 * value
    return f"{value:.{0 if abs(value) >= 10 else count - 1}f} %"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table between empty lines."""
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n\n" + "\n".join(lines) + "\n\n"


def listed(parts: Sequence[str]) -> str:
    """As words of a sentence: a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def cost(data: dict[str, Any]) -> str:
    """The machine of a study that can be gone on with, and what all its passes took."""
    machine = data["machine"]
    device = machine["device"] or f"CPU, {machine['threads']} threads"
    seconds = sum(data["pass_seconds"].values())
    return f"{device}, PyTorch {machine['torch']}, {seconds:,.0f} s"


def broken_down(data: dict[str, Any]) -> list[str]:
    """A sentence for each language model that was trained for a study and broke down; what was
    trained on it is not in the results.
    """
    return [
        f"A {NAMES[family]} that was trained for this broke down "
        f"({each['nats_per_token']:.2f} nats per token of text it never saw), so that the "
        f"{each['rows']} SAEs on it are left out."
        for family, each in data.get("left_out", {}).items()
    ]
