"""What the comparison of architectures says in sentences, and what stands where it was not run."""

from collections.abc import Callable
from functools import partial

import numpy as np

from app.web.charts import CURVES
from benchmarks.paper.comparison_plan import (
    CURED,
    DEMO,
    FAMILIES,
    OTHER_TARGETS,
    SITES,
    TARGETS,
)
from benchmarks.paper.plots import Panel, drawing
from benchmarks.paper.shown_comparison import (
    COMPARED,
    OTHERS,
    SUFFIXES,
    mean_of,
    points_of,
    quotients,
    rows_of,
)
from benchmarks.paper.shown_text import NAMES, UNMEASURED, Results, broken_down, listed, share
from benchmarks.pareto_plan import MOST_DEAD, at_target

METRICS = {"fvu": "FVU", "delta_lm_loss": "delta LM loss"}


def _counted(model: str, metric: str, held: Results) -> str:
    """At how many places JumpReLU is lower than each other one, and what it is elsewhere."""
    found = quotients(held, model, metric)
    parts = []
    for name in COMPARED:
        verdicts = [q.verdict for (each, *_), q in found.items() if each == name]
        if not verdicts:
            continue
        rest = [
            f"{words} at {verdicts.count(verdict)}"
            for verdict, words in (("higher", "higher"), ("open", "undecided"))
            if verdict in verdicts
        ]
        beside = f" ({', '.join(rest)})" if rest else ""
        counted = f"{verdicts.count('lower')} of {len(verdicts)} places"
        parts.append(f"than {CURVES[name]}'s at {counted}{beside}")
    if not parts:
        return "Not measured before the time was up."
    return f"JumpReLU's {METRICS[metric]} is lower {listed(parts)}."


def _lower(metric: str, name: str, held: Results) -> str:
    """At how many of the demo's places JumpReLU is lower than this one."""
    if "comparison" not in held:
        return UNMEASURED
    own = [q for (each, *_), q in quotients(held, DEMO, metric).items() if each == name]
    return f"{sum(q.verdict == 'lower' for q in own)} of {len(own)}"


def _alike(family: str, held: Results) -> str:
    """Whether another language model orders the architectures as the demo does."""
    if not quotients(held, family, "fvu"):
        return ""
    said = []
    for metric, words in METRICS.items():
        one, other = (quotients(held, model, metric) for model in (DEMO, family))
        both = [k for k in other if k in one and "open" not in (one[k].verdict, other[k].verdict)]
        same = sum(one[k].verdict == other[k].verdict for k in both)
        said.append(f"in {words} in {same} of the {len(both)} comparisons that both decide")
    return f"The {NAMES[family]} says the same as the demo {listed(said)}."


def _cured(held: Results) -> str:
    """Which changes leave few dead features and an FVU below the best of the others."""
    site, targets, _ = CURED
    lines = []
    for target in targets:
        reported = points_of(held, DEMO, "fvu")
        best, name = min((reported[each, site, target].mean(), each) for each in OTHERS)
        own = rows_of(held, stage="cure", site=site, target=target)
        below: list[tuple[float, str]] = []
        for cure in dict.fromkeys(r["cure"] for r in own):
            mine = [r for r in own if r["cure"] == cure]
            fvu = float(np.exp(np.mean([np.log(at_target(r)) for r in mine])))
            dead = mean_of(mine, "dead")
            if fvu < best:
                lead = share(1 - fvu / best)
                what = "no change" if cure == "none" else f"*{cure}*"
                words = f"{what} ({share(dead)} dead, FVU {lead} below {CURVES[name]}'s)"
                below.append((dead, words))
        cured = [words for dead, words in below if dead <= MOST_DEAD]
        fewest = f"; it comes nearest with {min(below)[1]}" if below else ""
        found = listed(cured) if cured else f"none of what was tried{fewest}"
        lines.append(f"With an L0 of {target} that is {found}." if own else _UNTRIED)
    return " ".join(dict.fromkeys(lines))


def _dead(held: Results) -> str:
    """How many are dead where JumpReLU has most, and of whom fewer are."""
    site, targets, _ = CURED
    lines = []
    for target in targets:
        places = {name: (name, site, target) for name in ("jumprelu", *COMPARED)}
        there = {n for n, place in places.items() if place in points_of(held, DEMO, "fvu")}
        if "jumprelu" not in there:
            return "Not trained before the time was up."
        dead = {
            name: mean_of(
                rows_of(held, stage="report", architecture=name, site=site, target=target), "dead"
            )
            for name in places
            if name in there
        }
        fewer = [f"{CURVES[name]}'s" for name in dead if dead[name] < dead["jumprelu"]]
        others = listed(fewer) if fewer else "no other's"
        lines.append(f"{share(dead['jumprelu'])} with an L0 of {target} (fewer are among {others})")
    return f"Of JumpReLU's features at `{site}` these are dead: {listed(lines)}."


_UNTRIED = "No change was tried before the time was up."


def fvu_figure(held: Results) -> str:
    """FVU above JumpReLU's over L0, with intervals."""
    found = quotients(held, DEMO, "fvu")
    panels = []
    for site in SITES:
        own = {key: q for key, q in found.items() if key[1] == site and np.isfinite(q.low)}
        own = {key: q for key, q in own.items() if not q.missed}
        ends = [100 * v for q in own.values() for v in (q.low, q.high)]
        low, high = min(0.0, *ends), max(0.0, *ends)
        room = 0.05 * (high - low) or 1.0
        panel = Panel(
            f"{site}: FVU above JumpReLU's, %",
            (0.9 * TARGETS[0], 1.1 * TARGETS[-1]),
            (low - room, high + room),
            "L0",
            "per cent",
            log_x=True,
        )
        for colour, name in enumerate(("jumprelu", *COMPARED)):
            line = [(t, own[name, site, t]) for t in TARGETS if (name, site, t) in own]
            if not line:
                continue
            panel.band(
                [(t, 100 * q.low) for t, q in line], [(t, 100 * q.high) for t, q in line], colour
            )
            panel.line([(t, 100 * q.share) for t, q in line], colour, CURVES[name])
        panel.line([(0.9 * TARGETS[0], 0), (1.1 * TARGETS[-1], 0)], 0, CURVES["jumprelu"])
        panels.append(panel)
    return drawing(panels, "FVU of the others above JumpReLU's", "c")


FIGURES = {"comparison-fvu": fvu_figure}
"""Of the comparison; there is none without its results."""


def _there(without: str, with_it: str, held: Results) -> str:
    return with_it if "comparison" in held else without


def _elsewhere(held: Results) -> list[str]:
    """What the comparison did not come to."""
    if "comparison" not in held:
        return []
    missing = []
    for family in FAMILIES:
        targets = {target for *_, target in quotients(held, family, "fvu")}
        if left := [str(each) for each in OTHER_TARGETS if each not in targets]:
            missing.append(f"The {NAMES[family]} at an L0 of {listed(left)}.")
    return [*missing, *broken_down(held["comparison"])]


def _not_run(held: Results) -> str:
    if "comparison" not in held:
        return _NOTHING_RUN
    chosen_there = "Rates chosen on the other families themselves: they have the demo's."
    return " ".join([*_elsewhere(held), chosen_there])


_NOTHING_RUN = (
    "Selection of learning rates on other text than is reported, equal numbers of tried settings "
    "for all, three seeds at every point, a Llama and a Mistral of the demo's size, and changes "
    "against JumpReLU's dead features. `python -m benchmarks.paper.comparison --help` has the "
    "study's commands."
)
STATUS: dict[str, Callable[[Results], str]] = {
    "status.equal_terms": partial(
        _there,
        "",
        " Rates chosen on one text and reported on another, equal tuning, three seeds at every "
        "point and language models of two other families are in [comparison.md](comparison.md).",
    ),
    "status.not_run": _not_run,
}
"""What pages say with the comparison's results and without them."""
SHOWN: dict[str, Callable[[Results], str]] = {
    **{
        f"comparison.counted.{metric}{suffix}": partial(_counted, model, metric)
        for metric in METRICS
        for model, suffix in SUFFIXES.items()
    },
    **{f"comparison.alike_{family}": partial(_alike, family) for family in FAMILIES},
    **{
        f"comparison.lower.{metric}.{name}": partial(_lower, metric, name)
        for metric in METRICS
        for name in ("gated", "topk")
    },
    "comparison.dead_at_worst": _dead,
    "comparison.cured": _cured,
    **STATUS,
}
