"""What one feature's page shows, from the answer of `app.service.features.feature`."""

import itertools
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from markupsafe import Markup

from app.web.charts import histogram, linear_ticks
from app.web.evidence_view import evidence_strip, folded
from app.web.notes_view import notes_part
from app.web.numbers import NO_BREAK, count, number, percent
from app.web.templating import address
from app.web.threshold_view import threshold_lab
from app.web.walk import Walk
from sae_core.definitions import SCORE_DEFINITIONS

Data = Mapping[str, Any]

NEAR: Final = (14, 6)
"""Tokens kept before and after the peak of a context until it is unfolded."""
SHOWN: Final = 10
"""Contexts of a group that show at once."""
REAL_SHARE: Final = 0.1
"""Share of a feature's firing from which on a source may be named in its heading."""

_NEAR_DIGITS: Final = (4, 5, 6, 7, 8)
"""Of near misses: they lie so close to the threshold that three digits would round them to it."""
_ROUNDING: Final = 1e-6
"""Part of a bin that is a rounding of float32, not a cut."""
_WHITESPACE: Final = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}


def feature_page(
    data: Data, *, in_address: str, text: str = "", walk: Walk | None = None
) -> dict[str, Any]:
    """The template's values; `in_address` is the SAE as addresses have it, `text` is tested, and
    `walk` is the list that the feature was opened from.
    """
    groups = [group for group in data["groups"] if group["contexts"]]
    dead = data["missing"] is None and data["frequency"] <= 0
    drawn = [_group(group, data) for group in groups]
    return {
        "view": "feature",
        "data": data,
        "text": text,
        "dead": dead,
        "kept": notes_part(data),
        "facts": _facts(data, dead),
        "writes": _writes(data),
        "unscored": data["unscored"] if data["missing"] is None else None,
        "steps": _steps(data, in_address, text, walk),
        "walk": walk,
        "steer": None if dead else _steer(data, in_address),
        "missing": data["missing"],
        "lab": threshold_lab(data),
        "activations": _activations(data),
        "logits": _logits(data["logits"]),
        "groups": drawn,
        "in_prompt": partial(_in_prompt, data["feature"], in_address),
        "evidence": evidence_strip(groups, drawn),
        "sampled": any(group["name"].startswith("interval_") for group in groups),
        "reproduce": _numbers(groups, data),
        "foldable": any(map(_can_unfold, itertools.chain(*(g["contexts"] for g in groups)))),
        "near": NEAR,
        "shown_at_once": SHOWN,
        "tokens": [
            {**row, **_cell(row), "href": _search(row, in_address)}
            for row in _with_bars(data["fires_on"]["tokens"])
        ],
        "sources": _with_bars(data["fires_on"]["sources"]),
        "neighbours": [
            {**row, "href": address("features", sae=in_address, feature=row["feature"])}
            for row in data["neighbours"]
        ],
    }


def _facts(data: Data, dead: bool) -> list[str]:
    """The line under the heading."""
    if data["missing"] is not None:
        encoder, decoder = (number(data["norms"][side]) for side in ("encoder", "decoder"))
        return [
            f"threshold {number(data['threshold'])}",
            f"length of its weights {encoder} in the encoder, {decoder} in the decoder",
        ]
    threshold = f"threshold {number(data['threshold'])}"
    if dead:
        # Its signature, in the heading, says that it never fires.
        digits = _near_digits(data)
        nearest = (f"comes no closer than {number(value, digits)}" for value in _closest(data))
        return [f"threshold {number(data['threshold'], digits)}", *nearest]
    facts = [
        f"fires on {percent(data['frequency'])} of tokens",
        f"largest {number(data['max_act'])}",
        threshold,
    ]
    if source := telling_source(data["fires_on"]["sources"]):
        lift = number(source["lift"], 2)
        facts.append(
            f"{percent(source['share'])} of its firing is in {source['source']} ({lift}x its share)"
        )
    return facts


def _writes(data: Data) -> list[dict[str, str]]:
    """Output score and side effect with their ranks among the SAE's features; empty where neither
    is known.
    """
    if data["writes"] is None:
        return []
    units = {"output_score": "", "side_effect": f"{NO_BREAK}nats"}
    return [
        {
            "name": key.replace("_", " "),
            "definition": SCORE_DEFINITIONS[key],
            "value": f"{number(data[key])}{unit}",
            "rank": _rank(data["writes"].get(key)),
        }
        for key, unit in units.items()
    ]


def _rank(place: Data | None) -> str:
    return f"rank {count(place['rank'])} of {count(place['of'])}" if place else ""


def _closest(data: Data) -> list[float]:
    """The largest pre-activation below the threshold, in a list that is empty if there is none."""
    values = [c["value"] for g in data["groups"] if g["name"] == "near_miss" for c in g["contexts"]]
    return sorted(values)[-1:]


def _near_digits(data: Data) -> int:
    """The digits that tell the threshold from what came closest to it."""
    near, threshold = _closest(data), data["threshold"]
    fine = (d for d in _NEAR_DIGITS if near and number(near[0], d) != number(threshold, d))
    return next(fine, _NEAR_DIGITS[0])


def telling_source(sources: Sequence[Data]) -> Data | None:
    """The source that says most about a feature: the highest lift among those with a real share.

    The commonest source of a corpus is the commonest one of most features, and says nothing; so
    there is none where no source has more of the firing than of the corpus.
    """
    real = [row for row in sources if row["share"] >= REAL_SHARE] or sources
    telling = max(real, key=lambda row: row["lift"], default=None)
    return telling if telling and telling["lift"] > 1 else None


def _steps(data: Data, in_address: str, text: str, walk: Walk | None) -> dict[str, Any]:
    """Where the buttons of the heading lead, each with the feature's number: along the list that
    it was opened from, else by number; None at either end.
    """

    def link(feature: int | None) -> dict[str, Any] | None:
        if feature is None:
            return None
        href = address("features", sae=in_address, feature=feature, text=text)
        return {"feature": feature, "href": href}

    random = address("features", sae=in_address, feature="random", text=text)
    if walk and walk.place is not None:
        return {
            "previous": walk.step(walk.previous, -1, text),
            "next": walk.step(walk.next, 1, text),
            "random": random,
        }
    return {"previous": link(data["previous"]), "next": link(data["next"]), "random": random}


def _steer(data: Data, in_address: str) -> str:
    # The page knows a strength to begin with, and where the edit applies.
    edit = {"feature": data["feature"], "mode": "set"}
    return address("steer", sae=in_address, edits=json.dumps([edit], separators=(",", ":")))


def _activations(data: Data) -> Markup | None:
    chart = data["activation_histogram"]
    if chart is None or len(chart["edges"]) < 2 or not any(chart["counts"]):
        return None
    edges = chart["edges"]
    return histogram(
        edges,
        chart["counts"],
        label="Histogram of activations",
        ticks=linear_ticks(edges[0], edges[-1], 4),
    )


def _logits(logits: Data) -> list[dict[str, Any]]:
    """The two columns of tokens; empty where the feature writes nothing into the stream."""
    columns = []
    for words, side in (("raises", "up"), ("lowers", "down")):
        rows = logits[words]
        widest = max((abs(row["logit"]) for row in rows), default=0.0) or 1.0
        columns.append(
            {
                "words": words,
                "side": side,
                "rows": [
                    {**row, **_cell(row), "width": f"{abs(row['logit']) / widest:.2f}"}
                    for row in rows
                ],
            }
        )
    return columns if any(column["rows"] for column in columns) else []


def _group(group: Data, data: Data) -> dict[str, Any]:
    """A group of contexts with a heading of numbers; `said` is what stands beside it."""
    near_miss, strongest = group["name"] == "near_miss", group["name"] == "top"
    digits = _near_digits(data) if near_miss else 3
    values = [context["value"] for context in group["contexts"]]
    low, high = (min(values), max(values)) if near_miss else (group["low"], group["high"])
    ends = dict.fromkeys((number(low, digits), number(high, digits)))
    bounds = " to ".join(ends)
    if near_miss:
        below = f"below the threshold of {number(data['threshold'], digits)}"
        title, said = "Near misses", f"{bounds}, {below}: it does not fire"
    elif strongest:
        title, said = "Strongest", bounds
    else:
        title, said = bounds, _firings(group, data)
    return {
        "name": group["name"],
        "title": title,
        "said": said,
        "near_miss": near_miss,
        "contexts": [
            _context(context, digits, near_miss)
            | {"copies": [_context(each, digits, near_miss) for each in context["copies"]]}
            for context in folded(group["contexts"])
        ],
    }


def _firings(group: Data, data: Data) -> str:
    """How often it fires within an interval, as far as the histogram tells."""
    chart = data["activation_histogram"]
    # The last bin ends above the largest activation: all that it holds is below that.
    edges = [*chart["edges"][:-1], data["max_act"]]
    estimate, exact = firings_between(edges, chart["counts"], group["low"], group["high"])
    if not exact:
        # There are at least as many as are shown.
        estimate = max(float(f"{estimate:.2g}"), len(group["contexts"]))
    noun = "firing" if round(estimate) == 1 else "firings"
    return f"{'' if exact else 'about '}{count(estimate)} {noun}"


def firings_between(
    edges: Sequence[float], counts: Sequence[int], low: float, high: float
) -> tuple[float, bool]:
    """Firings from `low` to `high` by a histogram, and whether that is exact.

    A bin that `low` or `high` cuts is shared out by width, which is a guess if it holds any.
    """
    total, exact = 0.0, True
    for left, right, value in zip(edges[:-1], edges[1:], counts, strict=True):
        width = right - left
        inside = (min(right, high) - max(left, low)) / width if width > 0 else low < right <= high
        share = min(max(float(inside), 0.0), 1.0)
        if min(share, 1 - share) < _ROUNDING:
            share = round(share)
        total += value * share
        exact = exact and (share in (0, 1) or not value)
    return total, exact


def _in_prompt(feature: int, in_address: str, context: Data) -> str:
    """Where the Prompt page reads a context with the feature's strongest token chosen; "" where the
    text does not say what all of its tokens are.
    """
    text = "".join(context["tokens"])
    if any(context["bytes"]) or not text.strip():
        return ""
    return address("prompt", sae=in_address, text=text, feature=feature, token="peak")


def _context(context: Data, digits: int, near_miss: bool) -> dict[str, Any]:
    peak, written = context["peak"], number(context["value"], digits)
    word = context["tokens"][peak].strip() if peak < len(context["tokens"]) else ""
    return {
        **context,
        "written": written,
        "label": f"{context['title'] or 'No title'}, {written} at {word}",
        "peak_value": written if near_miss else None,
        "terms": [part for part in (context["title"], context["license"]) if part],
    }


def _can_unfold(context: Data) -> bool:
    """Whether the compact view leaves out tokens or line breaks."""
    before, after = context["peak"], len(context["tokens"]) - 1 - context["peak"]
    return before > NEAR[0] or after > NEAR[1] or any("\n" in text for text in context["tokens"])


def _numbers(groups: Sequence[Data], data: Data) -> dict[str, Any]:
    """What the card can be about: the numbers at the peaks of all contexts."""
    choices = []
    for group in groups:
        shown = _group(group, data)
        choices += [
            {
                "words": f"{context['written']}, {context['title'] or 'no title'}",
                "asked": {"group": group["name"], "context": context["index"]},
                "group": shown["title"],
            }
            for context in shown["contexts"]
        ]
    return {"asked": {"sae": data["sae"], "feature": data["feature"]}, "choices": choices}


def _with_bars(rows: Sequence[Data]) -> list[dict[str, Any]]:
    """Rows with a share, each with the length of its bar in percent of the longest."""
    widest = max((row["share"] for row in rows), default=0.0) or 1.0
    return [{**row, "bar": f"{100 * row['share'] / widest:.0f}"} for row in rows]


def _search(row: Data, in_address: str) -> str:
    """Where a token's features are listed; "" for one that nobody could search for."""
    words = "" if row["bytes"] else row["token"].strip()
    return address("features", sae=in_address, q=words) if words else ""


def _cell(row: Data) -> dict[str, str]:
    """A token alone in a cell: its spaces and line breaks are drawn, so that ' the' is not 'the'.

    One that shows no character is drawn by its bytes.
    """
    if row["bytes"]:
        return {"lead": "", "word": f"⟨{row['bytes']}⟩", "tail": ""}
    token = row["token"]
    word = token.strip(" \n\t\r")
    start = token.index(word) if word else len(token)
    lead, tail = (
        "".join(_WHITESPACE[mark] for mark in part)
        for part in (token[:start], token[start + len(word) :])
    )
    return {"lead": lead, "word": word, "tail": tail}
