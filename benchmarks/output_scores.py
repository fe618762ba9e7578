"""Whether output scores tell which features pass a proof of steering, as JSON.

    python -m benchmarks.output_scores --out benchmarks/results/output_scores_demo.json

On one of the demo's SAEs, with its index's scores. 200 features are drawn, by a seed, of those
that fire on at least one token in 10,000. Each is proven (`sae_core.proof`) on one prompt: set to
1 x its largest activation from the prompt's last token on, with five features of like frequency,
one random direction and the wrong sign pushed by the same norm, each with five seeds. Told for each
number that is known before steering (output score, side effect, frequency) are Spearman's rank
correlations with the rate of passed runs, and with the share of new tokens on which the target
fires beyond that without steering; and how many of each fifth of the features, by output score,
separate. Intervals are of 95 %, by a bootstrap over features.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gemma_shapes import machine
from benchmarks.measuring import Run, rounded
from sae_core.bundle import Bundle
from sae_core.edits import Edit
from sae_core.index import Index
from sae_core.proof import Proof, like_frequency
from sae_core.proving import Proving
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text

FEATURES, SEEDS, TOKENS = 200, 5, 30
LEAST = 1e-4
"""Lowest frequency of the features drawn."""
PROMPT = "It was"
TEMPERATURE = 0.8
RESAMPLES = 2000
KNOWN = ("output_score", "side_effect", "frequency")


def proof_of(lm: SplicedLM, edit: Edit, frequencies: np.ndarray, seeds: int, tokens: int) -> Proof:
    """One edit's proof on the prompt, `frequencies` being those of its SAE's features."""
    proving = Proving(
        lm,
        encode_text(lm.tokenizer, PROMPT),
        [edit],
        controls=like_frequency(frequencies, edit.feature),
        seeds=range(seeds),
        max_new_tokens=tokens,
        temperature=TEMPERATURE,
    )
    for _ in proving.generated():
        pass
    return proving.proof()


def proven(lm: SplicedLM, name: str, index: Index, feature: int) -> dict[str, Any]:
    """What a proof of one feature comes to, beside what its index says of it."""
    summary = index.summaries([feature])[feature]
    edit = Edit(
        feature=feature, mode="set", value=summary["max_act"], positions="continuation", sae=name
    )
    proof = proof_of(lm, edit, index.frequencies(), SEEDS, TOKENS)
    shares = [[run.share for run in arm.runs] for arm in (proof.target, proof.without)]
    return {
        "feature": feature,
        **{key: summary[key] for key in KNOWN},
        "rate": proof.rate(proof.target).passed / SEEDS,
        "more": float(np.nanmean(shares[0]) - np.nanmean(shares[1])),
        "separates": proof.separates,
    }


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; NaN where all of either are alike."""
    ranks = [_ranks(each) - (len(each) - 1) / 2 for each in (a, b)]
    norm = float(np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1]))
    return float(ranks[0] @ ranks[1]) / norm if norm > 0 else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 on, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - counts + (counts - 1) / 2)[inverse]


def with_interval(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """The rank correlation and the ends of its interval."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(a), (RESAMPLES, len(a)))
    low, high = np.nanquantile([correlation(a[some], b[some]) for some in draws], [0.025, 0.975])
    return {"rank_correlation": correlation(a, b), "low": float(low), "high": float(high)}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the features' proofs say of the numbers known before."""
    column = {key: np.array([row[key] for row in rows], float) for key in rows[0]}
    fifths = np.array_split(np.argsort(column["output_score"]), 5)
    return {
        "features": len(rows),
        "separate": int(column["separates"].sum()),
        **{
            key: {
                "with_rate": with_interval(column[key], column["rate"]),
                "with_more": with_interval(column[key], column["more"]),
            }
            for key in KNOWN
        },
        "fifths_by_output_score": [
            {
                "highest": float(column["output_score"][some].max()),
                "features": len(some),
                "separate": int(column["separates"][some].sum()),
                "mean_rate": float(column["rate"][some].mean()),
            }
            for some in fifths
        ],
    }


def main() -> None:
    """Prove one feature after another; every result is written at once."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--sae", default="", help="name of the demo's SAE; the first by default")
    parser.add_argument("--features", type=int, default=FEATURES, help="features to prove")
    parser.add_argument("--minutes", type=float, default=60, help="no proof starts after these")
    asked = parser.parse_args()
    bundle = Bundle.open(Path(__file__).parents[1] / "app" / "demo")
    name = asked.sae or bundle.sae_names[0]
    model, tokenizer = bundle.load_model(torch.float32)
    lm = SplicedLM(model, tokenizer, {name: bundle.load_sae(name)})
    index = Index.open(bundle.index_path(name))
    deadline = time.monotonic() + 60 * asked.minutes
    run = Run(lm.device, torch.float32, 0.0, deadline, asked.out)
    run.record(["machine"], machine(lm.device))
    run.record(
        ["settings"],
        {
            "sae": name,
            "prompt": PROMPT,
            "seeds": SEEDS,
            "tokens": TOKENS,
            "temperature": TEMPERATURE,
            "least_frequency": LEAST,
        },
    )
    often = np.flatnonzero(index.frequencies() >= LEAST)
    drawn = np.random.default_rng(0).choice(often, asked.features, replace=False)
    rows: list[dict[str, Any]] = []
    for feature in drawn.tolist():
        if time.monotonic() > deadline:
            break
        rows.append(proven(lm, name, index, feature))
        print(json.dumps(rows[-1]), file=sys.stderr)
        run.result["rows"] = rounded(rows)
        run.record(["proved"], len(rows))
    run.record(["summary"], summary(rows))


if __name__ == "__main__":
    main()
