"""A training run in curves, findings and tables: `shown`, and as one HTML page, `page`.

The app's page of a run (app/web/run_view.py) shows the same, while the run is at work and after.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from app.web import assets
from app.web.charts import STANDALONE_STYLE, Series, band, bars, curves
from app.web.charts.curves import colour_class
from app.web.numbers import count, number, percent
from app.web.run_words import state_sentence
from app.web.templating import render
from sae_core.definitions import DEFINITIONS, HIGH_FREQUENCY

if TYPE_CHECKING:
    from training.run_folder import RunRecord, SAERecord

CURVES: Final[dict[str, tuple[str, str, bool]]] = {
    "loss": ("Loss", "mean of the loss that is trained on, penalty included", False),
    "fvu": ("FVU", "squared errors over squared deviations from the mean activation", False),
    "l0": ("L0", "mean number of active features per token; dotted: its target", False),
    "dead": ("Dead", "share of features not active in the last 1,000,000 tokens", True),
    "high_frequency": (
        "High-frequency",
        f"share of features active on {100 * HIGH_FREQUENCY:g} % of the tokens",
        True,
    ),
    "in_window": ("In window", "share of pre-activations that thresholds learn from", False),
    "multiplier": ("Multiplier", "of the sparsity penalty, steered to the target L0", True),
    "lr": ("Learning rate", "of Adam, warm-up and decay included", True),
}
"""Of metrics.jsonl: title, definition, whether the scale begins at 0."""

MEASURED: Final = (
    "l0",
    "fvu",
    "delta_lm_loss",
    "kl",
    "loss_recovered_mean",
    "dead",
    "high_frequency",
)
TRAINED: Final = ("l0", "fvu", "dead", "high_frequency")
_SHARES: Final = ("dead", "high_frequency")
_QUANTILES: Final = ("p05", "p25", "p50", "p75", "p95")


MOST_ROWS: Final = 12
"""Rows of a curve's table, evenly spaced, beside the newest."""


@dataclass(frozen=True)
class Chart:
    """A figure, and the same in numbers."""

    key: str
    """Of this chart among those of the page; it stays the same as a run goes on."""
    title: str
    figure: Markup
    heads: list[str]
    rows: list[list[str]]


def page(run: "RunRecord") -> str:
    """The whole document of the report."""
    sheets = [
        (assets.FOLDER / "css" / f"{name}.css").read_text(encoding="utf-8")
        for name in ("report", "run")
    ]
    return render(
        "report.html",
        style=Markup(STANDALONE_STYLE + "".join(sheets)),
        **shown(run),
    )


def shown(run: "RunRecord") -> dict[str, Any]:
    """What the templates show of a run that has metrics."""
    measured = {
        sae.plan.name: sae.metadata["measured"]
        for sae in run.saes
        if sae.metadata and sae.metadata.get("measured")
    }
    charts = [_curve(run, key) for key in CURVES]
    details = [chart for i, sae in enumerate(run.saes) for chart in _details(i, sae)]
    return {
        "run": run,
        "standing": state_sentence(run),
        "saes_of_run": saes_of_run(run),
        "tokens": count(run.tokens),
        "findings": [finding for sae in run.saes for finding in _findings(sae)],
        "legend": [(colour_class(i), sae.plan.name) for i, sae in enumerate(run.saes)],
        "curves": [chart for chart in charts if chart.figure],
        "details": [chart for chart in details if chart.figure],
        "measured": _numbers(measured, MEASURED) if measured else None,
        "measured_tokens": next(iter(measured.values()))["tokens"] if measured else None,
        "trained": _numbers({sae.plan.name: sae.last for sae in run.saes}, TRAINED),
        "definitions_of_run": [
            (_name(key), DEFINITIONS[key]) for key in (MEASURED if measured else TRAINED)
        ],
        "cost": _cost(run),
        "settings_of_run": settings_of_run(run),
    }


def saes_of_run(run: "RunRecord") -> str:
    """How many SAEs of which width."""
    number_of_saes = len(run.cfg.plans)
    plural = "s" if number_of_saes > 1 else ""
    return f"{number_of_saes} SAE{plural} of {run.cfg.d_sae:,} features"


def _findings(sae: "SAERecord") -> list[dict[str, Any]]:
    """What the doctor found, and whether it is over."""
    return [
        {
            "check": spell.check,
            "sentence": spell.sentence,
            "over": spell.over,
            "sae": sae.plan.name,
            "when": f"steps {spell.first:,} to {spell.last:,}, over"
            if spell.over
            else f"since step {spell.first:,}",
        }
        for spell in sae.spells
    ]


def _curve(run: "RunRecord", key: str) -> Chart:
    title, definition, from_zero = CURVES[key]
    series = [
        Series(
            name=sae.plan.name,
            colour=i,
            points=[(line["tokens"], line.get(key)) for line in sae.lines],
            target=sae.plan.l0_target if key == "l0" else None,
        )
        for i, sae in enumerate(run.saes)
    ]
    figure = curves(series, title=title, definition=definition, from_zero=from_zero)
    steps = list(dict.fromkeys(line["step"] for line in run.saes[0].lines))
    by_step = [{line["step"]: line.get(key) for line in sae.lines} for sae in run.saes]
    rows = [
        [f"{step:,}", *(number(values.get(step), 4) for values in by_step)]
        for step in _spaced(steps)
    ]
    return Chart(key, title, figure, ["step", *(sae.plan.name for sae in run.saes)], rows)


def _spaced(items: Sequence[Any]) -> list[Any]:
    """At most `MOST_ROWS` of them, evenly spaced, and the last."""
    every = -(-len(items) // MOST_ROWS) or 1
    kept = list(items[::every])
    return kept if not items or kept[-1] == items[-1] else [*kept, items[-1]]


def _details(i: int, sae: "SAERecord") -> list[Chart]:
    """One SAE's thresholds over time and its newest histogram of frequencies."""
    keys = [f"threshold_{q}" for q in _QUANTILES]
    lines = [line for line in sae.lines if all(line.get(key) is not None for key in keys)]
    name = sae.plan.name
    thresholds = band(
        [(line["tokens"], [line[key] for key in keys]) for line in lines],
        title=name,
        definition="thresholds: median over features, the middle half and nine tenths of them, "
        "in units of the scaled input",
        colour=i,
    )
    names, counts = sae.frequencies
    frequencies = bars(
        counts,
        names,
        title=name,
        definition="features by the share of tokens on which they were active, in the newest line "
        "(heights are logarithms of counts)",
        colour=i,
    )
    rows = [
        [f"{line['step']:,}", *(number(line[key], 4) for key in keys)] for line in _spaced(lines)
    ]
    in_words = [
        [share, f"{features:,}"] for share, features in zip(sae.shares, counts, strict=True)
    ]
    return [
        Chart(f"thresholds-{i}", f"{name}: thresholds", thresholds, ["step", *_QUANTILES], rows),
        Chart(
            f"frequencies-{i}", f"{name}: frequencies", frequencies, ["share", "features"], in_words
        ),
    ]


def _numbers(rows: Mapping[str, Mapping[str, Any]], keys: Sequence[str]) -> dict[str, Any]:
    """A table: heads, and for each SAE its name and its numbers."""
    return {
        "heads": [_name(key) for key in keys],
        "rows": [
            (name, [_written_number(key, values.get(key)) for key in keys])
            for name, values in rows.items()
        ],
    }


def _name(key: str) -> str:
    return {"l0": "L0", "fvu": "FVU", "kl": "KL", "delta_lm_loss": "delta LM loss"}.get(
        key, key.replace("_", " ")
    )


def _written_number(key: str, value: float | None) -> str:
    return percent(value) if key in _SHARES else number(value, 4)


def _cost(run: "RunRecord") -> dict[str, str]:
    last = run.saes[0].last
    facts = {
        "seconds of training": f"{last['seconds']:,.0f}",
        "tokens": f"{last['tokens']:,}",
        "tokens per second at the end": f"{last['tokens_per_second']:,.0f}",
    }
    training = (run.saes[0].metadata or {}).get("training", {})
    for key in ("device", "precision", "commit"):
        if training.get(key):
            facts[key] = str(training[key])
    return facts | {name: str(v) for name, v in training.get("versions", {}).items()}


def settings_of_run(run: "RunRecord") -> dict[str, str]:
    """The settings by name, as text."""
    flat: dict[str, str] = {}
    for name, value in run.settings.items():
        for inner, deep in value.items() if isinstance(value, dict) else ((name, value),):
            flat[inner] = _written(deep)
    return flat


def _written(value: Any) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
