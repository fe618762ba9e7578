"""What `benchmarks.pareto` trains, in order of worth: `Options`, `Group` and `plan`.

A *curve* is a way of training SAEs: one of our architectures, or another library's JumpReLU
trainer. A *group* is what one pass over the activations trains for one curve. The plan is made anew
after each group, because later ones need the learning rates that the sweep has chosen.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from training.options import Compile

OURS = ("jumprelu", "gated", "topk", "standard")
PEERS = ("saelens", "dictionary_learning")
CURVES = (*OURS, *PEERS)
RECIPE = {"beta1": 0.9, "target_coefficient": 1.0, "lr_warmup": 0.1, "lr_decay": 0.5}
"""What ours change in `short_run`: a first moment, which lowers FVU in runs as short as these; for
JumpReLU a weaker square around the target, which is better where many features are active; a longer
warm-up; and a rate that is kept up for longer, which does no harm here."""
SLOPE = 0.7
"""FVU falls about as L0 to this power: how FVUs at slightly different L0 are compared."""
FURTHEST = 4
"""Largest quotient of two L0 that are so compared."""
MOST_EXTENSIONS = 2
"""Further rates tried where the best one was the sweep's first or last."""
COEFFICIENT = 8.3e-4
"""SAELens' first l0_coefficient over d_model (its inputs have a mean norm of sqrt(d_model)), for an
L0 of some 60; later ones follow from the L0 that it led to."""
COEFFICIENT_SLOPE = 0.9
"""The coefficient goes about as L0 to minus this power."""
MOST_DEAD = 0.05
"""Share of dead features above which a rate of the sweep is passed over: it is close to breaking
down, which it would do in a longer run or with more active features."""
SLOWER = 0.5
"""Curves are trained at the sweep's best rate, at this share of it, and at this share of that."""
SLOWER_SUFFIX = "-slower_rate"
"""Of the names of groups at the lowest of the three."""
FIXED_SECONDS = 25.0
"""Of a group, for loading and compiling."""
SAE_SECONDS = 3.0
"""Of measuring one SAE."""
STEP_SECONDS = {"topk": 2.5e-3, "saelens": 5e-3, "dictionary_learning": 5e-3}
"""Of one SAE's step, as long as nothing was measured; 1 ms for curves that are not listed."""

Stage = Literal["sweep", "curve", "seeds", "sites"]
Window = Literal["own", "wide"]
Choice = Literal["better", "other", "dead", "rest"]
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is compared, on what and for how long."""

    corpus: tuple[str, ...]
    """Training text."""
    validation: tuple[str, ...]
    """Text to measure on."""
    out: Path
    """JSON file of the results; one that is there is gone on with."""
    model: str = "app/demo/model"
    """The language model."""
    work: Path | None = None
    """Folder for runs and weights: keep it, and a killed group goes on from its checkpoint. None: a
    temporary one."""
    minutes: float = 60.0
    """No group starts that is not expected to end within them."""
    tokens: int = 12_288_000
    """Tokens each SAE is trained on."""
    sweep_tokens: int = 6_553_600
    """The same for the sweep of learning rates."""
    d_sae: int = 4_096
    """Features of each SAE."""
    layers: tuple[int, int, int] = (1, 4, 7)
    """An early, a middle and a late layer."""
    targets: tuple[int, ...] = (16, 32, 64, 96, 128)
    """L0 of each curve's points."""
    point: int = 64
    """L0 of the sweep and of the seeds."""
    lrs: tuple[float, ...] = (1.25e-3, 2.5e-3, 5e-3, 1e-2, 2e-2)
    """Learning rates of the sweep, ascending; a best one at an end is looked for beyond it."""
    peer_lrs: tuple[float, ...] = (6.25e-4, 1.25e-3, 2.5e-3, 5e-3)
    """The same for the other libraries' trainers, which take lower ones."""
    seeds: tuple[int, ...] = (1, 2)
    """Further seeds at the point."""
    curves: tuple[str, ...] = CURVES
    """What is trained."""
    stages: tuple[Stage, ...] = ("sweep", "curve", "seeds", "sites")
    """Which parts of the plan are carried out."""
    validation_tokens: int = 200_000
    """Tokens to measure on."""
    uniformity_rows: int = 256
    """Prompts to measure the uniformity on, a token of each."""
    batch: int = 4_096
    """Tokens a step."""
    context_size: int = 512
    """Tokens of a prompt."""
    buffer_tokens: int = 2**19
    """Activations held for shuffling, per site."""
    compile: Compile = "auto"
    """As in `training.options.RunOptions`, but `auto` is `cuda-graph` on CUDA."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.curves) - set(CURVES)):
            raise ValueError(f"unknown curve {', '.join(unknown)}: use {', '.join(CURVES)}.")
        if any(list(lrs) != sorted(set(lrs)) for lrs in (self.lrs, self.peer_lrs)):
            raise ValueError("lrs must ascend, and peer_lrs too.")

    @property
    def settings(self) -> dict[str, Any]:
        """What results must agree on to stand in one file; the rest may differ between calls."""
        free = {"out", "work", "minutes", "curves", "stages", "seeds", "compile", "model"}
        settings = {k: v for k, v in asdict(self).items() if k not in free}
        for name in ("corpus", "validation"):
            settings[name] = [Path(each).name for each in getattr(self, name)]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}


@dataclass(frozen=True, kw_only=True)
class Group:
    """SAEs trained in one pass: every site with every target and every rate."""

    name: str
    stage: Stage
    curve: str
    sites: tuple[str, ...]
    targets: tuple[int, ...]
    rates: tuple[tuple[float, Window], ...]
    """Learning rates, and which window a peer's threshold gradient has: its `own`, or the `wide`
    one of our `short_run`. Ours have `own`."""
    tokens: int
    seed: int = 0
    coefficients: tuple[float, ...] = ()
    """SAELens: l0_coefficient over d_model, for each target."""

    @property
    def count(self) -> int:
        """SAEs trained."""
        return len(self.sites) * len(self.targets) * len(self.rates)


def plan(options: Options, groups: Mapping[str, Mapping[str, Any]]) -> list[Group]:
    """Everything to train that can be said by now, in order of worth; `groups`: what is done."""
    early, middle, late = options.layers
    main = (f"resid_post/{middle}",)
    places = [
        (f"mlp_out/{middle}", f"attn_out/{middle}"),
        *((f"resid_post/{n}", f"mlp_out/{n}", f"attn_out/{n}") for n in (early, late)),
    ]
    ours = [curve for curve in OURS if curve in options.curves]
    peers = [curve for curve in PEERS if curve in options.curves]
    planned = [
        *(group for curve in ours for group in _sweep(options, curve, main, groups)),
        *(group for curve in ours for group in _curve(options, curve, main, groups)),
    ]
    for curve in peers:
        planned += _sweep(options, curve, main, groups)
        planned += _curve(options, curve, main, groups)
    for curve, seed in product([*ours, *peers], options.seeds):
        planned += _curve(options, curve, main, groups, seed=seed)
    for choice, place, curve in product(get_args(Choice), places, ours):
        planned += _site(options, curve, place, groups, choice)
    for curve in (*ours, *peers):
        planned += _curve(options, curve, main, groups, slower=True)
    return [group for group in planned if group.stage in options.stages]


def _sweep(
    options: Options, curve: str, sites: tuple[str, ...], groups: Mapping[str, Mapping[str, Any]]
) -> list[Group]:
    """The sweep of a curve, and what is tried beyond its ends as far as results tell."""

    def group(name: str, lrs: Sequence[float]) -> Group:
        windows: tuple[Window, ...] = ("own", "wide") if curve in PEERS else ("own",)
        return Group(
            name=name,
            stage="sweep",
            curve=curve,
            sites=sites,
            targets=(options.point,),
            rates=tuple(product(lrs, windows)),
            tokens=options.sweep_tokens,
            coefficients=(COEFFICIENT,) if curve == "saelens" else (),
        )

    lrs = list(options.peer_lrs if curve in PEERS else options.lrs)
    sweep = [group(f"sweep-{curve}", lrs)]
    while sweep[-1].name in groups and len(sweep) <= MOST_EXTENSIONS:
        # Of the results from before the next one was trained, so that every call plans the same.
        best = best_rate({each.name: groups[each.name] for each in sweep}, curve)
        if best is None:
            break
        if best["lr"] == lrs[-1]:
            lrs.append(2 * lrs[-1])
            further = lrs[-1]
        elif best["lr"] == lrs[0]:
            lrs.insert(0, lrs[0] / 2)
            further = lrs[0]
        else:
            break
        sweep.append(group(f"sweep-{curve}-lr_{further:g}", [further]))
    return sweep


def _curve(
    options: Options,
    curve: str,
    main: tuple[str, ...],
    groups: Mapping[str, Mapping[str, Any]],
    *,
    seed: int = 0,
    slower: bool = False,
) -> list[Group]:
    """A curve's points where its rate was swept, each at the best rate and at a lower one, or at a
    `slower` one than both; with another seed its one point at the better of the first two. None
    before what decides on the rates.
    """
    best = best_rate(groups, curve)
    if best is None or not swept(options, curve, groups):
        return []
    if slower:
        rates = [SLOWER**2 * best["lr"]]
        return [_group(options, curve, main, best, rates, stage="curve", suffix=SLOWER_SUFFIX)]
    if not seed:
        rates = [best["lr"], SLOWER * best["lr"]]
        return [_group(options, curve, main, best, rates, stage="curve")]
    rate = _better_at_point(options, curve, groups)
    if rate is None:
        return []
    return [_group(options, curve, main, best, [rate], stage="seeds", seed=seed)]


def _site(
    options: Options,
    curve: str,
    place: tuple[str, ...],
    groups: Mapping[str, Mapping[str, Any]],
    choice: Choice,
) -> list[Group]:
    """A curve's points at other sites, at one rate: that of the two at the swept site which was the
    `better` one at the point, the `other` one, or a slower one than both: first at the sites where
    both left more than `MOST_DEAD` of a point's features `dead`, then at the `rest`. None before
    what decides on the rate and the sites.
    """
    best = best_rate(groups, curve)
    rate = _better_at_point(options, curve, groups)
    if best is None or rate is None:
        return []
    (other,) = {best["lr"], SLOWER * best["lr"]} - {rate}
    rates = {"better": rate, "other": other}
    names = {"better": "", "other": "-other_rate"}
    if choice in ("dead", "rest"):
        before = [groups.get(_name(curve, place) + names[each]) for each in rates]
        if None in before:
            return []
        rows = [row for group in before if group for row in group["rows"]]
        place = tuple(s for s in place if _many_dead(rows, s, options) == (choice == "dead"))
    if not place:
        return []
    lr, suffix = rates.get(choice, SLOWER**2 * best["lr"]), names.get(choice, SLOWER_SUFFIX)
    return [_group(options, curve, place, best, [lr], stage="sites", suffix=suffix)]


def _many_dead(rows: Sequence[Row], site: str, options: Options) -> bool:
    """Whether all rows of one of a site's points have more dead features than `MOST_DEAD`."""
    return any(
        all(row["dead"] > MOST_DEAD for row in rows if (row["site"], row["target"]) == (site, l0))
        for l0 in options.targets
    )


def _better_at_point(
    options: Options, curve: str, groups: Mapping[str, Mapping[str, Any]]
) -> float | None:
    """Which of the two rates at the swept site was the better one at the point; None before."""
    trained = groups.get(_name(curve, [f"resid_post/{options.layers[1]}"]))
    if trained is None:
        return None
    return better([row for row in trained["rows"] if row["target"] == options.point])["lr"]


def _group(
    options: Options,
    curve: str,
    sites: tuple[str, ...],
    best: Row,
    lrs: Sequence[float],
    *,
    stage: Stage,
    seed: int = 0,
    suffix: str = "",
) -> Group:
    """What trains a curve's points at some sites as the `best` row of its sweep was trained."""
    targets = (options.point,) if seed else options.targets
    factor = best.get("coefficient")
    return Group(
        name=_name(curve, sites) + (f"-seed_{seed}" if seed else "") + suffix,
        stage=stage,
        curve=curve,
        sites=sites,
        targets=targets,
        rates=tuple((lr, best["window"]) for lr in lrs),
        tokens=options.tokens,
        seed=seed,
        coefficients=()
        if factor is None
        else tuple(factor * (best["l0"] / target) ** COEFFICIENT_SLOPE for target in targets),
    )


def _name(curve: str, sites: Sequence[str]) -> str:
    return f"{curve}-{'+'.join(sites)}"


def swept(options: Options, curve: str, groups: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a curve's sweep is over, extensions included."""
    return all(g.name in groups for g in _sweep(options, curve, ("",), groups))


def best_rate(groups: Mapping[str, Mapping[str, Any]], curve: str) -> Row | None:
    """The `better` row of a curve's sweep; None before the sweep, and if nothing in it came near
    the swept L0.
    """
    rows = [
        row
        for group in groups.values()
        for row in group["rows"]
        if group["stage"] == "sweep" and row["curve"] == curve and math.isfinite(at_target(row))
    ]
    return better(rows) if rows else None


def better(rows: Sequence[Row]) -> Row:
    """Of rows that were to have one L0, that with the lowest FVU there; one with more than
    `MOST_DEAD` dead features only where all have more.
    """
    return min(rows, key=lambda row: (row["dead"] > MOST_DEAD, at_target(row)))


def at_target(row: Row) -> float:
    """A row's FVU moved to the L0 it was to have; infinite where that is too far, as it is when
    training broke down.
    """
    fvu, l0 = row["fvu"], row["l0"]
    if not fvu or not l0 or not 1 / FURTHEST <= l0 / row["target"] <= FURTHEST:
        return math.inf
    return fvu * (l0 / row["target"]) ** SLOPE


def expected_seconds(
    group: Group, options: Options, groups: Mapping[str, Mapping[str, Any]]
) -> float:
    """How long a group will take, from those of its curve before. SAEs share the pass over the
    text, so that a step of one among many is the better guide.
    """
    before = [g for g in groups.values() if g["curve"] == group.curve]
    step = min(map(_seconds_of_a_step, before), default=STEP_SECONDS.get(group.curve, 1e-3))
    measure = before[-1]["measuring_seconds"] if before else SAE_SECONDS
    return FIXED_SECONDS + group.count * (group.tokens // options.batch * step + measure)


def _seconds_of_a_step(result: Mapping[str, Any]) -> float:
    """Of one SAE in a group that was trained, less what a group takes in any case; for a short
    group, of which that leaves little, half of what was measured.
    """
    measured = result["step_seconds"]
    training = result["seconds"] - len(result["rows"]) * result["measuring_seconds"]
    return measured * max(0.5, 1 - FIXED_SECONDS / training)
