"""What the overview's template shows, from the answers of `app.service.overview`."""

from collections.abc import Mapping
from typing import Any, Final

from markupsafe import Markup

from app.engine.workbench import Workbench
from app.service import overview as service
from app.service.labels import with_labels
from app.web import numbers
from app.web.charts import METRICS, histogram, lines_of, plot
from app.web.charts.pareto import CURVES, Mark
from app.web.living import living
from app.web.memory_view import memory_view
from app.web.number_scales import disagreement, dots, fvu_axis, loss_axis
from app.web.numbers import count, fixed, number, one_in, percent, signed
from app.web.templating import address, part
from sae_core.definitions import HIGH_FREQUENCY
from sae_core.index.highlights import RULE
from sae_core.number_text import fvu_text

Data = Mapping[str, Any]

HIGHLIGHTED_NEAR: Final = (14, 6)
"""Tokens before and after the peak that a card shows."""
_HASH: Final = 12
"""Characters of a hash that are shown; the rest is in the tip."""
_ARCHITECTURES: Final = {"jumprelu": "JumpReLU", "gated": "Gated", "topk": "TopK"}

_MEASURED: Final = (
    ("l0", "features active per token (L0)", number),
    ("fvu", "variance unexplained (FVU)", fvu_text),
    ("delta_lm_loss", "delta LM loss, nats per token", lambda value: signed(value, 3)),
    ("kl", "KL divergence, nats per token", lambda value: fixed(value, 3)),
    ("loss_recovered_mean", "loss recovered, of mean ablation", lambda value: fixed(value, 3)),
    ("loss_recovered_zero", "loss recovered, of zero ablation", lambda value: fixed(value, 3)),
    ("dead", "of features are dead", percent),
    ("high_frequency", f"fire on {100 * HIGH_FREQUENCY:g} % of tokens or more", percent),
)
"""(key, name, how it is written), in the order of the strip."""

_COLUMNS: Final = (
    ("declared_l0", "L0 by its makers", number),
    ("l0", "L0", number),
    ("fvu", "FVU", fvu_text),
    ("delta_lm_loss", "delta LM loss", lambda value: signed(value, 3)),
    ("loss_recovered_mean", "loss recovered", lambda value: fixed(value, 3)),
    ("dead", "dead", percent),
)
"""The same of the table of SAEs."""

_COMPARED: Final = {
    "fvu": "How much is not reconstructed",
    "delta_lm_loss": "What that costs the language model",
}
"""Title of a plot of the comparison; its axis says what is measured."""


def overview(workbench: Workbench, query: Mapping[str, str]) -> dict[str, Any]:
    """The page of the SAE that the address names."""
    data = with_labels(workbench, service.overview(workbench, query.get("sae", "")))
    return overview_page(data, workbench.sae_name(), living(workbench, data))


def overview_page(data: Data, first_sae: str, sentence: Data) -> dict[str, Any]:
    """The template's values from the service's answer, with the sentence that is read (`living`);
    `first_sae` is left out of addresses.
    """
    row = next(row for row in data["saes"] if row["name"] == data["sae"])
    in_address = "" if data["sae"] == first_sae else data["sae"]
    readable = row["problem"] is None
    return {
        "introduction": _introduction(data, row),
        "site": _site(row) if readable else "",
        "problems": [each for each in (data["model"].get("problem"), row["problem"]) if each],
        "readable": readable,
        "sentence": sentence,
        "missing": data["missing"],
        "quality": _quality(data, row),
        "definitions": data["definitions"],
        "frequencies": _frequencies(data, in_address),
        "loaded": _loaded(row) if readable else [],
        "check": data["check"],
        "table": _table(data, first_sae) if len(data["saes"]) > 1 else None,
        "highlights": data["highlights"],
        "highlights_rule": RULE,
        "near": HIGHLIGHTED_NEAR,
        "comparison": comparison(data.get("comparison"), row),
        "memory": memory_view(data["memory"], data["saes"]),
    }


def _introduction(data: Data, row: Data) -> str:
    model = data["model"]
    title = str(data["bundle"]["title"]).rstrip(".")
    facts = []
    if model.get("parameters") and "parameter" not in title.lower():
        facts.append(f"{count(model['parameters'])} parameters")
    if model.get("layers") and model.get("d_model"):
        facts.append(f"{model['layers']} layers of width {model['d_model']:,}")
    if row["problem"] is None:
        facts.append(f"read through {row['d_sae']:,} features at ")
    if not facts:
        return f"{title}."
    facts[0] = facts[0][0].upper() + facts[0][1:]
    return f"{title}. {', '.join(facts)}" + ("" if row["problem"] is None else ".")


def _site(row: Data) -> str:
    if row.get("site") is None:
        return "an unknown site"
    return f"layer {row['layer']} · {row['site']}"


def _quality(data: Data, row: Data) -> dict[str, Any]:
    """The strip of numbers, those in the SAE's files, else those of the index's text; the first
    three stand on a scale where enough is known.
    """
    measured, index, where = data["measured"], data["index"], "validation text"
    if not measured and index is not None:
        measured, where = {**index["totals"], "tokens": index["tokens"]}, "the index's text"
    scales = {
        "l0": dots(measured.get("l0"), row["d_sae"]),
        "fvu": fvu_axis(
            measured.get("fvu"), measured.get("l0"), data.get("comparison"), row.get("reads")
        ),
        "delta_lm_loss": loss_axis(
            measured.get("delta_lm_loss"), measured.get("loss_recovered_mean")
        ),
    }
    rows = [
        {
            "key": key,
            "value": write(measured[key]),
            "name": name,
            "definition": str(data["definitions"].get(key, "")),
            "scale": scales.get(key),
        }
        for key, name, write in _MEASURED
        if measured.get(key) is not None
    ]
    tokens = measured.get("tokens") if rows else None
    return {
        "scaled": [each for each in rows if each["scale"]],
        "rows": [each for each in rows if not each["scale"]],
        "words": f"Measured on {count(tokens)} tokens of {where}." if tokens else "",
        "measured": bool(data["measured"]),
    }


def _frequencies(data: Data, in_address: str) -> Markup | None:
    """The histogram; None without an index, empty if nothing has fired."""
    chart = data["frequency_histogram"]
    if chart is None:
        return None
    edges, counts = chart["edges"], chart["counts"]
    if not counts or not any(counts):
        return Markup()
    first = next(i for i, value in enumerate(counts) if value)
    last = len(counts) - next(i for i, value in enumerate(reversed(counts)) if value)
    edges, counts = edges[first : last + 1], counts[first:last]

    def tip(low: float, high: float, value: int) -> str:
        return (
            f"{value:,} features fire on {one_in(10**low)} to {one_in(10**high)} tokens; "
            "click to list them"
        )

    def bar_link(low: float, high: float) -> str:
        return address("features", sae=in_address, min=f"{10**low:.3g}", max=f"{10**high:.3g}")

    return histogram(
        edges,
        counts,
        label="Histogram of feature frequency on a logarithmic axis",
        log_counts=False,
        ticks=[(float(k), one_in(10.0**k)) for k in range(-8, 1) if edges[0] <= k <= edges[-1]],
        bar_tip=tip,
        bar_link=bar_link,
    )


def _table(data: Data, first_sae: str) -> dict[str, Any]:
    """Columns with their definitions, and a row for each SAE."""
    columns = [
        each for each in _COLUMNS if any(row.get(each[0]) is not None for row in data["saes"])
    ]
    return {
        "disagreement": disagreement(data["saes"]),
        "heads": [(name, str(data["definitions"].get(key, ""))) for key, name, _ in columns],
        "rows": [
            {
                "current": row["name"] == data["sae"],
                "address": address("./", sae="" if row["name"] == first_sae else row["name"]),
                "place": row["place"],
                "width": f"{row['d_sae']:,}" if row["d_sae"] else numbers.UNDEFINED,
                "values": [
                    numbers.UNDEFINED if row.get(key) is None else write(row[key])
                    for key, _, write in columns
                ],
            }
            for row in data["saes"]
        ],
    }


def comparison(data: Data | None, row: Data) -> dict[str, Any] | None:
    """What other SAEs of this model measure where this one reads, with this one marked; None
    without a comparison at its site, for other sites say nothing about it.
    """
    curves = [
        curve for curve in (data or {}).get("curves", ()) if curve["site"] == row.get("reads")
    ]
    if data is None or not curves:
        return None
    site = row["reads"]
    plots = []
    for metric, title in _COMPARED.items():
        own = None
        if row.get("l0") is not None and row.get(metric) is not None:
            own = Mark("this SAE", (row["l0"], row[metric]))
        lines = lines_of(data, site, metric)
        plots.append(plot(lines, title=title, y_name=METRICS[metric], own=own))
    return {
        "plots": plots,
        "place": row["place"],
        "width": count(data["d_sae"]),
        "tokens": count(data["tokens"]),
        "rows": [
            (CURVES[curve["curve"]], number(point["l0"]), *_pair(point))
            for curve in curves
            for point in curve["points"]
        ],
        "own": ("this SAE", number(row.get("l0")), *_pair(row)),
    }


def _pair(values: Data) -> tuple[str, str]:
    return fvu_text(values.get("fvu")), fixed(values.get("delta_lm_loss"), 3)


def _loaded(row: Data) -> list[tuple[str, str]]:
    """What an SAE's files say of it: names and values, without what is not known."""
    reads = row["reads"] or "unknown"
    entries = [
        ("site", f"{reads} → {row['writes']}" if row["reads"] and row["writes"] else reads),
        ("kind", _kind(row)),
        ("widths", f"{row['d_model']:,} → {row['d_sae']:,} features → {row['d_out']:,}"),
        ("L0 by its makers", _plain(row["declared_l0"])),
        ("trained on", _plain(row["trained_on"])),
        ("source", _plain(row["repository"] or row["weights"])),
        ("folder", _plain(row["folder"])),
        ("revision", _short(row["revision"])),
        ("SHA-256 of weights", _short(row["content_hash"]) or "known once they are read"),
    ]
    return [(name, value) for name, value in entries if value]


def _kind(row: Data) -> str:
    name = _ARCHITECTURES.get(row["architecture"], "ReLU")
    what = " transcoder" if row["writes"] else " SAE"
    k = f", k {row['k']}" if row["k"] else ""
    return f"{name}{what}{k}{', with a skip connection' if row['skip'] else ''}"


def _plain(value: object) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _short(value: str | None) -> str:
    """A hash, whole in its tip; words such as a branch's name are short already."""
    if value is None or len(value) <= _HASH:
        return value or ""
    return part("parts.html", "term", f"{value[:_HASH]}…", value)
