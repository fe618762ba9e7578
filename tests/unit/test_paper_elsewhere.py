"""The sweep over bandwidths at other widths and on other language models: what it trains, how it
goes on, and what the page says of it.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.paper import bandwidth, elsewhere
from benchmarks.paper.arms import Size
from benchmarks.paper.bandwidth import EPSILONS, RELATIVE, SITES, TARGETS
from benchmarks.paper.comparison_plan import FAMILIES
from benchmarks.paper.demo import Demo
from benchmarks.paper.elsewhere import Lab, Placed, plan, study
from benchmarks.paper.labs import in_turn, labs_of
from benchmarks.paper.quality import Quality
from benchmarks.paper.results import read
from benchmarks.paper.shown_elsewhere import SHOWN
from benchmarks.paper.shown_text import load
from sae_core.corpus import documents, token_rows
from tests import tiny


def test_every_factor_is_varied_with_the_others_and_each_bandwidth_is_the_first_sweeps() -> None:
    passes = plan()
    assert len({each.name for each in passes}) == len(passes)
    assert {len(each.arms) for each in passes} == {len(TARGETS) * len(EPSILONS)}
    settings = {("demo", 1_024), ("demo", 4_096), ("llama", 2_048), ("mistral", 2_048)}
    found = {((p.model, p.d_sae), p.group, p.seed, p.site) for p in passes}
    assert found == set(product(settings, ("raw", "relative"), (0, 1), SITES))
    for each in passes:
        values = {arm.epsilon for arm in each.arms}
        assert values == set(RELATIVE if each.group == "relative" else EPSILONS)
        assert {arm.relative for arm in each.arms} == {each.group == "relative"}
    second = [k for k, each in enumerate(passes) if (each.group, each.seed) == ("raw", 1)]
    first = [k for k, each in enumerate(passes) if (each.group, each.seed) == ("raw", 0)]
    assert max(first) < min(second)


@dataclass(frozen=True)
class Named:
    """A pass, as far as the order needs it."""

    name: str
    model: str


def test_a_pass_whose_model_is_not_there_gives_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    passes = [Named("a", "late"), Named("b", "demo"), Named("c", "demo"), Named("d", "never")]
    there = ["demo"]

    def come(_: float) -> None:
        there.append("late")

    monkeypatch.setattr(time, "sleep", come)
    lab: Callable[[str], str | None] = lambda name: name if name in there else None  # noqa: E731
    assert [each.name for each, _ in in_turn(passes, lab, time.monotonic() + 60, wait=False)] == [
        "b",
        "c",
    ]
    taken = in_turn(passes, lab, time.monotonic() + 60)
    assert [next(taken)[0].name for _ in range(3)] == ["b", "c", "a"]
    assert list(in_turn(passes, lab, time.monotonic() - 1)) == []
    assert "no time or no model for d" in capsys.readouterr().out


def test_a_language_model_that_broke_down_is_never_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo's is made once; others as soon as they are there, unless they predict nothing."""
    demo = Demo(Path("-"), None, None, torch.device("cpu"))
    monkeypatch.setattr(Demo, "load", lambda folder: Demo(folder, None, None, torch.device("cpu")))
    folders = [tmp_path / name for name in ("one", "two")]
    made: list[Path] = []
    lab = labs_of(demo, folders, lambda each: made.append(each.folder) or each.folder)
    assert lab("demo") == lab("demo") == Path("-")
    assert lab("llama") is lab("mistral") is None
    for folder, family, nats in zip(folders, FAMILIES, (3.9, 7.3), strict=True):
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "config.json").write_text(json.dumps({"model_type": family}))
        report = {"training": {"tokens_seen": 7}, "validation": {"nats_per_token": nats}}
        (folder / "report.json").write_text(json.dumps(report))
    assert lab("llama") == lab("llama") == folders[0]
    assert lab("mistral") is lab("mistral") is None
    assert made == [Path("-"), folders[0]]
    assert capsys.readouterr().out == "mistral broke down (7.30 nats per token): left out\n"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    demo = Demo(Path("-"), tiny.make_model(), tiny.make_tokenizer(), torch.device("cpu"))
    corpus = tiny.make_corpus(tmp_path_factory.mktemp("text") / "corpus.parquet", count=60)
    rows = list(token_rows(documents([str(corpus)]), demo.tokenizer, 12))
    sites = ["resid_post/1"]
    quality = Quality(demo, rows[:4], rows[:2], sites)
    return Lab("mine", {"trained_on": 7}, demo.activations(rows, sites), quality)


def passes_of(*seeds: int) -> list[Placed]:
    (arm, *_) = plan()[0].arms
    return [
        Placed(
            model="demo",
            d_sae=d_sae,
            group="raw",
            site="resid_post/1",
            seed=seed,
            arms=(arm.__class__(target=4, epsilon=EPSILONS[bandwidth.MIDDLE]),),
        )
        for d_sae, seed in product((24, 40), seeds)
    ]


def test_results_are_gone_on_with(lab: Lab, tmp_path: Path) -> None:
    """A second call trains what is not there; other settings or another model are refused."""
    size = Size(d_sae=32, batch=8, steps=20)

    def call(passes: list[Placed], at: Lab = lab, **settings: Any) -> dict[str, Any]:
        later = time.monotonic() + 60
        study(lambda _: at, passes, size, bandwidth.take_step, tmp_path, settings, later)
        return read(elsewhere.STUDY, tmp_path)

    first = call(passes_of(0), text="a")
    assert [(r["d_sae"], r["seed"]) for r in first["rows"]] == [(24, 0), (40, 0)]
    assert first["models"] == {"demo": {"weights": "mine", "trained_on": 7}}
    assert [(each["d_sae"], each["site"]) for each in first["rules"]] == [
        (24, "resid_post/1"),
        (40, "resid_post/1"),
    ]
    both = call(passes_of(0, 1), text="a")
    assert both["rows"][:2] == first["rows"]
    assert [(r["d_sae"], r["seed"]) for r in both["rows"][2:]] == [(24, 1), (40, 1)]
    assert len(both["rules"]) == 2  # of the first seed alone
    assert both["pass_seconds"].keys() == {each.name for each in passes_of(0, 1)}
    with pytest.raises(ValueError, match="results with another text: give a new --out"):
        call([], text="b")
    other = Lab("theirs", {}, lab.raw, lab.quality)
    with pytest.raises(ValueError, match="of another language model"):
        call(passes_of(2), other, text="a")


def synthetic() -> dict[str, Any]:
    """Two settings with known curves: best at 0.01 or 0.3, a fifth more at both ends; the second
    seed of one alone.
    """
    rows, rules = [], []
    for model, d_sae, seeds in (("demo", 1_024, (0, 1)), ("llama", 2_048, (0,))):
        place = {"model": model, "d_sae": d_sae}
        for site in SITES:
            for group, seed, target in product(("raw", "relative"), seeds, TARGETS):
                for k, e in enumerate(RELATIVE if group == "relative" else EPSILONS):
                    fvu = 0.1 * (1.2 if k in (0, 6) else 1.0 if k == 3 else 1.01)
                    cell = {"group": group, "site": site, "seed": seed, "target": target}
                    measured = {"fvu": fvu, "l0": target, "dead": 0.2, "delta_lm_loss": 0.5}
                    rows.append(place | cell | {"epsilon": e, "threshold_noise": 0.03} | measured)
            taken = {"raw": [0.05, 0.1, 0.2], "relative": [1.0, 3.0, 4.0]}
            chosen = dict.fromkeys(("scott", "silverman", "plug_in", "lscv", "gradient"), taken)
            rules.append(place | {"site": site, "targets": {str(t): chosen for t in TARGETS}})
    machine = {"device": "none", "torch": "0"}
    done = {p.name: 1.0 for p in plan() if (p.model, p.d_sae) == ("demo", 1_024)}
    return {"rows": rows, "rules": rules, "pass_seconds": done, "machine": machine}


def test_what_is_said_of_known_curves() -> None:
    held = load()
    held["elsewhere"] = synthetic()
    said = {name: show(held) for name, show in SHOWN.items()}
    lines = said["elsewhere.summary"].splitlines()
    assert "| demo, 1,024 | 9 | 2 | 20 % | 20 % | 20 % |" in lines
    assert "| Llama, 2,048 | 9 | 1 | 20 % | 20 % | 20 % |" in lines
    assert lines.index("| demo, 1,024 | 9 | 2 | 20 % | 20 % | 20 % |") == 4  # then 2,048
    best = "| 1 | 0.1000 | 20.0 | 1.0 | 1.0 | **best** | 1.0 | 1.0 | 20.0 | 0.0022 to 0.046 |  |"
    assert f"| Llama, 2,048, mlp_out/4, 32 {best}" in said["elsewhere.fvu"]
    assert said["elsewhere.fvu"].count("**best**") == 18  # none of the first sweep's
    rules = said["elsewhere.rules"]
    assert "| Scott | 0.10: 20 % (20 %) | 0.0" in rules
    assert "| 0.10: 20 % (20 %) | " in rules.splitlines()[4]
    assert "| one for all, the best afterwards | 0.010: 0.0 % (0.0 %) |" in rules
    assert "| 0.0022 for all | 1.0 % (1.0 %) |" in rules
    assert "| Scott | 3.0: 20 % (20 %) |" in said["elsewhere.rules_relative"]
    assert said["elsewhere.gain"] == "at its best such a bandwidth changes FVU by +0.0 to +0.0 %."
    assert "| demo, 1,024 | dead | 20 % |" in said["elsewhere.other"]
    assert said["elsewhere.flat"].startswith("At 18 more places (demo, 1,024; Llama, 2,048)")
    assert "at most 20 % above the best" in said["elsewhere.flat"]
    assert "the first seed of raw bandwidths of (Llama, 2,048)" in said["elsewhere.missing"]
    assert "1,024" not in said["elsewhere.missing"]
    held["elsewhere"]["left_out"] = {"mistral": {"nats_per_token": 7.3, "rows": 9}}
    missing = SHOWN["elsewhere.missing"](held)
    assert "(Mistral" not in missing
    assert "A Mistral that was trained for this broke down (7.30 nats per token" in missing


def test_what_was_not_trained_is_said() -> None:
    held = load()
    held.pop("elsewhere", None)
    said = {name: show(held) for name, show in SHOWN.items()}
    for name in ("summary", "summary_relative", "rules", "rules_relative", "fvu", "other"):
        assert said[f"elsewhere.{name}"].strip() == "Not trained before the time was up."
    assert said["elsewhere.missing"] == "Other widths and other families of models: time."
