"""Section 1: four architectures at one L0, rates chosen on one text and results taken on another.

Every architecture is tried at the same learning rates with one seed, at every site and L0; the rate
with the lowest FVU on the *selection* half of the validation text trains three further seeds, which
are measured on the *report* half alone. The halves share no work. Then the same rates on another
language model, and changes to JumpReLU that are tried against its dead features.

    python -m training.lm --corpus 'TEXTS/train-0[0-5]*.parquet' --validation HELD_OUT \\
        --tokenizer app/demo/model --shape.family llama --attention flex --lr 6e-3 \\
        --max-seconds 55 --out runs/llama &
    python -m benchmarks.paper.comparison --corpus TEXTS/train-00-of-12.parquet \\
        --validation HELD_OUT --other runs/llama --out OUT --minutes 4.9
    python -m benchmarks.paper.shown_comparison OUT

Results are written after every pass and gone on with by the next call. All passes need about five
minutes of one H200, by the speed of `bandwidth` (it ran on a CPU at toy sizes alone); those of most
worth come first.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from benchmarks.paper.demo import Demo
from benchmarks.paper.halves import Text, halves
from benchmarks.paper.kind_gradients import check_cuts
from benchmarks.paper.kinds import (
    ARCHITECTURES,
    Cure,
    Kind,
    Length,
    Trained,
    take_step,
    train,
)
from benchmarks.paper.results import FOLDER, Results, content_hash, path_of
from benchmarks.paper.text import read_rows
from benchmarks.pareto_plan import at_target
from sae_core.config import SAEConfig, Site
from sae_core.corpus import TokenRow
from sae_core.sae import SAE
from training.sae_trainer import compiler
from training.trained_form import folded

SITES = ("resid_post/4", "mlp_out/4", "attn_out/4")
TARGETS = (16, 64, 128)
RATES = (0.00125, 0.0025, 0.005, 0.01, 0.02)
"""Tried for every architecture."""
SWEEP_SEED = 0
SEEDS = (1, 2, 3)
"""Reported: none of them had a part in the choice of a rate."""
TOGETHER = 9
"""SAEs trained side by side."""
OTHER_TARGETS = (64, 16, 128)
"""L0s on the other language model, in order of worth."""
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
EPSILONS = (0.0005, *(0.001 * 10 ** (k / 3) for k in range(7)), 0.2)
"""Bandwidths on the other language model, in units of the scaled input."""
WIDTHS = (1_024, 4_096)
"""Further widths of the sweep over bandwidths."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What is trained side by side. `stage`: sweep, report, cure, long, other, bandwidth, width."""

    name: str
    stage: str
    kinds: tuple[Kind, ...]
    d_sae: int = 0
    """Another width than the study's; 0: the same."""
    longer: int = 1
    """Times the study's length."""

    @property
    def other(self) -> bool:
        """Whether it is of the other language model."""
        return self.stage in ("other", "bandwidth")


def sweep_plan() -> list[Pass]:
    """The tried settings of all architectures."""
    return [
        each
        for architecture in ARCHITECTURES
        for each in _passes(
            f"sweep {architecture}",
            "sweep",
            [
                Kind(architecture=architecture, site=s, target=t, lr=lr, seed=SWEEP_SEED)
                for s, t, lr in product(SITES, TARGETS, RATES)
            ],
        )
    ]


def later_plan(rows: Sequence[dict[str, Any]]) -> list[Pass]:
    """Everything that needs the chosen rates, in order of worth."""
    rate = chosen(rows)

    def kind(architecture: Any, site: str, target: int, seed: int, **more: Any) -> Kind:
        lr = rate[architecture, site, target]
        return Kind(architecture=architecture, site=site, target=target, lr=lr, seed=seed, **more)

    def others(targets: Sequence[int]) -> list[Pass]:
        return [
            each
            for target, architecture in product(targets, ARCHITECTURES)
            for each in _passes(
                f"other {architecture} {target}",
                "other",
                [kind(architecture, s, target, seed) for s, seed in product(SITES, SEEDS)],
            )
        ]

    passes: list[Pass] = []
    for site, architecture in product(SITES, ARCHITECTURES):
        kinds = [kind(architecture, site, t, s) for t, s in product(TARGETS, SEEDS)]
        passes += _passes(f"report {architecture} {site}", "report", kinds)
    passes += others(OTHER_TARGETS[:1])
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
    passes += others(OTHER_TARGETS[1:])
    for site in SITES:
        kinds = [kind("jumprelu", site, 64, 1, epsilon=e) for e in EPSILONS]
        passes += _passes(f"bandwidth {site}", "bandwidth", kinds)
    for width, site in product(WIDTHS, SITES):
        kinds = [kind("jumprelu", site, 64, 1, epsilon=e) for e in EPSILONS]
        passes += _passes(f"width {width} {site}", "width", kinds, width)
    return passes


def _passes(name: str, stage: str, kinds: Sequence[Kind], d_sae: int = 0) -> list[Pass]:
    parts = [kinds[k : k + TOGETHER] for k in range(0, len(kinds), TOGETHER)]
    return [
        Pass(
            name=f"{name} {k}" if len(parts) > 1 else name,
            stage=stage,
            kinds=tuple(part),
            d_sae=d_sae,
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


def sae_of(trained: Trained, k: int) -> SAE:
    """One of them as an SAE that takes raw activations."""
    parameters = {name: p[k] for name, p in trained.parameters.items()}
    d_model, d_sae = parameters["W_enc"].shape
    kind = trained.kinds[k]
    cfg = SAEConfig(
        architecture=kind.architecture,
        d_model=d_model,
        d_sae=d_sae,
        site=Site.parse(kind.site),
        k=kind.target if kind.architecture == "topk" else None,
    )
    return folded(parameters, trained.scales[k], cfg)


@dataclass(frozen=True)
class Lab:
    """One language model: activations to train on, and both halves to measure on."""

    demo: Demo
    raw: dict[str, Float[Tensor, "tokens d_model"]]
    selection: Text
    report: Text

    @classmethod
    def of(
        cls,
        demo: Demo,
        training: Sequence[TokenRow],
        texts: Sequence[Sequence[TokenRow]],
        blocks: int,
    ) -> "Lab":
        """`texts`: the rows of the halves."""
        selection, report = texts
        return cls(
            demo,
            demo.activations(training, SITES),
            Text(demo, selection, SITES, 1),
            Text(demo, report, SITES, blocks),
        )


def carry_out(
    each: Pass, lab: Lab, length: Length, step: Callable[..., None] = take_step
) -> Iterator[dict[str, Any]]:
    """Train a pass, and a row for each of its SAEs."""
    length = Length(
        d_sae=each.d_sae or length.d_sae, batch=length.batch, steps=length.steps * each.longer
    )
    trained = train(each.kinds, length, lab.raw, step)
    names = {cure: name for name, cure in CURES.items()}
    for k, kind in enumerate(each.kinds):
        sae = sae_of(trained, k).to(lab.demo.device)
        row = {
            "stage": each.stage,
            "architecture": kind.architecture,
            "site": kind.site,
            "target": kind.target,
            "lr": kind.lr,
            "seed": kind.seed,
        }
        if each.stage == "cure":
            row["cure"] = names[kind.cure]
        if each.stage in ("bandwidth", "width"):
            row["epsilon"] = kind.epsilon
        if each.d_sae:
            row["d_sae"] = each.d_sae
        if each.stage == "sweep":
            yield row | lab.selection.of(sae, kind.site, loss=False, by_block=False)
        else:
            by_block = each.stage in ("report", "other")
            yield row | lab.report.of(sae, kind.site, by_block=by_block)


def study(
    lab: Callable[[bool], Lab | None],
    length: Length,
    step: Callable[..., None],
    out: Path,
    settings: dict[str, Any],
    deadline: float,
) -> None:
    """Carry out every pass that begins before the deadline and is not in the results yet.

    `lab`: the language model, or the other one (True), which may not be there (None).
    """
    settings = settings | {
        "d_sae": length.d_sae,
        "batch": length.batch,
        "steps": length.steps,
        "rates": RATES,
        "cures": {name: asdict(cure) for name, cure in CURES.items()},
    }
    results = Results("comparison", out, settings)
    rows: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}
    texts: dict[str, Any] = {}
    if path_of("comparison", out).is_file():
        before = json.loads(path_of("comparison", out).read_text(encoding="utf-8"))
        rows, seconds, texts = before["rows"], before["pass_seconds"], before["texts"]

    def carry(passes: Sequence[Pass]) -> None:
        for each in passes:
            if each.name in seconds:
                continue
            if time.monotonic() > deadline:
                print(f"no time for {each.name}", flush=True)
                continue
            here = lab(each.other)
            if here is None:
                print(f"no model for {each.name}", flush=True)
                continue
            texts["other" if each.other else "demo"] = {
                "selection": here.selection.tokens,
                "report": here.report.tokens,
                "deviations": here.report.deviations(),
            }
            started = time.monotonic()
            rows.extend(carry_out(each, here, length, step))
            seconds[each.name] = round(time.monotonic() - started, 2)
            results.keep(texts=texts, pass_seconds=seconds, rows=rows)
            for row in rows[-len(each.kinds) :]:
                print(_line(row), flush=True)
            left = deadline - time.monotonic()
            print(f"{each.name}: {seconds[each.name]} s, {left:.0f} s left", flush=True)

    carry(sweep_plan())
    if len(chosen(rows)) == len(ARCHITECTURES) * len(SITES) * len(TARGETS):
        carry(later_plan(rows))


def _line(row: dict[str, Any]) -> str:
    return " ".join(
        f"{v:.4g}" if isinstance(v, float) else str(v)
        for v in row.values()
        if not isinstance(v, list)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m benchmarks.paper.comparison`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper.comparison",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=Path("app/demo"))
    parser.add_argument("--other", type=Path, help="folder with another language model in `model`")
    parser.add_argument("--corpus", nargs="+", required=True, help="text to train on")
    parser.add_argument("--validation", nargs="+", required=True, help="text to measure on")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the results")
    parser.add_argument("--context-size", type=int, default=512)
    parser.add_argument("--d-sae", type=int, default=2_048)
    parser.add_argument("--batch", type=int, default=2_048)
    parser.add_argument("--steps", type=int, default=2_500)
    parser.add_argument("--rows", type=int, nargs=2, default=(128, 240), help="of each half")
    parser.add_argument("--blocks", type=int, default=20, help="of the report's rows")
    parser.add_argument("--minutes", type=float, default=60.0, help="no pass begins after them")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    demo = Demo.load(options.bundle)
    check_cuts(demo.device)
    length = Length(d_sae=options.d_sae, batch=options.batch, steps=options.steps)
    tokens = length.batch * length.steps
    training = read_rows(options.corpus, demo.tokenizer, options.context_size, tokens)
    texts = halves(options.validation, demo.tokenizer, options.context_size, options.rows)
    print(f"text read, {deadline - time.monotonic():.0f} s left", flush=True)
    labs: dict[bool, Lab | None] = {}

    def lab(other: bool) -> Lab | None:
        if other not in labs:
            there = not other or _comes(options.other, deadline)
            language_model = (Demo.load(options.other) if other else demo) if there else None
            labs[other] = language_model and Lab.of(language_model, training, texts, options.blocks)
        return labs[other]

    settings = {
        "bundle": content_hash(options.bundle / "model" / "model.safetensors"),
        "corpus": [Path(path).stem for path in options.corpus],
        "validation": [Path(path).stem for path in options.validation],
        "context_size": options.context_size,
        "rows": list(options.rows),
        "blocks": options.blocks,
    }
    step = compiler("auto", demo.device)(take_step)
    study(lab, length, step, options.out, settings, deadline)


def _comes(bundle: Path | None, deadline: float) -> bool:
    """Whether another language model is there before the deadline, or in a bundle at all."""
    while bundle is not None and time.monotonic() < deadline:
        if (bundle / "model" / "model.safetensors").is_file():
            return True
        time.sleep(1)
    return False


if __name__ == "__main__":
    main()
