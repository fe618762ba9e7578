"""What stands beside a feature's contexts: histograms, logits, tokens, sources, neighbours."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.render.charts import histogram, linear_ticks
from app.render.numbers import count, fixed, number, percent, signed
from app.render.tables import cell, head, table
from app.render.text import escape, link, signature_html

Data = Mapping[str, Any]

NO_LOGITS: Final = (
    "Nothing directly: this SAE writes what the MLP reads, and what that makes of it differs from "
    "token to token."
)


def evidence_html(data: Data, sae: str) -> str:
    """The panels from `Service.feature`'s answer; `sae` as it stands in addresses."""
    panels = (
        _pre_activations(data),
        _activations(data),
        _logits(data),
        _fires_on(data, sae),
        _sources(data),
        _neighbours(data, sae),
    )
    return "".join(panels)


def _panel(title: str, body: str, name: str) -> str:
    return (
        f'<section class="panel" aria-labelledby="{name}-title"><h2 class="in-panel" '
        f'id="{name}-title">{title}</h2>{body}</section>'
    )


def _pre_activations(data: Data) -> str:
    chart = data["pre_activation_histogram"]
    if chart is None or len(chart["edges"]) < 2:
        return ""
    edges = chart["edges"]
    body = histogram(
        edges,
        chart["counts"],
        label=f"Histogram of pre-activations with the threshold at {number(chart['threshold'])}",
        ticks=linear_ticks(edges[0], edges[-1], 4),
        threshold=chart["threshold"],
    )
    beyond = [
        f"{count(chart[side])} further {side}" for side in ("below", "above") if chart.get(side)
    ]
    outside = f" ({', '.join(beyond)})" if beyond else ""
    note = (
        f'<p class="quiet">Pre-activations on {count(data["tokens"])} tokens'
        f"{outside}, counts on a log "
        "scale. Grey is screened out; what passes keeps its value.</p>"
    )
    return _panel("Before the threshold", body + note, "pre")


def _activations(data: Data) -> str:
    chart = data["activation_histogram"]
    if chart is None or len(chart["edges"]) < 2 or not any(chart["counts"]):
        return ""
    edges = chart["edges"]
    body = histogram(
        edges,
        chart["counts"],
        label="Histogram of activations",
        ticks=linear_ticks(edges[0], edges[-1], 4),
    )
    note = (
        f'<p class="quiet">{count(data["active_tokens"])} active tokens, mean '
        f"{number(data['mean_act'])}; counts on a log scale.</p>"
    )
    return _panel("When it fires", body + note, "act")


def _logits(data: Data) -> str:
    raises, lowers = data["logits"]["raises"], data["logits"]["lowers"]
    title = "What it does to the next token"
    if not raises and not lowers:
        return _panel(title, f'<p class="quiet">{NO_LOGITS}</p>', "logits")
    columns = _logit_column(raises, "raises", "up") + _logit_column(lowers, "lowers", "down")
    return _panel(title, f'<div class="pair">{columns}</div>', "logits")


def _logit_column(rows: Sequence[Data], words: str, side: str) -> str:
    widest = max((abs(row["logit"]) for row in rows), default=0.0) or 1.0
    body = [
        cell(_visible(row["token"]), "mono")
        + cell(
            f'<span class="under {side}" style="--w:{abs(row["logit"]) / widest:.2f}">'
            f"{signed(row['logit'])}</span>",
            "n",
        )
        for row in rows
    ]
    return table(head(words) + head("logit", "n"), body)


def _fires_on(data: Data, sae: str) -> str:
    rows = data["fires_on"]["tokens"]
    if not rows:
        return ""
    names = [
        f'<a href="{link("features", sae=sae, q=row["token"].strip())}">'
        f"{_visible(row['token'])}</a>"
        for row in rows
    ]
    return _panel("Fires on", _shares("token", names, rows, "mono"), "tokens")


def _sources(data: Data) -> str:
    rows = data["fires_on"]["sources"]
    if not rows:
        return ""
    names = [escape(row["source"]) for row in rows]
    return _panel("Found in", _shares("source", names, rows, "words"), "sources")


def _shares(first: str, names: Sequence[str], rows: Sequence[Data], kind: str) -> str:
    """Names (HTML) with the share of the feature's firing that falls on each, and the lift."""
    widest = max(row["share"] for row in rows) or 1.0
    body = [
        cell(name, kind)
        + cell(_bar(row["share"] / widest), "bars")
        + cell(percent(row["share"]), "n")
        + cell(f"{number(row['lift'], 2)}x", "n quiet")
        for name, row in zip(names, rows, strict=True)
    ]
    return table(head(first) + head("") + head("share", "n") + head("lift", "n"), body)


def _bar(share: float) -> str:
    return f'<span class="mini" aria-hidden="true"><i style="width:{100 * share:.0f}%"></i></span>'


def _neighbours(data: Data, sae: str) -> str:
    rows = data["neighbours"]
    if not rows:
        return ""
    body = [
        cell(
            f'<a href="{link("features", sae=sae, feature=row["feature"])}">#{row["feature"]}</a>',
            "id",
        )
        + cell(signature_html(row["signature"]), "words")
        + cell(fixed(row["cosine"], 2), "n")
        for row in rows
    ]
    heads = head("feature") + head("") + head("cosine", "n")
    return _panel("Points the same way", table(heads, body), "neighbours")


def _visible(token: str) -> str:
    """A token alone in a cell: spaces and line breaks drawn, so that ' the' differs from 'the'."""
    marks = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
    lead = len(token) - len(token.lstrip(" \n\t\r"))
    tail = len(token) if lead == len(token) else len(token.rstrip(" \n\t\r"))

    def marked(part: str) -> str:
        return "".join(f'<i class="ws">{marks[char]}</i>' for char in part)

    return marked(token[:lead]) + escape(token[lead:tail]) + marked(token[tail:])
