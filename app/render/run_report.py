"""A training run as one HTML page that needs nothing else: `page`."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from app.render.curves import Series, band, bars, curves
from app.render.numbers import count, number, percent
from app.render.tables import cell, head, table
from app.render.text import escape
from sae_core.metrics import DEFINITIONS, HIGH_FREQUENCY

if TYPE_CHECKING:
    from training.run_folder import RunRecord, SAERecord

CURVES: dict[str, tuple[str, str, bool]] = {
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

MEASURED = ("l0", "fvu", "delta_lm_loss", "kl", "loss_recovered_mean", "dead", "high_frequency")
TRAINED = ("l0", "fvu", "dead", "high_frequency")
_SHARES = ("dead", "high_frequency")
_QUANTILES = ("p05", "p25", "p50", "p75", "p95")


def page(run: "RunRecord") -> str:
    """The whole document."""
    style = files("app.render").joinpath("run_report.css").read_text(encoding="utf-8")
    body = [
        f"<h1>{escape(run.name)}</h1>",
        _status(run),
        _findings(run),
        "<h2>Curves</h2>",
        _legend(run),
        f'<div class="charts">{_curves(run)}</div>',
        "<h2>Thresholds and frequencies</h2>",
        f'<div class="charts">{_details(run)}</div>',
        _final(run),
        _cost(run),
        _settings(run),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        # A page asks for its icon unless it has one.
        '<link rel="icon" href="data:,">'
        f"<title>{escape(run.name)}: training report</title><style>{style}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )


def _status(run: "RunRecord") -> str:
    tokens = count(run.saes[0].last["tokens"])
    state = (
        "Finished"
        if run.finished
        else f"In progress or interrupted: {run.step / run.cfg.steps:.0%} done"
    )
    saes = f"{len(run.saes)} SAE{'s' if run.saes[1:] else ''}"
    return (
        f'<p class="soft">{state}. {saes} of {run.cfg.d_sae:,} features on '
        f"{escape(run.cfg.model)}; step {run.step:,} of {run.cfg.steps:,}, {tokens} tokens.</p>"
    )


def _findings(run: "RunRecord") -> str:
    parts = ["<h2>What the doctor found</h2>"]
    for sae in run.saes:
        for spell in sae.spells:
            when = (
                f"steps {spell.first:,} to {spell.last:,}, over"
                if spell.over
                else f"since step {spell.first:,}"
            )
            parts.append(
                f'<div class="finding{" over" if spell.over else ""}">'
                f"<b>{escape(spell.check)}</b>{escape(spell.sentence)} "
                f'<span class="soft">{escape(sae.plan.name)}, {when}</span></div>'
            )
    if len(parts) == 1:
        parts.append('<p class="soft">Nothing.</p>')
    return "".join(parts)


def _kind(i: int) -> str:
    return f"c{i % 8}" + (" dashed" if i >= 8 else "")


def _legend(run: "RunRecord") -> str:
    items = "".join(
        f'<li><span class="swatch {_kind(i)}"></span>{escape(sae.plan.name)}</li>'
        for i, sae in enumerate(run.saes)
    )
    return f'<ul class="legend">{items}</ul>'


def _curves(run: "RunRecord") -> str:
    drawn = []
    for key, (title, definition, from_zero) in CURVES.items():
        series = [
            Series(
                name=sae.plan.name,
                colour=i,
                points=[(line["tokens"], line.get(key)) for line in sae.lines],
                target=sae.plan.l0_target if key == "l0" else None,
            )
            for i, sae in enumerate(run.saes)
        ]
        drawn.append(curves(series, title=title, definition=definition, from_zero=from_zero))
    return "".join(drawn)


def _details(run: "RunRecord") -> str:
    return "".join(part for i, sae in enumerate(run.saes) for part in _detail(i, sae))


def _detail(i: int, sae: "SAERecord") -> list[str]:
    """One SAE's thresholds over time and its newest histogram of frequencies."""
    keys = [f"threshold_{q}" for q in _QUANTILES]
    known = [line for line in sae.lines if line.get(keys[0]) is not None]
    thresholds = band(
        [(line["tokens"], [line[key] for key in keys]) for line in known],
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


def _final(run: "RunRecord") -> str:
    measured = {
        sae.plan.name: sae.metadata["measured"]
        for sae in run.saes
        if sae.metadata and sae.metadata.get("measured")
    }
    parts = ["<h2>Final metrics</h2>" if run.finished else "<h2>Metrics so far</h2>"]
    if measured:
        tokens = next(iter(measured.values()))["tokens"]
        parts.append(f'<p class="soft">Of the saved SAEs, on {tokens:,} held-out tokens.</p>')
        parts.append(_numbers(measured, MEASURED))
    lines = {sae.plan.name: sae.last for sae in run.saes}
    parts.append('<p class="soft">In training, over the newest line of metrics.</p>')
    parts.append(_numbers(lines, TRAINED))
    keys = MEASURED if measured else TRAINED
    defined = "".join(f"<dt>{_name(key)}</dt><dd>{escape(DEFINITIONS[key])}</dd>" for key in keys)
    return "".join(parts) + f"<dl>{defined}</dl>"


def _numbers(rows: Mapping[str, Mapping[str, Any]], keys: Sequence[str]) -> str:
    heads = head("SAE") + "".join(head(_name(key), "n") for key in keys)
    body = [
        cell(escape(name)) + "".join(cell(_shown(key, found.get(key)), "n") for key in keys)
        for name, found in rows.items()
    ]
    return f'<div class="wide">{table(heads, body)}</div>'


def _name(key: str) -> str:
    return {"l0": "L0", "fvu": "FVU", "kl": "KL", "delta_lm_loss": "delta LM loss"}.get(
        key, key.replace("_", " ")
    )


def _shown(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return percent(value) if key in _SHARES else number(value, 4)


def _cost(run: "RunRecord") -> str:
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
    facts |= {name: str(v) for name, v in training.get("versions", {}).items()}
    return f"<h2>Cost</h2>{_pairs(facts)}"


def _settings(run: "RunRecord") -> str:
    flat: dict[str, str] = {}
    for name, value in run.settings.items():
        for inner, deep in value.items() if isinstance(value, dict) else ((name, value),):
            flat[inner] = _written(deep)
    return f"<h2>Settings</h2>{_pairs(flat)}"


def _written(value: Any) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)


def _pairs(facts: Mapping[str, str]) -> str:
    rows = [cell(escape(name)) + cell(escape(value)) for name, value in facts.items()]
    return f'<div class="wide settings">{table("", rows)}</div>'
