"""Whether very frequent features steer: proofs (`sae_core.proof`) of them and of others.

    python -m benchmarks.paper proofs --runs SAE ... --site resid_post/4 --validation HELD_OUT

Three groups of each SAE's features: very frequent ones (active on more than a tenth of tokens), the
most frequent of those that are not, which are as like to them as there are any, and others, both
others as in `ablations`. Each feature is set, from the prompt's last token on, to a value by either
of two rules (`values`): its largest activation on the held-out text; or that at which it writes as
much, for a push of the same norm whatever the feature. The proof's controls are pushed by the same
norm. Of twice as many seeds as a proof takes unless asked for more, the first half are judged by
themselves, too. Of each feature the file has how many runs of every arm pass, so that all else is
computed from it.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.output_scores import PROMPT, TEMPERATURE, proof_of
from benchmarks.paper.ablations import BOUND, ORDINARY
from benchmarks.paper.demo import Demo
from benchmarks.paper.frequent import some
from benchmarks.paper.frequent_saes import kind_of, place_in_order, saes_at, seed_of, target_of
from benchmarks.paper.held_out import HeldOut
from benchmarks.paper.results import Results, content_hash
from benchmarks.paper.text import read_rows
from sae_core.edits import Edit
from sae_core.ladder import joint_size
from sae_core.proof import Arm, Proof
from sae_core.sae import SAE
from sae_core.splice import SplicedLM

FEATURES = 20
"""Of each group, at most."""
SEEDS, FEWER = 12, 6
TOKENS = 30
RULES = ("largest", "push")
PUSH = 0.4
"""Norm of what a feature writes, over the mean norm of the activation: as much as texts bear."""
GROUPS = ("very", "next", "others")
COLUMNS = ("feature", "frequency", "value", "size", "passed", "passed_of_fewer", "fires", "nll")
"""Of a feature: `size`, the norm of the change over that of the activation; for the target and the
controls, how many runs pass, of all and of the fewer; the mean share of new tokens on which the
target fires without the edit, with it, and with each control; nats per token without the edit, with
it, and with the controls together."""


@dataclass(frozen=True)
class Known:
    """Of every feature on the held-out text."""

    frequency: Float[Tensor, " d_sae"]
    values: dict[str, Float[Tensor, " d_sae"]]
    """What each is set to, by `RULES`."""


@torch.no_grad()
def known(sae: SAE, held: HeldOut) -> Known:
    """Frequencies, and values to set features to."""
    count = torch.zeros(sae.cfg.d_sae, device=held.x.device)
    largest = torch.zeros_like(count)
    norm = 0.0
    for part in held.parts():
        x = held.x[part].float()
        acts = sae.encode(x)
        count += acts.ne(0).sum(0)
        largest = torch.maximum(largest, acts.amax(0))
        norm += float(x.norm(dim=1).sum()) / len(held.x)
    push = PUSH * norm / sae.W_dec.norm(dim=1)
    return Known(count / len(held.x), {"largest": largest, "push": push})


def groups(frequency: Float[Tensor, " d_sae"], most: int) -> dict[str, list[int]]:
    """Features of `GROUPS`: at most so many very frequent ones, drawn; as many that are next to
    them in frequency; as many drawn of the rest down to the least frequent of `ORDINARY`.
    """
    generator = torch.Generator().manual_seed(0)
    very = some(frequency > BOUND, generator, most)
    ordinary = (frequency >= ORDINARY[0]) & (frequency <= BOUND)
    order = torch.where(ordinary, frequency, -1.0).argsort(descending=True, stable=True)
    following = order[: min(most, int(ordinary.sum()))]
    rest = ordinary.clone()
    rest[following] = False
    others = some(rest, generator, most)
    drawn = (very, following.sort().values, others)
    return {name: each.tolist() for name, each in zip(GROUPS, drawn, strict=True)}


def study(options: argparse.Namespace) -> None:
    """Prove features of the SAEs of `options.site` at the highest L0, and write
    `paper_proofs.json`, kept as they come: the SAEs' and groups' features in turn, so that all have
    as many if time runs out.
    """
    deadline = time.monotonic() + 60 * options.minutes
    demo = Demo.load(options.bundle)
    rows = read_rows(
        options.validation, demo.tokenizer, options.context_size, options.measured_tokens
    )
    held = HeldOut.read(demo, rows, options.site)
    saes = sorted(saes_at(options.runs, options.site, demo.device), key=place_in_order)
    saes = [sae for sae in saes if target_of(sae) == max(map(target_of, saes))]
    results = Results("proofs", options.out, _settings(options, len(held.x)))
    found: list[dict[str, Any]] = []
    turns: list[list[tuple[dict[str, Any], SplicedLM, Known, str, int]]] = []
    for sae in saes:
        each = known(sae, held)
        chosen = groups(each.frequency, FEATURES)
        row = {"kind": kind_of(sae), "target": target_of(sae), "seed": seed_of(sae)}
        row["very"] = int((each.frequency > BOUND).sum())
        row |= {rule: {name: [] for name in GROUPS} for rule in RULES}
        found.append(row)
        lm = SplicedLM(demo.model, demo.tokenizer, {"sae": sae})
        turns += [[(row, lm, each, name, one) for one in chosen[name]] for name in GROUPS]
    for turn in zip_longest(*turns):
        for row, lm, each, name, feature in (one for one in turn if one is not None):
            if time.monotonic() > deadline:
                return
            for rule in RULES:
                row[rule][name].append(proven(lm, each, feature, rule))
        results.keep(rows=found)
        print(f"{time.monotonic() - deadline:.0f} s", *map(_done, found), flush=True)


def _done(row: dict[str, Any]) -> list[int]:
    return [len(row["push"][name]) for name in GROUPS]


def _settings(options: argparse.Namespace, tokens: int) -> dict[str, Any]:
    return {
        "bundle": content_hash(options.bundle / "model" / "model.safetensors"),
        "site": options.site,
        "validation": [path.rpartition("/")[2] for path in options.validation],
        "measured_tokens": tokens,
        "prompt": PROMPT,
        "temperature": TEMPERATURE,
        "seeds": SEEDS,
        "fewer_seeds": FEWER,
        "tokens": TOKENS,
        "push": PUSH,
        "columns": COLUMNS,
        "seed": 0,
    }


def proven(lm: SplicedLM, of: Known, feature: int, rule: str) -> list[Any]:
    """One feature's `COLUMNS`, its value by one of `RULES`."""
    value = float(of.values[rule][feature])
    edit = Edit(feature=feature, mode="set", value=value, positions="continuation", sae="sae")
    proof = proof_of(lm, edit, of.frequency.double().cpu().numpy(), SEEDS, TOKENS)
    judged = (proof.target, *proof.controls)
    sizes = [{"sae": run.size} for run in proof.target.runs if run.size is not None]
    return [
        feature,
        float(of.frequency[feature]),
        value,
        joint_size(sizes),
        [sum(proof.passes(arm)) for arm in judged],
        [sum(proof.passes(arm)[:FEWER]) for arm in judged],
        [_mean(arm, "share") for arm in proof.arms],
        _likelihoods(proof),
    ]


def _mean(arm: Arm, what: str) -> float:
    """Of what runs have, over those of one arm; texts without tokens have nothing."""
    return float(np.nanmean([getattr(run, what) for run in arm.runs]))


def _likelihoods(proof: Proof) -> list[float]:
    of_controls: Sequence[float] = [_mean(arm, "nll") for arm in proof.controls]
    return [_mean(proof.without, "nll"), _mean(proof.target, "nll"), float(np.mean(of_controls))]
