"""The comparison of architectures: its verdicts, and the page that is made of them."""

import json
import math
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.paper import pages
from benchmarks.paper.comparison_plan import (
    CURED,
    CURES,
    FAMILIES,
    RATES,
    SEEDS,
    SITES,
    TARGETS,
    chosen,
)
from benchmarks.paper.kinds import (
    ARCHITECTURES,
)
from benchmarks.paper.results import FOLDER, path_of
from benchmarks.paper.shown import SHOWN as ALL_SHOWN
from benchmarks.paper.verdicts import Points, points, quotient

SHOWN = {name: show for name, show in ALL_SHOWN.items() if name.startswith("comparison.")}


def row(stage: str, lr: float, fvu: float, l0: float = 64, **more: Any) -> dict[str, Any]:
    settings = {"architecture": "topk", "site": "mlp_out/4", "target": 64, "seed": 0}
    return settings | {"stage": stage, "lr": lr, "fvu": fvu, "l0": l0} | more


def test_a_rate_is_chosen_on_the_sweep_alone_and_at_one_l0() -> None:
    rows = [
        row("sweep", 0.01, 0.100),
        row("sweep", 0.02, 0.099, l0=70),  # 0.105 at an L0 of 64
        row("report", 0.04, 0.01),
    ]
    assert chosen(rows) == {("topk", "mlp_out/4", 64): 0.01}


def noisy(seeds: int, noise: float, level: float, generator: np.random.Generator) -> Points:
    """Blocks that differ by a factor of ten, alike for all; seeds that differ by `noise`."""
    blocks = np.linspace(0.1, 1, 20)
    factors = level * np.exp(noise * generator.standard_normal(seeds))
    return Points(factors[:, None] * blocks, np.ones(20), np.ones(seeds))


def test_what_blocks_have_in_common_does_not_widen_an_interval() -> None:
    generator = np.random.default_rng(0)
    first, second = (noisy(3, 0.0, level, generator) for level in (1.0, 1.1))
    found = quotient(first, second)
    assert (found.share, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.verdict == "lower"
    assert quotient(second, first).verdict == "higher"


def test_seeds_widen_an_interval_by_the_standard_error_of_their_mean() -> None:
    """In the mean over many trials: 2 * 1.96 * noise * root(2 / 3), and verdicts are open."""
    generator = np.random.default_rng(1)
    widths, wrong = [], 0
    for _ in range(100):
        found = quotient(noisy(3, 0.01, 1.0, generator), noisy(3, 0.01, 1.0, generator))
        widths.append(math.log1p(found.high) - math.log1p(found.low))
        wrong += found.verdict != "open"
    root = math.sqrt(np.mean(np.square(widths)))
    assert root == pytest.approx(2 * 1.96 * 0.01 * math.sqrt(2 / 3), rel=0.15)
    assert wrong <= 20


def test_values_are_moved_to_the_l0_that_was_asked_for_along_their_own_curve() -> None:
    """FVU = L0^-1.2, with L0s that miss their targets."""
    rows = [
        row("report", 0.01, l0**-1.2, l0=l0, target=target, seed=seed, errors=[l0**-1.2] * 4)
        for target in (16, 64, 128)
        for seed, l0 in ((1, 1.02 * target), (2, 1.02 * target))
    ]
    data = {"rows": rows, "texts": {"demo": {"deviations": {"mlp_out/4": [1.0] * 4}}}}
    found = points(data, "demo", "fvu")
    for target in (16, 64, 128):
        assert found["topk", "mlp_out/4", target].mean() == pytest.approx(target**-1.2)


def synthetic() -> dict[str, Any]:
    """JumpReLU's FVU is 10 % below Gated's, TopK's is 10 % below JumpReLU's, ReLU's seeds differ by
    factors; losses go as FVU; the frequency term mends dead features at an FVU 2 % higher.
    """
    levels = {"jumprelu": 1.0, "gated": 1 / 0.9, "topk": 0.9, "standard": 1.02}
    rows = []
    for name, site, target in product(ARCHITECTURES, SITES, TARGETS):
        for family, seed in product(("", *FAMILIES), SEEDS):
            apart = {1: 0.7, 2: 1.0, 3: 1.4}[seed] if name == "standard" else 1.0
            value = levels[name] * apart / target
            place = {"architecture": name, "site": site, "target": target, "seed": seed}
            measured = {"dead": 0.3, "high_frequency": 0.1, "delta_lm_loss": value}
            blocks = {"errors": [value, 3 * value], "losses": [value / 2, 3 * value / 2]}
            more = place | measured | blocks | ({"family": family} if family else {})
            rows.append(row("other" if family else "report", 0.01, value, target, **more))
        for lr in RATES:
            value = levels[name] / target * (1 if lr == 0.01 else 1.1)
            place = {"architecture": name, "site": site, "target": target, "dead": 0.2}
            rows.append(row("sweep", lr, value, target, **place))
    for target, seed, (name, cure) in product(CURED[1], CURED[2], CURES.items()):
        value = (1.02 if cure.frequency else 1.0) / target
        place = {"architecture": "jumprelu", "site": CURED[0], "target": target, "seed": seed}
        measured = {"dead": 0.01 if cure.frequency else 0.3, "delta_lm_loss": value}
        rows.append(row("cure", 0.01, value, target, **place, **measured, cure=name))
    text = {"selection": 10, "report": 20, "deviations": {site: [1.0, 3.0] for site in SITES}}
    return {
        "rows": rows,
        "settings": {"rates": list(RATES), "batch": 2, "steps": 3},
        "texts": dict.fromkeys(("demo", *FAMILIES), text),
        "machine": {"device": "none", "torch": "0"},
        "pass_seconds": {"one": 1.0, "two": 2.5},
    }


def test_every_verdict_of_a_result_is_known() -> None:
    held = {"comparison": synthetic()}
    shown = {name: show(held) for name, show in SHOWN.items()}
    for stage in ("", "_llama", "_mistral"):
        lines = shown[f"comparison.summary{stage}"].splitlines()
        for metric in ("FVU", "delta LM loss"):
            assert f"| {metric} against Gated | 9 | 9, by 10.0 to 10.0 % | 0 | 0 |" in lines
            assert f"| {metric} against TopK | 9 | 0 | 0 | 9, by 11.1 to 11.1 % |" in lines
            assert f"| {metric} against ReLU | 9 | 0 | 9 | 0 |" in lines
        fvu = shown[f"comparison.fvu{stage}"]
        assert "| mlp_out/4, 64 | 0.0156 | **+11.1 %** (+11.1 to +11.1) |" in fvu
        assert "_-10.0 %_ (-10.0 to -10.0)" in fvu
        assert "| attn_out/4, 128 | 30 % | 30 % | 30 % | 30 % |" in shown[f"comparison.dead{stage}"]
    assert "| TopK | 45 | 0.01, 0.01, 0.01 |" in shown["comparison.rates"]
    cures = shown["comparison.cures"]
    assert "| frequency 0.1 | 0.0159 (+2.0 %) | 1.0 % | 0.016 |" in cures
    assert "| none | 0.0156 | 30 % | 0.016 |" in cures
    assert shown["comparison.cost"] == "none, PyTorch 0, 4 s"
    assert shown["comparison.missed"] == "none; no other by more than 0.0 %."
    assert shown["comparison.tokens"] == "6"


def test_peers_are_counted_and_compared_where_they_were_trained() -> None:
    data = synthetic()
    for each in [r for r in data["rows"] if r["architecture"] == "gated" and "family" not in r]:
        data["rows"].append(each | {"architecture": "saelens"})
    held = {"comparison": data}
    assert "| SAELens | 45 | 0.01, 0.01, 0.01 |" in SHOWN["comparison.rates"](held)
    assert "| FVU against SAELens | 9 | 9, by 10.0" in SHOWN["comparison.summary"](held)
    assert "SAELens" not in SHOWN["comparison.summary_llama"](held)
    header, _, line, *_ = SHOWN["comparison.dead"](held).strip().splitlines()
    assert header.endswith("| ReLU | SAELens |")
    assert line == "| resid_post/4, 16 | 30 % | 30 % | 30 % | 30 % | 30 % |"
    assert "and than SAELens's at 9 of 9 places." in SHOWN["comparison.counted.fvu"](held)


def written(folder: Path, data: dict[str, Any]) -> tuple[Path, Path]:
    """Copies of the pages and of all results, with these of the comparison."""
    docs, results = folder / "docs", folder / "results"
    docs.mkdir()
    shutil.copytree("docs/pictures", docs / "pictures")
    for page in Path("docs").glob("*.md"):
        shutil.copy(page, docs)
    results.mkdir()
    for path in FOLDER.glob("*.json"):
        shutil.copy(path, results)
    path_of("comparison", results).write_text(json.dumps(data), encoding="utf-8")
    return docs, results


def test_the_page_is_made_from_the_results_and_compared_with_them(tmp_path: Path) -> None:
    docs, results = written(tmp_path, synthetic())
    path_of("comparison", results).rename(tmp_path / "kept")
    (docs / pages.MADE).write_text("Words.", encoding="utf-8")
    assert pages.wrong(docs, results) == ["comparison.md is there but its results are not."]
    (docs / pages.MADE).unlink()
    (tmp_path / "kept").rename(path_of("comparison", results))
    assert pages.wrong(docs, results) == [
        "comparison.md is not there but its results are: use --write."
    ]
    pages.write(docs, results)
    assert pages.wrong(docs, results) == []
    text = (docs / pages.MADE).read_text(encoding="utf-8")
    ordering = (
        "lower than Gated's at 9 of 9 places, than TopK's at 0 of 9 places (higher at 9) and than "
        "ReLU's at 0 of 9 places (undecided at 9)."
    )
    for metric in ("FVU", "delta LM loss"):
        assert text.count(f"JumpReLU's {metric} is {ordering}") == 3  # on all models
    same = "in 18 of the 18 comparisons that both decide"
    for name in ("Llama", "Mistral"):
        assert f"The {name} says the same as the demo in FVU {same} and in delta LM loss" in text
    assert text.count(f"delta LM loss {same}.") == 2
    assert "With an L0 of 64 that is none of what was tried." in text  # TopK is lower still
    said = (docs / "paper.md").read_text(encoding="utf-8")
    assert "not run on a GPU yet" not in said
    assert "(comparison.md)" in said
    figure = (docs / "pictures" / "paper-comparison-fvu.svg").read_text(encoding="utf-8")
    assert figure.count("<polyline") == 3 * 4
    changed = text.replace("| TopK | 45 |", "| TopK | 46 |").replace("equal terms", "terms", 1)
    assert changed.count("46") == text.count("46") + 1
    (docs / pages.MADE).write_text(changed, encoding="utf-8")
    words, number = pages.wrong(docs, results)
    assert words.startswith("comparison.md has other words than comparison_text.md")
    assert number.startswith("comparison.md: comparison.rates is")


def test_what_cures_is_said_with_the_lead_that_is_left() -> None:
    data = synthetic()
    for each in data["rows"]:
        if each["architecture"] in ("topk", "standard") and each["stage"] == "report":
            each["errors"] = [1.5 * e for e in each["errors"]]
    said = SHOWN["comparison.cured"]({"comparison": data})
    start = "With an L0 of 128 that is *frequency 0.3* (1.0 % dead, FVU 8.2 % below Gated's), "
    assert start in said
    assert "*none*" not in said


def test_an_sae_that_broke_down_stops_no_page(tmp_path: Path) -> None:
    """No feature of some is active: nothing is said there, and all else is."""
    data = synthetic()
    for each in data["rows"]:
        if (each["stage"], each["site"], each["target"]) != ("sweep", SITES[2], 128):
            gone = each["site"] == SITES[2] and each["target"] == 128 and each["seed"] == 1
            each["l0"] = 0 if gone else each["l0"]
    docs, results = written(tmp_path, data)
    pages.write(docs, results)
    assert pages.wrong(docs, results) == []
    text = (docs / pages.MADE).read_text(encoding="utf-8")
    assert "| attn_out/4, 128 |  |  |  |  |" in text
    assert "**+11.1 %** (+11.1 to +11.1)" in text


def test_a_page_can_be_made_of_what_was_there_when_the_time_was_up(tmp_path: Path) -> None:
    data = synthetic()
    data["rows"] = [r for r in data["rows"] if r["stage"] in ("sweep", "report")]
    docs, results = written(tmp_path, data)
    pages.write(docs, results)
    assert pages.wrong(docs, results) == []
    text = (docs / pages.MADE).read_text(encoding="utf-8")
    assert text.count("Not trained before the time was up.") == 3 + 2 * 5
    assert text.count("Not measured before the time was up.") == 2 * 2


def test_an_l0_that_a_seed_misses_gives_no_verdict() -> None:
    """Neither in the table nor in the figure; and JumpReLU alone at a place is nothing compared."""
    data = synthetic()
    for each in data["rows"]:
        place = (each["stage"], each["architecture"], each["site"], each["target"])
        if place == ("report", "gated", SITES[1], 64) and each["seed"] == 2:
            each["l0"], each["dead"] = 80, 0.6
    data["rows"] = [
        r
        for r in data["rows"]
        if (r.get("family"), r["target"]) != ("llama", 16) or r["architecture"] == "jumprelu"
    ]
    held = {"comparison": data}
    assert " †" in next(
        line for line in SHOWN["comparison.fvu"](held).splitlines() if "mlp_out/4, 64" in line
    )
    counted = SHOWN["comparison.counted.fvu"](held)
    assert "lower than Gated's at 8 of 9 places (undecided at 1)" in counted
    gated = "Gated at `mlp_out/4` with an L0 of 64"
    assert SHOWN["comparison.missed"](held) == f"{gated} (25 %); no other by more than 0.0 %."
    assert SHOWN["comparison.broken"](held) == f"{gated} (1 of 3 seeds)."
    assert "all 153 verdicts" not in SHOWN["comparison.unmoved"](held)
    assert "| resid_post/4, 16 |" not in SHOWN["comparison.fvu_llama"](held)
    assert ALL_SHOWN["status.not_run"](held).startswith("The Llama at an L0 of 16. Rates chosen")
    data["left_out"] = {"llama": {"nats_per_token": 7.346, "rows": 9}}
    broken = (
        "A Llama that was trained for this broke down (7.35 nats per token of text it never saw)"
    )
    assert broken in ALL_SHOWN["status.not_run"](held)


def test_what_verdicts_hang_on() -> None:
    held = {"comparison": synthetic()}
    assert SHOWN["comparison.unmoved"](held) == "Unmoved, all 162 verdicts are the same."
    assert SHOWN["comparison.sweep_missed"](held) == "none"
    assert SHOWN["comparison.broken"](held) == "no reported SAE."
    best = SHOWN["comparison.best_seeds"](held)
    assert best.startswith("in 9 of 27 comparisons, not below TopK at `resid_post/4`")
    ends = SHOWN["comparison.at_ends"](held)
    assert ends.startswith("Of the 9 comparisons in which JumpReLU's FVU is lower, 0 are with a")
    assert ends.endswith("9 are with one inside. Of JumpReLU's own rates none is at an end.")
    assert "of the Llama's 9: JumpReLU 9, Gated 9" in SHOWN["comparison.dead_counted"](held)
