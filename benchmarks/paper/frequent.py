"""Very frequent features (the paper's second open question): how many, what tells and uses them.

    python -m benchmarks.paper saes --kinds jumprelu gated --seed 0 --corpus TEXT --out RUNS
    python -m benchmarks.paper frequent --runs RUNS/* --site resid_post/4 --validation HELD_OUT

Of every SAE of a site: a feature is very frequent if it is active on more than a tenth of tokens.
Their part in everything (active features, activation mass, reconstruction, the linear effects on
predictions), what setting all of them to 0 or to their means does, and random draws of them against
draws of other features that are as much: the same sum of frequencies, or of activation mass. Every
arm keeps the SAE's error. Beside that, for all features: uniformity, and a classifier's scores.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from benchmarks.paper import lexical
from benchmarks.paper.ablations import portions, without
from benchmarks.paper.demo import Demo
from benchmarks.paper.frequent_saes import kind_of, place_in_order, saes_at, seed_of, target_of
from benchmarks.paper.held_out import Drawn, HeldOut, activations_of, interval
from benchmarks.paper.results import Results, content_hash
from benchmarks.paper.text import read_rows
from sae_core.corpus import TokenRow
from sae_core.index.output_scores import output_scores
from sae_core.metrics import uniformity_by_token
from sae_core.sae import SAE
from sae_core.splice import SplicedLM

FEATURES = 200
"""Features of each group whose tokens, scores and neighbours are looked at, at most."""
TOP = (1, 10)
PREDICTIONS = 500
"""Rows of which one prediction each is explained."""


@torch.no_grad()
def told_by(
    groups: Int[Tensor, " tokens"],
    values: Float[Tensor, "tokens n"],
    first: Bool[Tensor, " tokens"],
) -> Float[Tensor, " n"]:
    """Share of each column's variance on the tokens that are not `first` that the means of groups
    over those that are tell (R^2, below 0 if they mislead; the mean of all where a group is new).
    """
    count = int(groups.max()) + 1
    known = torch.zeros(count, device=values.device).index_add_(
        0, groups[first], torch.ones(int(first.sum()), device=values.device)
    )
    sums = torch.zeros(count, values.shape[1], device=values.device)
    sums.index_add_(0, groups[first], values[first])
    overall = values[first].mean(0)
    means = torch.where(known[:, None] > 0, sums / known.clamp(min=1)[:, None], overall)
    rest = values[~first]
    error = (rest - means[groups[~first]]).square().sum(0)
    return 1 - error / (rest - rest.mean(0)).square().sum(0)


def quartiles(values: Float[Tensor, " n"]) -> list[float]:
    """Lower quartile, median, upper quartile of what is finite; NaN without any."""
    known = values.double().cpu()
    known = known[known.isfinite()]
    if not len(known):
        return [float("nan")] * 3
    return known.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=known.dtype)).tolist()


def some(
    group: Bool[Tensor, " d_sae"], generator: torch.Generator, most: int = FEATURES
) -> Int[Tensor, " n"]:
    """At most `most` of a group's features, drawn at random, ascending."""
    features = group.nonzero()[:, 0]
    chosen = torch.randperm(len(features), generator=generator)[:most].to(features.device)
    return features[chosen].sort().values


def attributed(drawn: Drawn, sae: SAE, very: Bool[Tensor, " d_sae"]) -> dict[str, Any]:
    """Uniformity of linear effects, and the very frequent features' part in them: of the active
    features of a prediction, of the sum of |effects|, and of the `TOP` largest.
    """
    effects, acts = drawn.effects(sae)
    size, on = effects.abs(), acts.ne(0)
    uniform = uniformity_by_token(effects, acts)
    some_on = on.any(1)
    size, on = size[some_on], on[some_on]
    result = {
        "predictions": len(size),
        "uniformity": interval(uniform[~uniform.isnan()]),
        "of_active": interval((on & very).sum(1) / on.sum(1)),
        "of_effect": interval((size * very).sum(1) / size.sum(1).clamp(min=1e-30)),
    }
    for count in TOP:
        top = size.topk(min(count, size.shape[1]), dim=1)
        counted = top.values > 0
        result[f"of_top_{count}"] = interval((very[top.indices] & counted).sum(1), counted.sum(1))
    return result


def study(options: argparse.Namespace) -> None:
    """Measure every SAE of `options.site` in the runs, and write `paper_frequent_SITE.json`: a row
    of results each, kept as they come, kinds in turn; none begins after `options.minutes`.
    """
    deadline = time.monotonic() + 60 * options.minutes
    demo = Demo.load(options.bundle)
    rows = read_rows(
        options.validation, demo.tokenizer, options.context_size, options.measured_tokens
    )
    saes = sorted(saes_at(options.runs, options.site, demo.device), key=place_in_order)
    settings = {
        "bundle": content_hash(options.bundle / "model" / "model.safetensors"),
        "site": options.site,
        "validation": [Path(path).stem for path in options.validation],
        "context_size": options.context_size,
        "seed": 0,
        "trained": sorted({seed_of(sae) for sae in saes}),
        "d_sae": saes[0].cfg.d_sae,
        "tokens": saes[0].cfg.metadata["training"]["tokens"],
        "lr": saes[0].cfg.metadata["training"]["lr"],
    }
    results = Results(f"frequent_{options.site.replace('/', '_')}", options.out, settings)
    held = HeldOut.read(demo, rows, options.site)
    seen = lexical.embedded(demo.model, held)
    drawn = Drawn.read(demo, rows[:PREDICTIONS], options.site)
    found: list[dict[str, Any]] = []
    for sae in saes:
        if time.monotonic() > deadline:
            break
        same = [
            each
            for each in saes
            if each is not sae and place_in_order(each)[1:] == place_in_order(sae)[1:]
        ]
        other = same[0] if same else None
        found.append(measured(demo, sae, held, seen, drawn, rows[: options.loss_rows], other))
        results.keep(tokens=len(held.x), of=len(saes), rows=found)
    print(f"{options.site}: {len(found)} of {len(saes)}", flush=True)


def measured(
    demo: Demo,
    sae: SAE,
    held: HeldOut,
    seen: Float[Tensor, "tokens width"],
    drawn: Drawn,
    loss_rows: Sequence[TokenRow],
    other: SAE | None,
) -> dict[str, Any]:
    """One SAE's row; `other`: the same of another seed, to compare directions with."""
    part = portions(sae, held)
    very, ordinary = part.very, part.ordinary
    generator = torch.Generator().manual_seed(0)
    groups = {
        "very": some(very, generator),
        "ordinary": some(ordinary, generator),
    }
    row: dict[str, Any] = {
        "kind": kind_of(sae),
        "target": target_of(sae),
        "seed": seed_of(sae),
        "l0": part.frequency.sum().item(),
        "fvu": part.fvu,
        "very": int(very.sum()),
        "over_half": int((part.frequency > 0.5).sum()),
        "ordinary": int(ordinary.sum()),
        "of_l0": _share(part.frequency, very),
        "of_mass": _share(part.mass, very),
        **attributed(drawn, sae, very),
    }
    scored = some(part.frequency * len(held.x) >= lexical.LEAST, generator)
    row["scores"] = _scored(sae, held, seen, scored)
    for name, features in groups.items():
        row[name + "_features"] = _of_group(sae, held, seen, features, other)
    row |= without(demo, sae, held, part, loss_rows, generator)
    if not row["seed"]:
        row["output"] = _outputs(demo, sae, groups)
    return row


def _share(values: Float[Tensor, " d_sae"], where: Bool[Tensor, " d_sae"]) -> float:
    return float(values[where].sum() / values.sum())


def _scored(
    sae: SAE, held: HeldOut, seen: Float[Tensor, "tokens width"], features: Int[Tensor, " n"]
) -> dict[str, Any]:
    detection, intruder = lexical.scores(sae, held, seen, features)
    return {"detection": lexical.summary(detection), "intruder": lexical.summary(intruder)}


def _of_group(
    sae: SAE,
    held: HeldOut,
    seen: Float[Tensor, "tokens width"],
    features: Int[Tensor, " n"],
    other: SAE | None,
) -> dict[str, Any]:
    """What tells some features, their classifier's scores, and how near another seed has any."""
    if not len(features):
        return {"features": 0}
    acts = activations_of(sae, held, features)
    first = held.row % 2 == 0
    places = (held.position + 1).float().log2().long()
    result: dict[str, Any] = {
        "features": len(features),
        "by_token": quartiles(told_by(held.ids, acts, first)),
        "by_previous": quartiles(told_by(held.previous, acts, first)),
        "by_place": quartiles(told_by(places, acts, first)),
        **_scored(sae, held, seen, features),
    }
    if other is not None:
        mine, theirs = (
            torch.nn.functional.normalize(each, dim=1)
            for each in (sae.W_dec[features], other.W_dec)
        )
        result["nearest"] = quartiles((mine @ theirs.T).amax(1))
    return result


def _outputs(demo: Demo, sae: SAE, groups: dict[str, Int[Tensor, " n"]]) -> dict[str, Any]:
    """Means over features of output scores and side effects."""
    lm = SplicedLM(demo.model, demo.tokenizer, {"sae": sae})
    result = {}
    for name, features in groups.items():
        if len(features):
            both = output_scores(lm, "sae", features[:100].tolist())
            result[name] = {
                key: interval(values[~values.isnan()])
                for key, values in (
                    ("score", torch.from_numpy(both.score)),
                    ("side_effect", torch.from_numpy(both.side_effect)),
                )
                if not values.isnan().all()
            }
    return result
