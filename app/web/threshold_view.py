"""The threshold lab of a feature's page: its histogram, and what js/threshold.js draws with it."""

from collections.abc import Mapping
from typing import Any, Final

from app.web.charts import histogram, linear_ticks
from app.web.numbers import count, number
from sae_core.threshold_place import Place, places_of, tokens_per_count

Data = Mapping[str, Any]

PLACES: Final[dict[Place, str]] = {
    "valley": "in a valley: pre-activations are clearly commoner on either side of it",
    "slope": "on a slope: pre-activations are clearly commoner below it, and not again above it",
    "bulk": "in the bulk: it cuts through the values that are commonest, or nearly so",
    "unclear": "where the counts do not suffice to tell a valley from a slope",
}


def threshold_lab(data: Data) -> dict[str, Any] | None:
    """The template's values; None where there is no histogram. `script` is None where the feature
    has no threshold that could be moved: of another architecture than JumpReLU it is 0.
    """
    chart = data["pre_activation_histogram"]
    if chart is None or len(chart["edges"]) < 2:
        return None
    edges, threshold = chart["edges"], chart["threshold"]
    beyond = [
        f"{count(chart[side])} further {side}" for side in ("below", "above") if chart.get(side)
    ]
    low, high = max(edges[0], 0.0), edges[-1]
    movable = threshold > 0 and high > low
    return {
        "chart": histogram(
            edges,
            chart["counts"],
            label=f"Histogram of pre-activations with the threshold at {number(threshold)}",
            ticks=linear_ticks(edges[0], edges[-1], 4),
            threshold=threshold,
        ),
        "tokens": count(data["tokens"]),
        "beyond": f" ({', '.join(beyond)})" if beyond else "",
        "script": _script(data, chart) if movable else None,
        "low": low,
        "high": high,
        # Where the slider begins on the axis, in percent.
        "from": f"{100 * (low - edges[0]) / (high - edges[0]):.3f}",
    }


def _script(data: Data, chart: Data) -> dict[str, Any]:
    """What the script computes with: counts, what fires now, and each edge's place."""
    edges, threshold = chart["edges"], chart["threshold"]
    middle = min(range(len(edges)), key=lambda k: abs(edges[k] - threshold))
    places = places_of(
        chart["counts"], per_count=tokens_per_count(data["tokens"]), exact_from=middle
    )
    return {
        "sae": data["sae"],
        "feature": data["feature"],
        "threshold": threshold,
        "edges": edges,
        "counts": chart["counts"],
        "below": chart["below"],
        "above": chart["above"],
        "tokens": data["tokens"],
        "active": data["active_tokens"],
        "mass": (data["mean_act"] or 0.0) * data["active_tokens"],
        "places": places,
        "sentences": PLACES,
    }
