"""A training run as one HTML page that needs nothing else: `page`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from app.web import assets
from app.web.charts import STANDALONE_STYLE, Series, band, bars, curves
from app.web.charts.curves import colour_class
from app.web.numbers import count, number, percent
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


def page(run: "RunRecord") -> str:
    """The whole document."""
    measured = {
        sae.plan.name: sae.metadata["measured"]
        for sae in run.saes
        if sae.metadata and sae.metadata.get("measured")
    }
    sheet = (assets.FOLDER / "css" / "report.css").read_text(encoding="utf-8")
    return render(
        "report.html",
        style=Markup(STANDALONE_STYLE + sheet),
        run=run,
        saes=f"{len(run.saes)} SAE{'s' if run.saes[1:] else ''} of {run.cfg.d_sae:,} features",
        tokens=count(run.saes[0].last["tokens"]),
        findings=[finding for sae in run.saes for finding in _findings(sae)],
        legend=[(colour_class(i), sae.plan.name) for i, sae in enumerate(run.saes)],
        curves=[_curve(run, key) for key in CURVES],
        details=[chart for i, sae in enumerate(run.saes) for chart in _details(i, sae)],
        measured=_numbers(measured, MEASURED) if measured else None,
        measured_tokens=next(iter(measured.values()))["tokens"] if measured else None,
        trained=_numbers({sae.plan.name: sae.last for sae in run.saes}, TRAINED),
        definitions=[(_name(key), DEFINITIONS[key]) for key in (MEASURED if measured else TRAINED)],
        cost=_cost(run),
        settings=_settings(run),
    )


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


def _curve(run: "RunRecord", key: str) -> Markup:
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
    return curves(series, title=title, definition=definition, from_zero=from_zero)


def _details(i: int, sae: "SAERecord") -> list[Markup]:
    """One SAE's thresholds over time and its newest histogram of frequencies."""
    keys = [f"threshold_{q}" for q in _QUANTILES]
    lines = [line for line in sae.lines if line.get(keys[0]) is not None]
    thresholds = band(
        [(line["tokens"], [line[key] for key in keys]) for line in lines],
        title=sae.plan.name,
        definition="thresholds: median over features, the middle half and nine tenths of them, "
        "in units of the scaled input",
        colour=i,
    )
    names, counts = sae.frequencies
    frequencies = bars(
        counts,
        names,
        title=sae.plan.name,
        definition="features by the share of tokens on which they were active, in the newest line "
        "(heights are logarithms of counts)",
        colour=i,
    )
    return [thresholds, frequencies]


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


def _settings(run: "RunRecord") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in run.settings.items():
        for inner, deep in value.items() if isinstance(value, dict) else ((name, value),):
            flat[inner] = _written(deep)
    return flat


def _written(value: Any) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
