"""Section 3, gone on with: the sweep over bandwidths at other widths, and on language models of
other families.

As `benchmarks.paper.bandwidth`, whose bandwidths, sites, targets, recipe and text these are, with
the rules' bandwidths as well. Three widths on the demo's model, one on the others:

    python -m training.lm --corpus TEXTS/train-00.parquet TEXTS/train-11.parquet \\
        --validation HELD_OUT --tokenizer app/demo/model --shape.family llama \\
        --attention flex --lr 6e-3 --max-seconds 80 --out runs/llama &   and the same of a Mistral
    python -m benchmarks.paper.elsewhere --corpus TEXTS/train-11.parquet \\
        --validation HELD_OUT --other runs/llama runs/mistral --out OUT --minutes 8
    python -m benchmarks.paper --write        docs/bandwidth.md, once OUT is benchmarks/results

Results are written after every pass and gone on with by the next call; passes of most worth come
first, and one of a language model that is not there yet gives way to the next.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from benchmarks.paper.arms import Size, take_step
from benchmarks.paper.bandwidth import SITES, Pass, carry_out, recipe, sweep_of
from benchmarks.paper.comparison_plan import DEMO, FAMILIES
from benchmarks.paper.demo import Demo
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
from benchmarks.paper.quality import Quality
from benchmarks.paper.results import Results
from benchmarks.paper.text import read_rows
from sae_core.corpus import TokenRow
from training.sae_trainer import compiler

STUDY = "elsewhere"
WIDTH = 2_048
"""Of `benchmarks.paper.bandwidth`, and on the other language models."""
WIDTHS = (1_024, 4_096)
"""The others, on the demo's."""
SEEDS = (0, 1)
_FIRST, _SECOND = FAMILIES
_ORDER = (
    ("raw", 0, DEMO),
    ("raw", 0, _FIRST),
    ("relative", 0, _FIRST),
    ("relative", 0, DEMO),
    ("raw", 0, _SECOND),
    ("raw", 1, _FIRST),
    ("raw", 1, DEMO),
    ("raw", 1, _SECOND),
    ("relative", 1, _FIRST),
    ("relative", 0, _SECOND),
    ("relative", 1, DEMO),
    ("relative", 1, _SECOND),
)
"""Parametrisation, seed and language model, in order of worth."""


@dataclass(frozen=True, kw_only=True)
class Placed(Pass):
    """A pass of the first sweep, at a width and on a language model."""

    model: str
    d_sae: int

    @property
    def name(self) -> str:
        """Unlike that of every other pass."""
        return f"{self.model} {self.d_sae} {self.group} {self.site} {self.seed}"


def plan(width: int = WIDTH, widths: Sequence[int] = WIDTHS) -> list[Placed]:
    """In order of worth. `width`: on the other language models; `widths`: on the demo's."""
    return [
        Placed(model=model, d_sae=d_sae, **vars(each))
        for group, seed, model in _ORDER
        for d_sae in (widths if model == DEMO else (width,))
        for site in SITES
        for each in sweep_of(site, seed)
        if each.group == group
    ]


@dataclass(frozen=True)
class Lab:
    """One language model: activations to train on, and what measures SAEs."""

    weights: str
    trained: dict[str, Any]
    raw: dict[str, Float[Tensor, "tokens d_model"]]
    quality: Quality


def study(
    lab: Callable[[str], Lab | None],
    passes: Sequence[Placed],
    size: Size,
    step: Callable[..., None],
    out: Path,
    settings: dict[str, Any],
    deadline: float,
) -> None:
    """Carry out every pass that begins before the deadline and is not in the results yet.

    `lab`: a language model by name; None for one that is not there yet.
    """
    results = Results(STUDY, out, settings)
    before = gone_on_with(STUDY, out, settings)
    rows: list[dict[str, Any]] = before.get("rows", [])
    rules: list[dict[str, Any]] = before.get("rules", [])
    models: dict[str, Any] = before.get("models", {})
    seconds: dict[str, float] = before.get("pass_seconds", {})
    left = [each for each in passes if each.name not in seconds]
    for each, here in in_turn(left, lab, deadline):
        same_weights(models, each.model, here.weights, out)
        models[each.model] = {"weights": here.weights, **here.trained}
        started = time.monotonic()
        wide = Size(d_sae=each.d_sae, batch=size.batch, steps=size.steps)
        new, taken = carry_out(each, here.raw, here.quality, wide, step)
        place = {"model": each.model, "d_sae": each.d_sae}
        rows += [place | row for row in new]
        rules += [place | taken] if taken else []
        seconds[each.name] = round(time.monotonic() - started, 2)
        results.keep(
            measured_tokens=here.quality.tokens,
            models=models,
            passes=len(passes),
            pass_seconds=seconds,
            rules=rules,
            rows=rows,
        )
        left_s = deadline - time.monotonic()
        print(f"{each.name}: {seconds[each.name]} s, {left_s:.0f} s left", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m benchmarks.paper.elsewhere`."""
    parser = study_parser("elsewhere", __doc__)
    parser.add_argument("--d-sae", type=int, default=WIDTH, help="on the other language models")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="on the demo's")
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--loss-rows", type=int, default=64, help="rows of the delta LM loss")
    parser.add_argument("--measured-tokens", type=int, default=65_536, help="of FVU and L0")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    demo = Demo.load(options.bundle)
    size = Size(d_sae=options.d_sae, batch=options.batch, steps=options.steps)

    def rows(paths: list[str], tokens: int) -> list[TokenRow]:
        return read_rows(paths, demo.tokenizer, options.context_size, tokens)

    training = rows(options.corpus, size.batch * size.steps)
    held_out = rows(options.validation, options.measured_tokens)
    print(f"text read, {deadline - time.monotonic():.0f} s left", flush=True)

    def lab_of(each: Demo) -> Lab:
        return Lab(
            weights=weights_of(each.folder),
            trained=trained_of(each.folder),
            raw=each.activations(training, SITES),
            quality=Quality(each, held_out, held_out[: options.loss_rows], SITES),
        )

    settings = texts_of(options) | {
        "d_sae": size.d_sae,
        "batch": size.batch,
        "steps": size.steps,
        "recipe": recipe(),
    }
    passes = plan(size.d_sae, options.widths)
    passes = [each for each in passes if options.other or each.model == DEMO]
    step = compiler("auto", demo.device)(take_step)
    lab = labs_of(demo, options.other, lab_of)
    study(lab, passes, size, step, options.out, settings, deadline)


if __name__ == "__main__":
    main()
