"""At which strengths features steer, and how large an edit a text bears: the numbers of
docs/steering.md, as JSON.

    python -m benchmarks.strength --out benchmarks/results/strength_demo.json

For each SAE of a bundle, features drawn at random (of a frequency between 0.01 and 2 %) and the
index's highlighted ones are each set to eight strengths from a prompt's last token on, beside
unsteered texts (`sae_core.ladder`). Each row keeps the rungs' numbers; the summary has, for each
SAE and kind of features, how many have a band, and over all rungs of an SAE the share of those that
lose more than the margin, by the size of the edit.
"""

import argparse
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.compact_json import compact_json
from benchmarks.measuring import rounded
from sae_core.bundle import Bundle
from sae_core.edits import Edit
from sae_core.index.store import Index
from sae_core.ladder import MARGIN, STRENGTHS, Ladder, Rung, band
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text

PROMPTS = (
    "The old man walked into the",
    "She opened the letter and",
    "In the year of the great",
)
SIZES = (0.0, 0.3, 0.4, 0.5, math.inf)
"""Ends of the ranges of sizes that are summarised."""
FREQUENCIES = (1e-4, 0.02)


def drawn(index: Index, d_sae: int, count: int, rng: random.Random) -> list[int]:
    """Random features that fire neither hardly ever nor often."""
    features: list[int] = []
    while len(features) < count:
        feature = rng.randrange(d_sae)
        frequency = float(index.feature(feature)["frequency"])
        if FREQUENCIES[0] < frequency < FREQUENCIES[1] and feature not in features:
            features.append(feature)
    return features


def climbed(
    lm: SplicedLM, name: str, feature: int, largest: float, prompt: str, given: argparse.Namespace
) -> list[Rung]:
    """One feature's rungs, the first without edits."""
    rungs = [
        [
            Edit(
                feature=feature,
                mode="set",
                value=strength * largest,
                positions="continuation",
                sae=name,
            )
        ]
        for strength in STRENGTHS
    ]
    ladder = Ladder(
        lm,
        encode_text(lm.tokenizer, prompt),
        rungs,
        (name, feature),
        seeds=range(given.seeds),
        max_new_tokens=given.tokens,
        temperature=given.temperature,
    )
    for _ in ladder.grow():
        pass
    return ladder.rungs()


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many features of each kind have a band, and what edits of a size cost."""
    kinds = sorted({row["kind"] for row in rows})
    steps = [
        (size, nll - row["rungs"]["nll"][0])
        for row in rows
        for size, nll in zip(row["rungs"]["size"], row["rungs"]["nll"], strict=True)
        if size is not None
    ]
    by_size = []
    for low, high in itertools.pairwise(SIZES):
        costs = [cost for size, cost in steps if low <= size < high]
        by_size.append(
            {
                "from": low,
                "to": high if math.isfinite(high) else None,
                "texts": len(costs),
                "lose_more": sum(cost > MARGIN for cost in costs) / len(costs) if costs else None,
            }
        )
    return {
        "bands": {
            kind: {
                "features": sum(row["kind"] == kind for row in rows),
                "with_band": sum(row["kind"] == kind and row["band"] is not None for row in rows),
            }
            for kind in kinds
        },
        "by_size": by_size,
        "largest_size": max(size for size, _ in steps),
    }


def columns(rungs: Sequence[Rung]) -> dict[str, list[float]]:
    """What each rung of a ladder is, by the name of the measure."""
    return {each.name: [getattr(rung, each.name) for rung in rungs] for each in fields(Rung)}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Climb all ladders, print the summaries as JSON, and return everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", default="app/demo")
    parser.add_argument("--random", type=int, default=20, help="features drawn from each SAE")
    parser.add_argument("--highlights", type=int, default=20, help="highlighted ones of each")
    parser.add_argument("--seeds", type=int, default=2, help="texts at each strength")
    parser.add_argument("--tokens", type=int, default=40, help="in each text")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--out", type=Path, default=None, help="file to write the JSON to as well")
    given = parser.parse_args(arguments)
    bundle = Bundle.open(given.bundle)
    lm, rng = bundle.load(), random.Random(0)
    result: dict[str, Any] = {"margin": MARGIN, "strengths": STRENGTHS, "saes": {}}
    for name in bundle.sae_names:
        index, d_sae = Index.open(bundle.index_path(name)), lm.sae(name).cfg.d_sae
        kinds = {
            "random": drawn(index, d_sae, given.random, rng),
            "highlighted": [each["feature"] for each in index.highlights(given.highlights)],
        }
        rows = []
        for kind, features in kinds.items():
            for feature in features:
                prompt = rng.choice(PROMPTS)
                largest = float(index.feature(feature)["max_act"])
                rungs = climbed(lm, name, feature, largest, prompt, given)
                assert math.isnan(rungs[0].size), "the first rung has no edits"
                result_band = band(rungs)
                rows.append(
                    {
                        "kind": kind,
                        "feature": feature,
                        "prompt": prompt,
                        "band": None
                        if result_band is None
                        else [
                            STRENGTHS[each - 1]
                            for each in (result_band.low, result_band.high, result_band.best)
                        ],
                        "rungs": {
                            key: [
                                None if math.isnan(value) else round(value, 4) for value in values
                            ]
                            for key, values in columns(rungs).items()
                        },
                    }
                )
        result["saes"][name] = {"summary": summary(rows), "features": rows}
    print(compact_json({name: each["summary"] for name, each in result["saes"].items()}))
    if given.out is not None:
        given.out.write_text(compact_json(rounded(result)) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
