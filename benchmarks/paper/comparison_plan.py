"""What the comparison of architectures trains: passes of SAEs side by side, in order of worth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, cast

from benchmarks.paper.kinds import ARCHITECTURES, Cure, Kind
from benchmarks.pareto_plan import at_target

SITES = ("resid_post/4", "mlp_out/4", "attn_out/4")
TARGETS = (16, 64, 128)
RATES = (0.00125, 0.0025, 0.005, 0.01, 0.02)
"""Tried for every architecture."""
SWEEP_SEED = 0
SEEDS = (1, 2, 3)
"""Reported: none of them had a part in the choice of a rate."""
PEERS = ("saelens", "dictionary_learning")
"""Other libraries' JumpReLU training, tried and reported as the architectures are."""
TOGETHER = 9
"""SAEs trained side by side."""
DEMO = "demo"
FAMILIES = ("llama", "mistral")
"""Other language models, by the family that their configuration names."""
OTHER_TARGETS = (64, 16, 128)
"""L0s on other language models, in order of worth."""
CURES: dict[str, Cure] = {
    "none": Cure(),
    "frequency 0.3": Cure(frequency=0.3),
    "frequency 0.1": Cure(frequency=0.1),
    "frequency 0.03": Cure(frequency=0.03),
    "b_enc": Cure(b_enc=0.1),
    "resample": Cure(resample=True),
    "wide": Cure(wide=10),
    "slow": Cure(warmup=3.5),
    "frequency 0.1, resample": Cure(frequency=0.1, resample=True),
}
CURED = ("attn_out/4", (64, 128), (1, 2))
"""Where cures are tried: site, L0s and seeds."""
ELSEWHERE = ("frequency 0.1", "frequency 0.03", "resample")
"""Cures that are also tried at the other sites, at an L0 of 64, and of 128 in the first of them."""
LONGER = 2
"""Times the length, at half and at a quarter of the rate: another cure."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What is trained side by side. `stage`: sweep, report, cure, long, other."""

    name: str
    stage: str
    kinds: tuple[Kind, ...]
    longer: int = 1
    """Times the study's length."""
    model: str = DEMO
    """The language model: the demo's, or one of `FAMILIES`."""


def sweep_plan(architectures: Sequence[str] = ARCHITECTURES) -> list[Pass]:
    """The tried settings of architectures or peers."""
    return [
        each
        for architecture in architectures
        for each in _passes(
            f"sweep {architecture}",
            "sweep",
            [
                Kind(
                    architecture=cast("Any", architecture), site=s, target=t, lr=lr, seed=SWEEP_SEED
                )
                for s, t, lr in product(SITES, TARGETS, RATES)
            ],
        )
    ]


def report_plan(rows: Sequence[dict[str, Any]], architectures: Sequence[str]) -> list[Pass]:
    """The reported seeds of architectures or peers whose settings have been tried."""
    rate = chosen(rows)
    passes: list[Pass] = []
    for site, architecture in product(SITES, architectures):
        kinds = [
            Kind(
                architecture=cast("Any", architecture),
                site=site,
                target=target,
                lr=rate[architecture, site, target],
                seed=seed,
            )
            for target, seed in product(TARGETS, SEEDS)
        ]
        passes += _passes(f"report {architecture} {site}", "report", kinds)
    return passes


def tried(rows: Sequence[dict[str, Any]], architectures: Sequence[str]) -> bool:
    """Whether a rate is chosen for every one of them, at every site and L0."""
    return set(product(architectures, SITES, TARGETS)) <= set(chosen(rows))


def other_plan(rows: Sequence[dict[str, Any]], targets: Sequence[int]) -> list[Pass]:
    """Other language models, with the demo's rates."""
    rate = chosen(rows)
    passes: list[Pass] = []
    for target, family, architecture in product(targets, FAMILIES, ARCHITECTURES):
        kinds = [
            Kind(
                architecture=architecture,
                site=site,
                target=target,
                lr=rate[architecture, site, target],
                seed=seed,
            )
            for site, seed in product(SITES, SEEDS)
        ]
        name = f"other {family} {architecture} {target}"
        passes += _passes(name, "other", kinds, model=family)
    return passes


def later_plan(rows: Sequence[dict[str, Any]]) -> list[Pass]:
    """Everything else that needs the chosen rates, in order of worth."""
    rate = chosen(rows)

    def kind(architecture: Any, site: str, target: int, seed: int, **more: Any) -> Kind:
        lr = rate[architecture, site, target]
        return Kind(
            architecture=cast("Any", architecture),
            site=site,
            target=target,
            lr=lr,
            seed=seed,
            **more,
        )

    passes: list[Pass] = []
    site, targets, seeds = CURED
    for seed, target in product(seeds, targets):
        kinds = [kind("jumprelu", site, target, seed, cure=cure) for cure in CURES.values()]
        passes += _passes(f"cure {target} {seed}", "cure", kinds)
    places = [(SITES[0], 64), (SITES[1], 64), (SITES[0], 128)]
    kinds = [kind("jumprelu", s, t, 1, cure=CURES[c]) for (s, t), c in product(places, ELSEWHERE)]
    passes += _passes("cure elsewhere", "cure", kinds)
    long = [
        replace(each, lr=each.lr / slower)
        for target, slower, seed in product(targets, (LONGER, LONGER**2), seeds)
        for each in [kind("jumprelu", site, target, seed)]
    ]
    # One more makes it as many as all passes have, which share their compiled step.
    long.append(kind("jumprelu", site, targets[-1], seeds[0]))
    passes.append(Pass(name="long", stage="long", kinds=tuple(long), longer=LONGER))
    passes += other_plan(rows, OTHER_TARGETS[1:])
    return passes


def _passes(name: str, stage: str, kinds: Sequence[Kind], **more: Any) -> list[Pass]:
    parts = [kinds[k : k + TOGETHER] for k in range(0, len(kinds), TOGETHER)]
    return [
        Pass(
            name=f"{name} {k}" if len(parts) > 1 else name,
            stage=stage,
            kinds=tuple(part),
            **more,
        )
        for k, part in enumerate(parts)
    ]


def chosen(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str, int], float]:
    """The rate of each architecture, site and L0 with the lowest FVU on the selection text, moved
    to the L0 that was asked for.
    """
    best: dict[tuple[str, str, int], dict[str, Any]] = {}
    for row in rows:
        if row["stage"] == "sweep":
            key = (row["architecture"], row["site"], row["target"])
            if key not in best or at_target(row) < at_target(best[key]):
                best[key] = row
    return {key: row["lr"] for key, row in best.items()}
