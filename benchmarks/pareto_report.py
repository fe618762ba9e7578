"""From the results of `benchmarks.pareto` to docs/pareto.md, its pictures and the demo's curves.

    python -m benchmarks.pareto_report benchmarks/results/pareto*.json

Every number and every verdict in the text is computed here from the results, so that none can drift
from them; the words around them are those of `pareto_text.md`. With `--check` nothing is written,
and an error says what would change.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import tyro

from app.render.numbers import count, percent
from app.render.pareto import CURVES, METRICS, lines_of, plot
from benchmarks.pareto_plan import (
    MOST_DEAD,
    OURS,
    PEERS,
    RECIPE,
    SLOPE,
    at_target,
    best_rate,
    better,
)

TEXT = Path(__file__).with_name("pareto_text.md")
DEMO_FORMAT = "jumpscope-comparison"
PICTURED = ("fvu", "delta_lm_loss")
KEPT = ("l0", "fvu", "delta_lm_loss", "kl", "dead", "high_frequency", "uniformity", "target", "lr")

Results = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is made of which results."""

    results: tyro.conf.Positional[tuple[Path, ...]]
    """JSON that `benchmarks.pareto` wrote; several files, of other curves say, become one."""
    docs: Path = Path("docs/pareto.md")
    """The page."""
    pictures: Path = Path("docs/pictures")
    """Folder of the plots."""
    demo: Path = Path("app/demo/pareto.json")
    """What the demo's overview shows."""
    check: bool = False
    """Write nothing; an error if a file is not what would be written."""


def merged(paths: Sequence[Path]) -> Results:
    """The groups of several results as one; ValueError if their settings differ."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    for path, each in zip(paths, found, strict=True):
        if each["settings"] != found[0]["settings"]:
            raise ValueError(f"{path} and {paths[0]} have other settings: they are no comparison.")
    return found[0] | {"groups": {k: v for each in found for k, v in each["groups"].items()}}


def curves_of(results: Results) -> dict[str, Any]:
    """The comparison as the app reads it: a list of curves, each at one site with its points."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    settings = results["settings"]
    point = settings["point"]
    for group in results["groups"].values():
        if group["stage"] == "sweep":
            continue
        for row in _kept(group["rows"]):
            key = (row["site"], row["curve"])
            curve = found.setdefault(
                key, {"site": row["site"], "curve": row["curve"], "points": [], "seeds": []}
            )
            kept = {k: row[k] for k in KEPT}
            if row["seed"] == 0:
                curve["points"].append(kept)
            if row["target"] == point:
                curve["seeds"].append(kept | {"seed": row["seed"]})
    for curve in found.values():
        curve["points"].sort(key=lambda p: p["l0"])
        if len(curve["seeds"]) < 2:
            curve["seeds"] = []
    order = list(CURVES)
    return {
        "format": DEMO_FORMAT,
        "version": 1,
        "tokens": settings["tokens"],
        "d_sae": settings["d_sae"],
        "point": point,
        "curves": sorted(
            found.values(),
            key=lambda c: (_place(c["site"], settings), order.index(c["curve"])),
        ),
    }


def _kept(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of a group's rows the better one of each site and target, which are trained at two rates."""
    alike: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        alike.setdefault((row["site"], row["target"]), []).append(dict(row))
    return [better(each) for each in alike.values()]


def _place(site: str, settings: Mapping[str, Any]) -> tuple[int, int, str]:
    """The middle layer first, and there the residual stream."""
    kind, layer = site.split("/")
    kinds = ("resid_post", "mlp_out", "attn_out")
    return int(int(layer) != settings["layers"][1]), int(layer), str(kinds.index(kind))


def value_at(points: Sequence[Mapping[str, Any]], metric: str, l0: float) -> float | None:
    """A metric of a curve at an L0, on straight lines between the logarithms of its points.

    The outer lines reach a tenth beyond the points, since an SAE misses its L0 by a little; None
    further out.
    """
    known = [(p["l0"], p[metric]) for p in points if p[metric] is not None and p[metric] > 0]
    if len(known) < 2 or not known[0][0] / 1.1 <= l0 <= known[-1][0] * 1.1:
        return None
    x, y = np.log(np.array(known, dtype=float)).T
    at = math.log(l0)
    i = int(np.clip(np.searchsorted(x, at), 1, len(x) - 1))
    slope = (y[i] - y[i - 1]) / (x[i] - x[i - 1])
    return float(np.exp(y[i] + slope * (at - x[i])))


def spread(curve: Mapping[str, Any], metric: str, point: int) -> float | None:
    """Largest value over smallest, less 1, of a curve's seeds, moved to the same L0."""
    values = [
        seed[metric] * (seed["l0"] / point) ** SLOPE
        for seed in curve["seeds"]
        if seed[metric] is not None and seed[metric] > 0
    ]
    return max(values) / min(values) - 1 if len(values) > 1 else None


def noise(comparison: Mapping[str, Any], metric: str) -> float | None:
    """The largest `spread` of all curves."""
    found = [spread(curve, metric, comparison["point"]) for curve in comparison["curves"]]
    return max((value for value in found if value is not None), default=None)


def at_site(comparison: Mapping[str, Any], site: str) -> dict[str, Mapping[str, Any]]:
    """The curves at a site by name."""
    return {c["curve"]: c for c in comparison["curves"] if c["site"] == site}


def table(comparison: Mapping[str, Any], site: str, metric: str, l0s: Sequence[int]) -> list[str]:
    """Rows of a Markdown table: a metric at the same L0, and in brackets what it is of JumpReLU."""
    curves = at_site(comparison, site)
    lines = [
        "| | " + " | ".join(f"L0 {l0}" for l0 in l0s) + " |",
        "| --- |" + " --- |" * len(l0s),
    ]
    for name, curve in curves.items():
        cells = []
        for l0 in l0s:
            value = value_at(curve["points"], metric, l0)
            base = (
                value_at(curves["jumprelu"]["points"], metric, l0) if name != "jumprelu" else None
            )
            relative = f" ({_signed(value / base - 1)})" if value and base else ""
            cells.append("-" if value is None else f"{value:.4f}{relative}")
        lines.append(f"| {CURVES[name]} | " + " | ".join(cells) + " |")
    return lines


def verdicts(
    comparison: Mapping[str, Any], site: str, metric: str, l0s: Sequence[int]
) -> list[str]:
    """Of each other curve at a site, where JumpReLU's metric is lower or higher, and where the
    difference is no larger than the seeds' spread."""
    curves = at_site(comparison, site)
    limit = noise(comparison, metric) or 0.0
    own = curves.get("jumprelu")
    found = []
    for name, curve in curves.items():
        if own is None or name == "jumprelu":
            continue
        places: dict[str, dict[int, float]] = {"lower": {}, "higher": {}, "the same": {}}
        for l0 in l0s:
            mine, other = (value_at(c["points"], metric, l0) for c in (own, curve))
            if mine is not None and other is not None:
                difference = mine / other - 1
                word = "lower" if difference < 0 else "higher"
                places["the same" if abs(difference) <= limit else word][l0] = abs(difference)
        said = [
            f"{word} at an L0 of {', '.join(map(str, at))}"
            + ("" if word == "the same" else f" by {_range(list(at.values()))}")
            for word, at in places.items()
            if at
        ]
        if said:
            found.append(f"- JumpReLU against {CURVES[name]}: {'; '.join(said)}.")
    return found


def _range(shares: Sequence[float]) -> str:
    low, high = (f"{100 * share:.1f}" for share in (min(shares), max(shares)))
    return f"{low} %" if low == high else f"{low} to {high} %"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f} %".replace("-", "−")


def chosen_rates(results: Results) -> list[str]:
    """Rows of a Markdown table: each curve's sweep, best rate in bold."""
    groups = results["groups"]
    rates = sorted(
        {row["lr"] for g in groups.values() if g["stage"] == "sweep" for row in g["rows"]}
    )
    lines = [
        "| | window | " + " | ".join(f"{lr:g}" for lr in rates) + " |",
        "| --- | --- |" + " --- |" * len(rates),
    ]
    for curve in (*OURS, *PEERS):
        best = best_rate(groups, curve)
        for window in ("own", "wide"):
            rows = {
                row["lr"]: row
                for g in groups.values()
                if g["stage"] == "sweep"
                for row in g["rows"]
                if (row["curve"], row["window"]) == (curve, window)
            }
            if rows:
                cells = [_swept(rows[lr], rows[lr] is best) if lr in rows else "" for lr in rates]
                lines.append(f"| {CURVES[curve]} | {window} | " + " | ".join(cells) + " |")
    return lines


def _swept(row: Mapping[str, Any], best: bool) -> str:
    value = at_target(dict(row))
    text = "-" if not math.isfinite(value) else f"{value:.4f}"
    return f"**{text}**" if best else text


def health(comparison: Mapping[str, Any], site: str) -> list[str]:
    """Rows of a Markdown table: what else was measured of the SAEs at the seeds' L0."""
    lines = [
        "| | L0 | dead | on 10 % of tokens or more | KL, nats | uniformity |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, curve in at_site(comparison, site).items():
        for p in curve["points"]:
            if p["target"] == comparison["point"]:
                uniform = "-" if p["uniformity"] is None else f"{p['uniformity']:.3f}"
                lines.append(
                    f"| {CURVES[name]} | {p['l0']:.1f} | {percent(p['dead'])} | "
                    f"{percent(p['high_frequency'])} | {p['kl']:.4f} | {uniform} |"
                )
    return lines


def page(results: Results, pictures: str) -> str:
    """docs/pareto.md; `pictures`: the way from it to the plots' folder."""
    comparison = curves_of(results)
    settings = results["settings"]
    sites = list(dict.fromkeys(curve["site"] for curve in comparison["curves"]))
    l0s = settings["targets"]
    parts = []
    for site in sites:
        parts += [f"## {site}", ""]
        for metric in PICTURED:
            parts += [f"![{METRICS[metric]} at {site}]({pictures}/{picture(site, metric)})"]
        for metric in PICTURED:
            parts += ["", f"{METRICS[metric][0].upper()}{METRICS[metric][1:]}:", ""]
            parts += [*table(comparison, site, metric, l0s), ""]
            parts += verdicts(comparison, site, metric, l0s)
        parts += ["", *health(comparison, site), ""]
    limits = {metric: noise(comparison, metric) for metric in PICTURED}
    machines = {
        ", ".join(str(g["machine"][k]) for k in ("device", "torch", "date"))
        for g in results["groups"].values()
    }
    return Template(TEXT.read_text(encoding="utf-8")).substitute(
        tokens=count(settings["tokens"]),
        sweep_tokens=count(settings["sweep_tokens"]),
        d_sae=f"{settings['d_sae']:,}",
        point=settings["point"],
        slope=SLOPE,
        **RECIPE,
        dead=percent(MOST_DEAD),
        validation_tokens=count(settings["validation_tokens"]),
        targets=", ".join(map(str, l0s)),
        sweep="\n".join(chosen_rates(results)),
        noise="; ".join(
            f"{METRICS[metric]} {'not measured' if value is None else f'{100 * value:.1f} %'}"
            for metric, value in limits.items()
        ),
        results="\n".join(parts).strip(),
        machines="; ".join(sorted(machines)),
        seconds=f"{sum(g['seconds'] for g in results['groups'].values()) / 60:.0f}",
    )


def picture(site: str, metric: str) -> str:
    """File name of a plot."""
    return f"pareto-{site.replace('/', '-')}-{metric}.svg"


def files(results: Results, options: Options) -> dict[Path, str]:
    """Everything that is made of the results, by path."""
    comparison = curves_of(results)
    found = {options.demo: json.dumps(comparison, indent=1) + "\n"}
    for site in dict.fromkeys(curve["site"] for curve in comparison["curves"]):
        for metric in PICTURED:
            lines = lines_of(comparison, site, metric)
            drawn = plot(lines, title=site, y_name=METRICS[metric], standalone=True)
            found[options.pictures / picture(site, metric)] = drawn + "\n"
    way = options.pictures.resolve().relative_to(options.docs.resolve().parent)
    found[options.docs] = page(results, way.as_posix())
    return found


def main(options: Options) -> None:
    """Write the files, or check them; ValueError naming those that differ."""
    made = files(merged(options.results), options)
    if options.check:
        stale = [
            str(path)
            for path, text in made.items()
            if not path.is_file() or path.read_text(encoding="utf-8") != text
        ]
        if stale:
            raise ValueError(
                f"{', '.join(stale)} is not what the results make: "
                "run benchmarks.pareto_report again."
            )
        return
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
