"""Section 1: four architectures at one L0, rates chosen on one text and results taken on another.

Every architecture is tried at the same learning rates with one seed, at every site and L0; the rate
with the lowest FVU on the *selection* half of the validation text trains three further seeds, which
are measured on the *report* half alone. The halves share no work. Then the same rates on language
models of other families, and changes to JumpReLU that are tried against its dead features.

    python -m training.lm --corpus TEXTS/train-00.parquet TEXTS/train-11.parquet \\
        --validation HELD_OUT --tokenizer app/demo/model --shape.family llama \\
        --attention flex --lr 6e-3 --max-seconds 80 --out runs/llama &   and the same of a Mistral
    python -m benchmarks.paper.comparison --corpus TEXTS/train-00.parquet \\
        --validation HELD_OUT --other runs/llama runs/mistral --out OUT --minutes 8
    python -m benchmarks.paper --write        docs/comparison.md, once OUT is benchmarks/results

Results are written after every pass and gone on with by the next call. A pass of a language model
that is not there yet gives way to the next one. Those of most worth
come first: 6.3 minutes of one H200, beside which both language models were trained, were enough for
all architectures and peers on the demo, the other families at an L0 of 64, and all changes.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from benchmarks.paper.comparison_plan import (
    CURES,
    DEMO,
    OTHER_TARGETS,
    PEERS,
    RATES,
    SITES,
    Pass,
    later_plan,
    other_plan,
    report_plan,
    sweep_plan,
    tried,
)
from benchmarks.paper.demo import Demo
from benchmarks.paper.halves import Text, halves
from benchmarks.paper.kind_gradients import check_cuts
from benchmarks.paper.kinds import ARCHITECTURES, Length, Trained, take_step, train
from benchmarks.paper.labs import (
    gone_on_with,
    in_turn,
    labs_of,
    same_weights,
    study_parser,
    texts_of,
    trained_of,
    weights_of,
)
from benchmarks.paper.peer_kinds import PEER_RECIPES, as_ours
from benchmarks.paper.results import Results
from benchmarks.paper.text import read_rows
from sae_core.config import SAEConfig, Site
from sae_core.corpus import TokenRow
from sae_core.sae import SAE
from training.sae_trainer import compiler
from training.trained_form import folded


def sae_of(trained: Trained, k: int) -> SAE:
    """One of them as an SAE that takes raw activations."""
    parameters = {name: p[k] for name, p in trained.parameters.items()}
    d_model, d_sae = parameters["W_enc"].shape
    kind = trained.kinds[k]
    cfg = SAEConfig(
        architecture=kind.form,
        d_model=d_model,
        d_sae=d_sae,
        site=Site.parse(kind.site),
        k=kind.target if kind.form == "topk" else None,
    )
    if kind.architecture in PEER_RECIPES:
        parameters = as_ours(kind.architecture, parameters)
    return folded(parameters, trained.scales[k], cfg)


@dataclass(frozen=True)
class Lab:
    """One language model: activations to train on, and both halves to measure on."""

    demo: Demo
    weights: str
    """The hash of the language model's weights."""
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
            weights_of(demo.folder),
            demo.activations(training, SITES),
            Text(demo, selection, SITES, 1),
            Text(demo, report, SITES, blocks),
        )


def carry_out(
    each: Pass, lab: Lab, length: Length, step: Callable[..., None] = take_step
) -> Iterator[dict[str, Any]]:
    """Train a pass, and a row for each of its SAEs."""
    length = replace(length, steps=length.steps * each.longer)
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
        if each.model != DEMO:
            row["family"] = each.model
        if each.stage == "sweep":
            yield row | lab.selection.of(sae, kind.site, loss=False, by_block=False)
        else:
            by_block = each.stage in ("report", "other")
            yield row | lab.report.of(sae, kind.site, by_block=by_block)


def study(
    lab: Callable[[str], Lab | None],
    length: Length,
    step: Callable[..., None],
    out: Path,
    settings: dict[str, Any],
    deadline: float,
    *,
    others: bool,
) -> None:
    """Carry out every pass that begins before the deadline and is not in the results yet.

    `lab`: a language model by name (`Pass.model`); None for one that is not there yet. `others`:
    whether any but the demo's may come.
    """
    settings = settings | {
        "d_sae": length.d_sae,
        "batch": length.batch,
        "steps": length.steps,
        "rates": RATES,
        "cures": {name: asdict(cure) for name, cure in CURES.items()},
    }
    results = Results("comparison", out, settings)
    before = gone_on_with("comparison", out, settings)
    rows: list[dict[str, Any]] = before.get("rows", [])
    seconds: dict[str, float] = before.get("pass_seconds", {})
    texts: dict[str, Any] = before.get("texts", {})

    def carry_one(each: Pass, here: Lab) -> None:
        name = each.model
        same_weights(texts, name, here.weights, out)
        texts[name] = {
            "weights": here.weights,
            **trained_of(here.demo.folder),
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

    def carry(passes: Sequence[Pass], *, wait: bool = True) -> None:
        left = [each for each in passes if each.name not in seconds]
        left = [each for each in left if others or each.model == DEMO]
        for each, here in in_turn(left, lab, deadline, wait=wait):
            carry_one(each, here)

    carry(sweep_plan())
    if tried(rows, ARCHITECTURES):
        carry(report_plan(rows, ARCHITECTURES))
        carry(other_plan(rows, OTHER_TARGETS[:1]), wait=False)
        carry(sweep_plan(PEERS))
        if tried(rows, PEERS):
            carry(report_plan(rows, PEERS))
        carry(other_plan(rows, OTHER_TARGETS[:1]) + later_plan(rows))


def _line(row: dict[str, Any]) -> str:
    return " ".join(
        f"{v:.4g}" if isinstance(v, float) else str(v)
        for v in row.values()
        if not isinstance(v, list)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m benchmarks.paper.comparison`."""
    parser = study_parser("comparison", __doc__)
    parser.add_argument("--d-sae", type=int, default=2_048)
    parser.add_argument("--steps", type=int, default=2_500)
    parser.add_argument("--rows", type=int, nargs=2, default=(128, 240), help="of each half")
    parser.add_argument("--blocks", type=int, default=20, help="of the report's rows")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    demo = Demo.load(options.bundle)
    check_cuts(demo.device)
    length = Length(d_sae=options.d_sae, batch=options.batch, steps=options.steps)
    tokens = length.batch * length.steps
    training = read_rows(options.corpus, demo.tokenizer, options.context_size, tokens)
    texts = halves(options.validation, demo.tokenizer, options.context_size, options.rows)
    print(f"text read, {deadline - time.monotonic():.0f} s left", flush=True)
    lab = labs_of(demo, options.other, lambda each: Lab.of(each, training, texts, options.blocks))
    settings = texts_of(options) | {
        "rows": list(options.rows),
        "blocks": options.blocks,
    }
    step = compiler("auto", demo.device)(take_step)
    study(lab, length, step, options.out, settings, deadline, others=bool(options.other))


if __name__ == "__main__":
    main()
