"""The overview: what the SAE measures, how often its features fire, where to start reading."""

from collections.abc import Mapping
from typing import Any, Final

from app.render.badge import panel_html
from app.render.charts import histogram
from app.render.loaded import loaded_html
from app.render.memory import memory_html
from app.render.notices import missing_html, problem_html
from app.render.numbers import count, fixed, number, one_in, percent, signed
from app.render.pareto import comparison_html
from app.render.stats import Stat, strip, term
from app.render.text import escape, link, signature_html
from app.render.tokens import heat_map
from sae_core.index.highlights import RULE
from sae_core.metrics import HIGH_FREQUENCY

Data = Mapping[str, Any]


def overview_html(data: Data, *, default_sae: str) -> str:
    """The whole page from `Service.overview`'s answer."""
    sae = data["sae"]
    shown = "" if sae == default_sae else sae
    row = next(row for row in data["saes"] if row["name"] == sae)
    problems = [each for each in (data["model"].get("problem"), row["problem"]) if each]
    parts = [
        '<div data-view="overview">',
        "<h1>What is inside this model</h1>",
        f'<p class="sub">{_introduction(data, row)}</p>',
        *map(problem_html, problems),
    ]
    if row["problem"] is None:
        parts.append(_top(data, row, shown))
    parts.append(f'<div id="check">{panel_html(data["check"])}</div>')
    if len(data["saes"]) > 1:
        parts.append(_saes(data, default_sae))
    parts += [_highlights(data, shown), comparison_html(data.get("comparison"), row)]
    if row["problem"] is None and data["missing"] is None:
        parts.append(
            '<details class="loaded"><summary>What is loaded</summary>'
            f'<div class="panel">{loaded_html(row)}</div></details>'
        )
    parts.append(f'<div id="memory">{memory_html(data["memory"], data["saes"])}</div></div>')
    return "".join(parts)


def _top(data: Data, row: Data, shown: str) -> str:
    """What was measured and how often features fire; without an index what there is instead."""
    measured = _measured(data)
    quality = f'<section class="panel" aria-label="Measured quality">{measured}</section>'
    if data["missing"] is None:
        return (
            f'<div class="overview-top">{quality}<section class="panel" '
            f'aria-labelledby="frequency-title">{_frequencies(data, shown)}</section></div>'
        )
    loaded = (
        '<section class="panel" aria-labelledby="loaded-title"><h2 class="in-panel" '
        f'id="loaded-title">What is loaded</h2>{loaded_html(row)}</section>'
    )
    missing = missing_html(data["missing"])
    if not data["measured"]:
        return f'<div class="overview-top">{loaded}{missing}</div>'
    return f'<div class="overview-top">{quality}{loaded}</div>{missing}'


def _introduction(data: Data, row: Data) -> str:
    model = data["model"]
    title = str(data["bundle"]["title"]).rstrip(".")
    facts = []
    if model.get("parameters") and "parameter" not in title.lower():
        facts.append(f"{count(model['parameters'])} parameters")
    if model.get("layers") and model.get("d_model"):
        facts.append(f"{model['layers']} layers of width {model['d_model']:,}")
    if row["problem"] is None:
        facts.append(f"read through {row['d_sae']:,} features at {_site(row)}")
    if not facts:
        return f"{escape(title)}."
    facts[0] = facts[0][0].upper() + facts[0][1:]
    return f"{escape(title)}. {', '.join(facts)}."


def _site(row: Data) -> str:
    if row.get("site") is None:
        return "an unknown site"
    return f"<b>layer {escape(row['layer'])} · {escape(row['site'])}</b>"


_MEASURED: Final = (
    ("l0", "features active per token (L0)", number),
    ("fvu", "variance unexplained (FVU)", lambda value: fixed(value, 3)),
    ("delta_lm_loss", "delta LM loss, nats per token", lambda value: signed(value, 3)),
    ("kl", "KL divergence, nats per token", lambda value: fixed(value, 3)),
    ("loss_recovered_mean", "loss recovered, of mean ablation", lambda value: fixed(value, 3)),
    ("loss_recovered_zero", "loss recovered, of zero ablation", lambda value: fixed(value, 3)),
    ("dead", "of features are dead", percent),
    ("high_frequency", f"fire on {100 * HIGH_FREQUENCY:g} % of tokens or more", percent),
)
"""(key, name, how it is written), in the order of the strip."""


def _measured(data: Data) -> str:
    """The strip of numbers: those in the SAE's files, else those of the index's text."""
    measured, definitions, index = data["measured"], data["definitions"], data["index"]
    where = "validation text"
    if not measured and index is not None:
        measured, where = {**index["totals"], "tokens": index["tokens"]}, "the index's text"
    stats = [
        Stat(value=write(measured[key]), name=name, definition=str(definitions.get(key, "")))
        for key, name, write in _MEASURED
        if measured.get(key) is not None
    ]
    if not stats:
        return '<p class="quiet">Nothing has been measured on this SAE yet.</p>'
    if not measured.get("tokens"):
        return strip(stats)
    words = f"Measured on {count(measured['tokens'])} tokens of {where}."
    return f'{strip(stats)}<p class="quiet">{words}</p>'


def _frequencies(data: Data, shown: str) -> str:
    title = term("How often features fire", str(data["definitions"].get("frequency", "")))
    heading = f'<h2 id="frequency-title" class="in-panel">{title}</h2>'
    chart = data["frequency_histogram"]
    edges, counts = chart["edges"], chart["counts"]
    if not counts or not any(counts):
        return heading + '<p class="quiet">No feature has fired yet.</p>'
    first = next(i for i, value in enumerate(counts) if value)
    last = len(counts) - next(i for i, value in enumerate(reversed(counts)) if value)
    edges, counts = edges[first : last + 1], counts[first:last]
    decades = range(-8, 1)
    ticks = [(float(k), one_in(10.0**k)) for k in decades if edges[0] <= k <= edges[-1]]
    every = 1 + (len(ticks) - 1) // 4

    def tip(low: float, high: float, value: int) -> str:
        return (
            f"{value:,} features fire on {one_in(10**low)} to {one_in(10**high)} tokens; "
            "click to list them"
        )

    def bar_link(low: float, high: float) -> str:
        return link("features", sae=shown, min=f"{10**low:.3g}", max=f"{10**high:.3g}")

    return heading + histogram(
        edges,
        counts,
        label="Histogram of feature frequency on a logarithmic axis",
        log_counts=False,
        ticks=ticks[::every],
        bar_tip=tip,
        bar_link=bar_link,
    )


def _saes(data: Data, default_sae: str) -> str:
    definitions = data["definitions"]
    every = (
        ("declared_l0", "L0 by its makers", number),
        ("l0", "L0", number),
        ("fvu", "FVU", lambda value: fixed(value, 3)),
        ("delta_lm_loss", "delta LM loss", signed),
        ("loss_recovered_mean", "loss recovered", lambda value: fixed(value, 3)),
        ("dead", "dead", percent),
    )
    columns = [each for each in every if any(row.get(each[0]) is not None for row in data["saes"])]
    heads = "".join(
        f'<th class="n" scope="col">{_explained(name, definitions.get(key))}</th>'
        for key, name, _ in columns
    )
    rows = []
    for row in data["saes"]:
        current = ' aria-current="true"' if row["name"] == data["sae"] else ""
        address = link("./", sae="" if row["name"] == default_sae else row["name"])
        cells = "".join(
            f'<td class="n">{write(row[key]) if row.get(key) is not None else "–"}</td>'
            for key, _, write in columns
        )
        site = escape(row["place"])
        width = f"{row['d_sae']:,}" if row["d_sae"] else "–"
        rows.append(
            f'<tr{current}><th scope="row"><a href="{address}">{site}</a></th>'
            f'<td class="n">{width}</td>{cells}</tr>'
        )
    return (
        '<section aria-labelledby="saes-title"><h2 id="saes-title">SAEs of this model</h2>'
        '<div class="panel scroll"><table><thead><tr><th scope="col">site</th>'
        f'<th class="n" scope="col">features</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _explained(name: str, definition: str | None) -> str:
    return term(name, definition) if definition else escape(name)


def _highlights(data: Data, shown: str) -> str:
    cards = "".join(_card(item, shown) for item in data["highlights"])
    if not cards:
        return ""
    everything = link("features", sae=shown)
    return (
        '<section aria-labelledby="highlights-title"><h2 id="highlights-title">'
        f'{term("Worth opening", RULE)} <a class="more" href="{everything}">All features</a></h2>'
        f'<ul class="cards">{cards}</ul></section>'
    )


def _card(item: Data, shown: str) -> str:
    context = item["context"]
    address = link("features", sae=shown, feature=item["feature"])
    tokens = heat_map(
        context["tokens"],
        context["activations"],
        scale=item["max_act"],
        label=f"Context of feature {item['feature']}",
        peak=context["peak"],
        near=(14, 6),
    )
    return (
        f'<li class="panel card"><h3><a href="{address}">'
        f'<span class="id">#{item["feature"]}</span> '
        f"{signature_html(item['signature'])}</a></h3>"
        f'<div class="compact clip">{tokens}</div>'
        f'<p class="quiet">{escape(item["rule"])} · fires on {percent(item["frequency"])}</p></li>'
    )
