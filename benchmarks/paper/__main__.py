"""The paper's studies (arXiv 2407.14435) on the demo, and the pages that show them.

    python -m benchmarks.paper threshold kernels --corpus TEXT       what features of the demo do
    python -m benchmarks.paper rounding --bundle BUNDLE --corpus TEXT     and what float8 does
    python -m benchmarks.paper run bandwidth --corpus TEXT --validation HELD_OUT     in training
    python -m benchmarks.paper saes --kinds KIND ... --seed 0 --corpus TEXT --out FOLDER
    python -m benchmarks.paper frequencies --runs RUN ... --validation HELD_OUT
    python -m benchmarks.paper frequent --runs RUN ... --site resid_post/4 --validation HELD_OUT
    python -m benchmarks.paper proofs --runs SAE ... --site resid_post/4 --validation HELD_OUT
    python -m benchmarks.paper together --runs FOLDER ...    what `frequent` wrote, of all sites
    python -m benchmarks.paper blind --runs RUN ... --out FOLDER    a bundle for the blind test
    python -m benchmarks.paper --write        the pages' numbers and figures from the results
    python -m benchmarks.paper --check        an error if a number or a figure is another one

A study writes benchmarks/results/paper_STUDY.json; a GPU needs some minutes for all, a CPU can
take fewer tokens and rehearse with fewer steps.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.paper import (
    bandwidth,
    frequencies,
    frequent,
    frequent_results,
    frequent_saes,
    kernels,
    proofs,
    threshold,
)
from benchmarks.paper.arms import Size, take_step
from benchmarks.paper.demo import Demo
from benchmarks.paper.feature_tokens import sae_tokens
from benchmarks.paper.quality import Quality
from benchmarks.paper.results import FOLDER, Results, content_hash
from benchmarks.paper.text import read_rows, write_rows
from training.sae_trainer import compiler

OF_FEATURES = ("threshold", "kernels")
STUDIES = (*OF_FEATURES, "rounding", "run", "bandwidth")
OF_RUNS = ("saes", "frequencies", "frequent", "proofs", "together", "blind")
KNOWN = (*STUDIES, *OF_RUNS, "text")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; 1 if a check fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=", ".join(KNOWN))
    parser.add_argument("--check", action="store_true", help="compare the pages with the results")
    parser.add_argument("--write", action="store_true", help="renew the pages from the results")
    parser.add_argument("--bundle", type=Path, default=Path("app/demo"))
    parser.add_argument("--corpus", nargs="+", default=[], help="text to sample and to train on")
    parser.add_argument("--runs", nargs="+", type=Path, default=[], help="of train")
    parser.add_argument(
        "--kinds", nargs="+", default=list(frequent_saes.KINDS), help="of SAEs to train"
    )
    parser.add_argument("--seed", type=int, default=0, help="of SAEs to train")
    parser.add_argument("--site", default=frequent_saes.SITES[0], help="of frequent and proofs")
    parser.add_argument("--validation", nargs="+", default=[], help="other text, to measure on")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder, or file of `text`")
    parser.add_argument("--tokens", type=int, default=2_000_000, help="of the gradients' samples")
    parser.add_argument("--context-size", type=int, default=512)
    parser.add_argument("--d-sae", type=int, default=2_048)
    parser.add_argument("--batch", type=int, default=2_048)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--loss-rows", type=int, default=64, help="rows of the delta LM loss")
    parser.add_argument("--measured-tokens", type=int, default=65_536, help="of FVU and L0")
    parser.add_argument("--minutes", type=float, default=60.0, help="no group begins after them")
    options = parser.parse_args(arguments)
    if unknown := [study for study in options.studies if study not in KNOWN]:
        parser.error(f"unknown study {', '.join(unknown)}: use {', '.join(KNOWN)}.")
    if options.write or options.check:
        from benchmarks.paper import pages  # which is not needed where the studies run

        if options.write:
            pages.write()
        if options.check and (wrong := pages.wrong()):
            print("\n".join(wrong), file=sys.stderr)
            return 1
    if "frequencies" in options.studies:
        sizes = (options.measured_tokens, options.context_size)
        frequencies.study(options.runs, options.validation, *sizes, options.out)
    if "saes" in options.studies:
        frequent_saes.make(options)
    if "frequent" in options.studies:
        frequent.study(options)
    if "proofs" in options.studies:
        proofs.study(options)
    if "blind" in options.studies:
        frequent_saes.blind(options.runs, options.bundle / "model", options.site, options.out)
    if "together" in options.studies:
        if not options.runs:
            parser.error("together needs --runs, folders that frequent wrote into.")
        frequent_results.together(options.runs, options.out)
    if set(options.studies) - set(OF_RUNS):
        _run(options)
    return 0


def _run(options: argparse.Namespace) -> None:
    deadline = time.monotonic() + 60 * options.minutes
    demo = Demo.load(options.bundle)

    def rows(paths: list[str], tokens: int) -> list[Any]:
        return read_rows(paths, demo.tokenizer, options.context_size, tokens)

    if "text" in options.studies:
        write_rows(rows(options.corpus, options.tokens), options.out)
        return
    saes = {
        name: content_hash(options.bundle / "saes" / name / "sae_weights.safetensors")
        for name in demo.sae_names
    }
    settings = {
        "bundle": content_hash(options.bundle / "model" / "model.safetensors"),
        "corpus": [Path(path).stem for path in options.corpus],
        "context_size": options.context_size,
        "seed": 0,
    }
    of_saes = settings | {"saes": saes, "tokens": options.tokens}
    if "rounding" in options.studies:
        each = Results("rounding", options.out, of_saes)
        each.keep(saes=threshold.rounding(demo, rows(options.corpus, options.tokens)))
    if studies := [study for study in OF_FEATURES if study in options.studies]:
        text = rows(options.corpus, options.tokens)
        _features(demo, text, studies, of_saes | {"studies": studies}, options.out)
    sites = bandwidth.SITES if "bandwidth" in options.studies else (threshold.RUN_SITE,)
    if not {"run", "bandwidth"} & set(options.studies):
        return
    size = Size(d_sae=options.d_sae, batch=options.batch, steps=options.steps)
    settings |= {
        "validation": [Path(path).stem for path in options.validation],
        "d_sae": size.d_sae,
        "batch": size.batch,
        "steps": size.steps,
        "recipe": bandwidth.recipe(),
    }
    step = compiler("auto", demo.device)(take_step)
    results = Results("run", options.out, settings)
    raw = demo.activations(rows(options.corpus, size.batch * size.steps), sites)
    held_out = rows(options.validation, options.measured_tokens)
    if "run" in options.studies:
        at_site = demo.activations(held_out, [threshold.RUN_SITE])[threshold.RUN_SITE]
        results.keep(**threshold.run(raw[threshold.RUN_SITE], at_site, size, step))
        print("run", results.data["seconds"], flush=True)
    if "bandwidth" in options.studies:
        quality = Quality(demo, held_out, held_out[: options.loss_rows], sites)
        each = Results("bandwidth", options.out, settings)
        _sweep(raw, quality, size, step, each, deadline)


def _features(
    demo: Demo,
    text: list[Any],
    studies: Sequence[str],
    settings: dict[str, Any],
    out: Path,
) -> None:
    """Studies of the bundle's SAEs, which share one pass over the text: its cost is each's."""
    results = {study: Results(study, out, settings) for study in studies}
    rest: dict[str, Any] = {}
    kernel_errors: dict[str, Any] = {}
    single: dict[str, Any] = {}
    for each in sae_tokens(demo, text):
        if "threshold" in results:
            rest[each.name] = threshold.rest(each)
            single = single or threshold.single_features(each)
            results["threshold"].keep(rest=rest, **single)
        if "kernels" in results:
            kernel_errors[each.name] = kernels.of_sae(each)
            results["kernels"].keep(saes=kernel_errors)
        print(each.name, "done", flush=True)
    for study in results.values():
        study.keep()  # so that each holds what all of it took


def _sweep(
    raw: dict[str, torch.Tensor],
    quality: Quality,
    size: Size,
    step: Callable[..., None],
    results: Results,
    deadline: float,
) -> None:
    """All groups that begin before the deadline, their rows kept as they come."""
    all_rows: list[dict[str, Any]] = []
    rules: list[dict[str, Any]] = []
    passes = bandwidth.plan()
    for done, each in enumerate(passes, 1):
        rows, taken = bandwidth.carry_out(each, raw, quality, size, step)
        all_rows += rows
        rules += [taken] if taken else []
        results.keep(measured_tokens=quality.tokens, groups=len(passes), rules=rules, rows=all_rows)
        print(f"{done} of {len(passes)}, {deadline - time.monotonic():.0f} s left", flush=True)
        if time.monotonic() > deadline:
            break


if __name__ == "__main__":
    sys.exit(main())
