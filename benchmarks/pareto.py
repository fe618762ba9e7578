"""Sparsity against quality: JumpReLU, Gated, TopK and ReLU, and other libraries' JumpReLU trainers.

    python -m benchmarks.pareto --corpus 'texts/train-*.parquet' --validation held-out.parquet \\
        --out benchmarks/results/pareto.json --minutes 9

Everything is trained by `training.loop.train` (peers: `benchmarks.pareto_peers`) on the same
activations in the same order, for the same number of tokens, in this order:

1. a sweep of learning rates for each curve at one site and L0 (`pareto_plan.better` says which one
   is best); a rate beyond is tried where the best was the last;
2. the residual stream of the middle layer, at five sparsities, each at the best rate and at half of
   it: what is best there may break down in a longer run, or with more active features;
3. peers there, after the same sweep, with two widths of window;
4. two more seeds of one point of each curve;
5. the other sites and layers, our architectures alone, at the better rate, then at the other;
6. everything but the seeds at a quarter of the best rate, first where many features were dead.

Every saved SAE is measured on validation text. `--out` is written after each group of SAEs and gone
on with by the next call, so that several short calls do what one long call does. No group is begun
that is not expected to end within `--minutes`. What becomes of the numbers: `pareto_report`.
"""

import gc
import hashlib
import json
import logging
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from benchmarks import pareto_peers
from benchmarks.compact_json import compact_json, tabled, untabled
from benchmarks.gemma_shapes import machine
from benchmarks.measuring import rounded
from benchmarks.pareto_plan import PEERS, RECIPE, Group, Options, Row, expected_seconds, plan
from benchmarks.train_step_peers import stubs
from sae_core.config import Site
from sae_core.corpus import documents, token_rows
from sae_core.evaluation import evaluate, take_tokens, uniformity
from sae_core.formats.saelens import load_sae
from sae_core.language_model import load_language_model
from sae_core.placement import chosen_device, chosen_dtype
from sae_core.sae import SAE
from sae_core.splice import SplicedLM
from training.activations import ActivationBuffer, rows_per_forward
from training.loop import train
from training.text import Text
from training.train_config import SHORT_RUN, RunOptions, short_run

FORMAT = "jumpscope-pareto"
PACKAGES = ("sae-lens", "dictionary-learning")
LOSS = replace(
    SHORT_RUN["loss"],
    beta1=RECIPE["beta1"],
    target_coefficient=RECIPE["target_coefficient"],
)


class Results:
    """The results file: settings, machine, and each group's result."""

    def __init__(self, options: Options) -> None:
        """Reads the file if it is there; ValueError if it holds results of other settings."""
        self._path = options.out
        rates = {name: RECIPE[name] for name in ("lr_warmup", "lr_decay")}
        ours = SHORT_RUN | {"loss": asdict(LOSS)} | rates
        # As JSON gives it back, to compare with what was written.
        ours = json.loads(json.dumps(ours))
        settings = options.settings | {"model": _hash(Path(options.model)), "ours": ours}
        self.data: dict[str, Any] = {"format": FORMAT, "settings": settings, "groups": {}}
        if self._path.is_file():
            self.data = untabled(json.loads(self._path.read_text()))
            before = self.data["settings"]
            differing = [k for k in settings if before.get(k) != settings[k]]
            if differing:
                raise ValueError(
                    f"{self._path} holds results with another {', '.join(differing)}: "
                    "choose another out file."
                )
        self.groups: dict[str, dict[str, Any]] = self.data["groups"]

    def add(self, group: Group, result: dict[str, Any]) -> None:
        """Keep a group's result, and write the file."""
        self.groups[group.name] = rounded(result)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(self._path.name + ".tmp")
        temporary.write_text(compact_json(tabled(self.data)) + "\n")
        temporary.replace(self._path)


def _hash(model: Path) -> str:
    """What identifies a language model: of its weights, or its name if it is no folder."""
    weights = model / "model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else str(model)


class Bench:
    """The language model with the text to measure on, and the training of groups."""

    def __init__(self, options: Options, work: Path) -> None:
        self.options, self._work = options, work
        self.device = chosen_device("auto")
        dtype = chosen_dtype("auto", self.device)
        self._model, self._tokenizer = load_language_model(options.model, dtype, self.device)
        rows = token_rows(documents(options.validation), self._tokenizer, options.context_size)
        self._rows = take_tokens(rows, options.validation_tokens)

    def run(self, group: Group) -> dict[str, Any]:
        """Train and measure a group."""
        started = time.monotonic()
        trained = list(self._peers(group) if group.curve in PEERS else self._ours(group))
        middle = time.monotonic()
        rows = [row | self.measured(sae) for row, sae in trained]
        ended = time.monotonic()
        steps = group.tokens // self.options.batch
        return {
            "stage": group.stage,
            "curve": group.curve,
            "tokens": steps * self.options.batch,
            "seconds": ended - started,
            "step_seconds": (middle - started) / (steps * group.count),
            "measuring_seconds": (ended - middle) / group.count,
            "machine": self.machine(),
            "rows": rows,
        }

    def machine(self) -> dict[str, Any]:
        """What it runs on."""
        facts = machine(self.device) | {"date": time.strftime("%Y-%m-%d")}
        for package in PACKAGES:
            try:
                facts[package] = version(package)
            except PackageNotFoundError:
                facts[package] = None
        return facts

    def measured(self, sae: SAE) -> dict[str, Any]:
        """An SAE's quality on the validation text; null for what is not a finite number."""
        lm = SplicedLM(self._model, self._tokenizer, {"sae": sae.to(self.device)})
        metrics = evaluate(lm, "sae", self._rows).as_dict()
        try:
            metrics["uniformity"] = uniformity(
                lm, "sae", self._rows[: self.options.uniformity_rows]
            )
        except ValueError:  # nothing is active any more
            metrics["uniformity"] = None
        return {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in metrics.items()
        }

    def _ours(self, group: Group) -> Iterator[tuple[Row, SAE]]:
        options = self.options
        cuda = self.device.type == "cuda"
        compiled = "cuda-graph" if options.compile == "auto" and cuda else options.compile
        cfg = short_run(
            model=options.model,
            corpus=options.corpus,
            sites=group.sites,
            architectures=(group.curve,),
            d_sae=options.d_sae,
            out=str(self._work / group.name.replace("/", "_")),
            l0_targets=group.targets,
            lrs=tuple(lr for lr, _ in group.rates),
            lr_warmup=RECIPE["lr_warmup"],
            lr_decay=RECIPE["lr_decay"],
            tokens=group.tokens,
            batch=options.batch,
            context_size=options.context_size,
            buffer_tokens=options.buffer_tokens,
            seed=group.seed,
            loss=LOSS,
            run=RunOptions(compile=compiled, checkpoint_every=2_500),
        )
        for plan_, result in zip(cfg.plans, train(cfg), strict=True):
            assert plan_.l0_target is not None
            yield (
                {
                    "curve": group.curve,
                    "site": str(plan_.site),
                    "target": round(plan_.l0_target),
                    "lr": plan_.lr,
                    "window": "own",
                    "seed": group.seed,
                    "findings": [finding.check for finding in result.findings],
                },
                load_sae(result.folder),
            )

    def _peers(self, group: Group) -> Iterator[tuple[Row, SAE]]:
        coefficients = dict(zip(group.targets, group.coefficients, strict=False))
        members = [
            pareto_peers.Member(
                site=Site.parse(site),
                target=target,
                lr=lr,
                window=window,
                coefficient=coefficients.get(target),
            )
            for site, target, (lr, window) in product(group.sites, group.targets, group.rates)
        ]
        options = self.options
        length = pareto_peers.Length(steps=group.tokens // options.batch, batch=options.batch)
        with closing(self._buffer(group)) as buffer:
            buffer.begin()
            batches: Iterator[dict[Site, Tensor]] = iter(buffer.batch, None)
            with stubs():
                saes = pareto_peers.train(
                    group.curve, members, batches, options.d_sae, length, group.seed
                )
        for member, sae in zip(members, saes, strict=True):
            yield (
                {
                    "curve": group.curve,
                    "site": str(member.site),
                    "target": member.target,
                    "lr": member.lr,
                    "window": member.window,
                    "seed": group.seed,
                    "coefficient": member.coefficient,
                },
                sae,
            )

    def _buffer(self, group: Group) -> ActivationBuffer:
        """The activations that `train` would read."""
        options = self.options
        text = Text(
            corpus=options.corpus,
            tokenizer=self._tokenizer,
            context_size=options.context_size,
            rows=rows_per_forward(options.context_size, options.buffer_tokens),
            seed=group.seed,
        )
        return ActivationBuffer(
            self._model,
            [Site.parse(site) for site in group.sites],
            text,
            capacity=options.buffer_tokens,
            batch=options.batch,
        )


def main(options: Options) -> dict[str, Any]:
    """Train and measure what time is left for, and return all results."""
    deadline = time.monotonic() + 60 * options.minutes
    results = Results(options)
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(options, options.work or Path(temporary))
        failed: set[str] = set()
        while True:
            left = deadline - time.monotonic()
            open_ = [
                group
                for group in plan(options, results.groups)
                if group.name not in results.groups and group.name not in failed
            ]
            fitting = [
                g for g in open_ if 1.1 * expected_seconds(g, options, results.groups) <= left
            ]
            print(f"{len(open_)} groups to train, {left:.0f} s left", flush=True)
            if not fitting:
                return results.data
            group = fitting[0]
            print(f"{group.name}: {group.count} SAEs", flush=True)
            try:
                result = bench.run(group)
            except (ImportError, RuntimeError, ValueError) as error:
                # A peer that is absent, or one group that fails, must not cost the others.
                logging.exception("%s failed", group.name)
                print(f"{group.name} failed: {error}", flush=True)
                failed.add(group.name)
            else:
                results.add(group, result)
                for row in result["rows"]:
                    print(f"  {_line(row)}", flush=True)
            gc.collect()
            torch._dynamo.reset()
            if bench.device.type == "cuda":
                torch.cuda.empty_cache()


def _line(row: Row) -> str:
    shown = ("l0", "fvu", "delta_lm_loss", "dead", "high_frequency")
    numbers = " ".join(f"{k} {row[k]:.4g}" for k in shown if row[k] is not None)
    return f"{row['site']} target {row['target']} lr {row['lr']:g} {row['window']}: {numbers}"


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main(tyro.cli(Options, description=__doc__))
