"""The comparison's plan: sweeps first, what they choose, and what there is time for."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.pareto_plan import (
    COEFFICIENT,
    COEFFICIENT_SLOPE,
    MOST_DEAD,
    Group,
    Options,
    best_rate,
    expected_seconds,
    plan,
    swept,
)

STAGES = ("curve", "seeds", "sites")


def options(**changes: Any) -> Options:
    start = {"corpus": ("a/text.parquet",), "validation": ("v.parquet",), "out": Path("o.json")}
    return Options(**{**start, **changes})


def done(group: Group, fvu: dict[float, float], l0: float = 64.0) -> dict[str, Any]:
    """What training `group` found, if a learning rate alone decides the FVU."""
    factors = group.coefficients or (None,)
    rows = [
        {
            "curve": group.curve,
            "site": site,
            "target": target,
            "lr": lr,
            "window": window,
            "fvu": fvu[lr] + 0.01 * (window == "wide"),
            "l0": l0,
            "dead": 0.0,
            "coefficient": factors[0],
        }
        for site in group.sites
        for target in group.targets
        for lr, window in group.rates
    ]
    return {
        "stage": group.stage,
        "curve": group.curve,
        "step_seconds": 1e-3,
        "measuring_seconds": 2.0,
        "rows": rows,
    }


def sweeps(result: list[Group]) -> dict[str, Group]:
    return {group.name: group for group in result if group.stage == "sweep"}


def test_only_sweeps_come_before_the_first_result() -> None:
    result = plan(options(), {})
    assert [group.name for group in result] == [
        "sweep-jumprelu",
        "sweep-gated",
        "sweep-topk",
        "sweep-standard",
        "sweep-saelens",
        "sweep-dictionary_learning",
    ]
    # Both windows of a peer are tried at each rate.
    assert [group.count for group in result] == [5, 5, 5, 5, 8, 8]


def test_the_sweep_chooses_the_rate_of_everything_else() -> None:
    chosen = options(
        curves=("jumprelu", "saelens"), lrs=(1e-3, 2e-3, 4e-3), peer_lrs=(1e-3, 2e-3, 4e-3)
    )
    fvu = {1e-3: 0.3, 2e-3: 0.2, 4e-3: 0.25}
    groups = {name: done(g, fvu) for name, g in sweeps(plan(chosen, {})).items()}
    for group in plan(chosen, groups):
        if group.stage == "curve":
            groups[group.name] = done(group, {2e-3: 0.15, 1e-3: 0.14, 5e-4: 0.2})
    result = {group.name: group for group in plan(chosen, groups)}
    sites = [
        "jumprelu-mlp_out/4+attn_out/4",
        "jumprelu-resid_post/1+mlp_out/1+attn_out/1",
        "jumprelu-resid_post/7+mlp_out/7+attn_out/7",
    ]
    others = [f"{name}-other_rate" for name in sites]
    assert list(result) == [
        "sweep-jumprelu",
        "jumprelu-resid_post/4",
        "sweep-saelens",
        "saelens-resid_post/4",
        "jumprelu-resid_post/4-seed_1",
        "jumprelu-resid_post/4-seed_2",
        "saelens-resid_post/4-seed_1",
        "saelens-resid_post/4-seed_2",
        *sites,
        *others,
        "jumprelu-resid_post/4-slower_rate",
        "saelens-resid_post/4-slower_rate",
    ]
    # Curves are trained at half of the rate as well, seeds and sites at the better of the two,
    # sites at the other after it, and curves at a quarter in the end.
    rates = {stage: {g.rates for g in result.values() if g.stage == stage} for stage in STAGES}
    assert rates["curve"] == {((2e-3, "own"), (1e-3, "own")), ((5e-4, "own"),)}
    assert rates["seeds"] == {((1e-3, "own"),)}
    assert {result[name].rates for name in sites} == {((1e-3, "own"),)}
    assert {result[name].rates for name in others} == {((2e-3, "own"),)}
    assert result["jumprelu-resid_post/4"].targets == (16, 32, 64, 96, 128)
    assert result["jumprelu-resid_post/4-seed_2"].targets == (64,)
    # The swept coefficient led to the L0 asked for: it stays there, and is larger for fewer.
    coefficients = dict(
        zip(
            result["saelens-resid_post/4"].targets,
            result["saelens-resid_post/4"].coefficients,
            strict=True,
        )
    )
    assert coefficients[64] == pytest.approx(COEFFICIENT)
    assert coefficients[16] == pytest.approx(4**COEFFICIENT_SLOPE * COEFFICIENT)


def test_sites_with_many_dead_features_are_trained_at_a_lower_rate_too() -> None:
    chosen = options(curves=("topk",), lrs=(1e-3, 2e-3, 4e-3), stages=("sites",))
    groups: dict[str, Any] = {}
    for stage in ("sweep", "curve"):
        for group in plan(options(curves=("topk",), lrs=(1e-3, 2e-3, 4e-3)), groups):
            if group.stage == stage:
                groups[group.name] = done(group, {1e-3: 0.3, 2e-3: 0.2, 4e-3: 0.25, 5e-4: 0.4})
    name = "topk-resid_post/7+mlp_out/7+attn_out/7"
    for group in plan(chosen, groups):
        groups[group.name] = done(group, {2e-3: 0.15, 1e-3: 0.14})
        for row in groups[group.name]["rows"]:
            dense = row["target"] == 128
            # Of attn_out/7 at both rates, of resid_post/7 at one of them and of mlp_out/7 none.
            row["dead"] = {
                "attn_out/7": 0.5 * dense,
                "resid_post/7": 0.5 * (dense and row["lr"] == 2e-3),
            }.get(row["site"], 0.0)
    result = {group.name: group for group in plan(chosen, groups)}
    slower = "topk-attn_out/7-slower_rate"
    # First where many are dead, then everywhere else; each site once.
    assert [name for name in result if name not in groups] == [
        slower,
        "topk-mlp_out/4+attn_out/4-slower_rate",
        "topk-resid_post/1+mlp_out/1+attn_out/1-slower_rate",
        "topk-resid_post/7+mlp_out/7-slower_rate",
    ]
    assert result[slower].rates == ((5e-4, "own"),)
    assert result[slower].targets == (16, 32, 64, 96, 128)
    # What it finds changes nothing of the plan, and it is not known before both rates are.
    groups[slower] = done(result[slower], {5e-4: 0.1})
    assert {group.name for group in plan(chosen, groups)} == set(result)
    del groups[f"{name}-other_rate"]
    assert slower not in {group.name for group in plan(chosen, groups)}


@pytest.mark.parametrize(("slope", "further"), [(-1, ["8e-3", "1.6e-2"]), (1, ["5e-4", "2.5e-4"])])
def test_a_best_rate_at_an_end_is_looked_for_beyond_it(slope: int, further: list[str]) -> None:
    chosen = options(curves=("topk",), lrs=(1e-3, 2e-3, 4e-3), stages=("sweep",))

    class Falling(dict[float, float]):
        def __missing__(self, lr: float) -> float:
            return 0.5 + slope * lr

    groups: dict[str, Any] = {}
    for _ in range(5):
        for group in plan(chosen, groups):
            groups.setdefault(group.name, done(group, Falling()))
    assert list(groups) == ["sweep-topk", *(f"sweep-topk-lr_{float(lr):g}" for lr in further)]
    assert swept(chosen, "topk", groups)
    best = best_rate(groups, "topk")
    assert best is not None
    assert best["lr"] == float(further[-1])


def test_rates_are_compared_at_the_same_l0() -> None:
    chosen = options(curves=("jumprelu",), lrs=(1e-3, 2e-3))
    group = plan(chosen, {})[0]
    result = done(group, {1e-3: 0.2, 2e-3: 0.19})
    result["rows"][1]["l0"] = 128.0  # the lower FVU is bought with twice the features
    best = best_rate({group.name: result}, "jumprelu")
    assert best is not None
    assert best["lr"] == 1e-3
    result["rows"][0]["fvu"] = None  # not finite
    assert best_rate({group.name: result}, "jumprelu") == result["rows"][1]
    result["rows"][1] |= {
        "l0": 2.0,
        "fvu": 1.0,
    }  # broken down: what 64 features would do is unknown
    assert best_rate({group.name: result}, "jumprelu") is None
    assert [g.stage for g in plan(chosen, {group.name: result})] == ["sweep"]


def test_a_rate_that_kills_features_is_passed_over() -> None:
    chosen = options(curves=("jumprelu",), lrs=(1e-3, 2e-3))
    group = plan(chosen, {})[0]
    result = done(group, {1e-3: 0.2, 2e-3: 0.1})
    for dead, lr in ((MOST_DEAD, 2e-3), (MOST_DEAD + 0.01, 1e-3)):
        result["rows"][1]["dead"] = dead
        best = best_rate({group.name: result}, "jumprelu")
        assert best is not None
        assert best["lr"] == lr
    result["rows"][0]["dead"] = 0.9  # where none is without, FVU decides
    assert best_rate({group.name: result}, "jumprelu") == result["rows"][1]


def test_time_is_expected_from_what_was_measured() -> None:
    chosen = options(curves=("jumprelu",), tokens=4_096_000)
    group = plan(chosen, {})[0]
    first = expected_seconds(group, chosen, {})
    result = done(group, dict.fromkeys(chosen.lrs, 0.2)) | {"step_seconds": 10e-3, "seconds": 500.0}
    slow = expected_seconds(group, chosen, {group.name: result})
    assert slow > 2 * first
    # Of a short group, much was what any group takes.
    result["seconds"] = 60.0
    assert first < expected_seconds(group, chosen, {group.name: result}) < slow


def test_settings_that_decide_the_numbers_are_kept_and_others_are_not() -> None:
    one = options(minutes=3, corpus=("b/text.parquet",), seeds=(5,))
    assert one.settings == options().settings
    assert options(tokens=10**6).settings != options().settings


def test_unknown_curves_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown curve relu"):
        options(curves=("relu",))
