"""From the results of `benchmarks.pareto` to docs/pareto.md, its pictures and the demo's curves.

    python -m benchmarks.pareto_report benchmarks/results/pareto*.json

Tables and verdicts are computed here from the results, so that none can drift from them; the words
around them are those of `pareto_text.md`, to be read again when the results change. With `--check`
nothing is written, and an error says what would change.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import tyro

from app.web.charts import CURVES, METRICS, lines_of, plot
from app.web.numbers import count, percent
from benchmarks.compact_json import compact_json, untabled
from benchmarks.pareto_plan import MOST_DEAD, RECIPE, SLOPE, Row, at_target, better
from benchmarks.pareto_tables import (
    by_choice,
    chosen_rates,
    dead,
    health,
    in_short,
    noise,
    sites_of,
    table,
    verdicts,
)

TEXT = Path(__file__).with_name("pareto_text.md")
DEMO_FORMAT = "jumpscope-comparison"
PICTURED = ("fvu", "delta_lm_loss")
KEPT = ("l0", "fvu", "delta_lm_loss", "kl", "dead", "high_frequency", "uniformity", "target", "lr")
CHOICES: dict[str, Callable[[Sequence[Row]], Row]] = {
    "as shown": better,
    "the lowest FVU, whatever is dead": lambda rows: min(rows, key=at_target),
    "the fewest dead features": lambda rows: min(
        rows, key=lambda row: (row["dead"], at_target(row))
    ),
    "the highest rate": lambda rows: max(rows, key=lambda row: row["lr"]),
    "the lowest rate": lambda rows: min(rows, key=lambda row: row["lr"]),
}
"""How else a point's SAE could be chosen among those of its rates."""

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
    results = [untabled(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    for path, each in zip(paths, results, strict=True):
        if each["settings"] != results[0]["settings"]:
            raise ValueError(f"{path} and {paths[0]} have other settings: they are no comparison.")
    return results[0] | {"groups": {k: v for each in results for k, v in each["groups"].items()}}


def curves_of(results: Results, choice: Callable[[Sequence[Row]], Row] = better) -> dict[str, Any]:
    """The comparison as the app reads it: a list of curves, each at one site with its points, the
    `choice` among the SAEs that were trained for a point.
    """
    curves: dict[tuple[str, str], dict[str, Any]] = {}
    settings = results["settings"]
    point = settings["point"]
    groups = [group for group in results["groups"].values() if group["stage"] != "sweep"]
    for row in _kept([row for group in groups for row in group["rows"]], choice):
        key = (row["site"], row["curve"])
        curve = curves.setdefault(
            key, {"site": row["site"], "curve": row["curve"], "points": [], "seeds": []}
        )
        kept = {k: row[k] for k in KEPT}
        if row["seed"] == 0:
            curve["points"].append(kept)
        if row["target"] == point:
            curve["seeds"].append(kept | {"seed": row["seed"]})
    for curve in curves.values():
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
            curves.values(),
            key=lambda c: (_place(c["site"], settings), order.index(c["curve"])),
        ),
    }


def _kept(rows: Sequence[Row], choice: Callable[[Sequence[Row]], Row]) -> list[Row]:
    """One row of each curve's site, target and seed, which are trained at several rates."""
    alike: dict[tuple[str, str, int, int], list[Row]] = {}
    for row in rows:
        key = (row["curve"], row["site"], row["target"], row["seed"])
        alike.setdefault(key, []).append(row)
    return [choice(each) for each in alike.values()]


def _place(site: str, settings: Mapping[str, Any]) -> tuple[int, int, str]:
    """The middle layer first, and there the residual stream."""
    kind, layer = site.split("/")
    kinds = ("resid_post", "mlp_out", "attn_out")
    return int(int(layer) != settings["layers"][1]), int(layer), str(kinds.index(kind))


def page(results: Results, pictures: str) -> str:
    """docs/pareto.md; `pictures`: the way from it to the plots' folder."""
    comparison = curves_of(results)
    settings = results["settings"]
    l0s = settings["targets"]
    parts = []
    for site in sites_of(comparison):
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
        "{device}, PyTorch {torch}, {date}".format_map(g["machine"])
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
        fvu="\n".join(in_short(comparison, "fvu", l0s)),
        delta_lm_loss="\n".join(in_short(comparison, "delta_lm_loss", l0s)),
        choices="\n".join(
            by_choice(
                {name: curves_of(results, choice) for name, choice in CHOICES.items()},
                "fvu",
                l0s,
                limits["fvu"] or 0.0,
            )
        ),
        dead_features="\n".join(dead(comparison, (settings["point"], l0s[-1]))),
        densest=l0s[-1],
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
    contents = {options.demo: compact_json(comparison) + "\n"}
    for site in sites_of(comparison):
        for metric in PICTURED:
            lines = lines_of(comparison, site, metric)
            drawn = plot(lines, title=site, y_name=METRICS[metric], standalone=True)
            contents[options.pictures / picture(site, metric)] = drawn + "\n"
    way = options.pictures.resolve().relative_to(options.docs.resolve().parent)
    contents[options.docs] = page(results, way.as_posix())
    return contents


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
