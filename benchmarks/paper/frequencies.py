"""How often features are active, by architecture at matched L0: the paper's very frequent features.

    jumpscope train --architectures jumprelu gated topk standard ... --seed 0 --out runs/seed0
    python -m benchmarks.paper frequencies --runs runs/seed0 runs/seed1 --validation HELD_OUT

SAEs of one site, architecture and L0 target in several runs are seeds of one. The share of features
above a bound is the mean over seeds; its interval of 95 % is of a bootstrap over seeds (where there
are several) and over blocks of text, the same blocks for every seed. Differences from JumpReLU are
paired: one draw of blocks for both. What the interval cannot know is said beside it: the number of
seeds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.paper.frequent_saes import kind_of
from benchmarks.paper.results import Results
from benchmarks.paper.text import read_rows
from sae_core.bundle import Bundle
from sae_core.config import Site
from sae_core.corpus import TokenRow, batches
from sae_core.metrics import ReconstructionStats
from sae_core.placement import chosen_device, chosen_dtype
from sae_core.sae import SAE
from sae_core.sites import activations

BOUNDS = {"over_1_percent": 0.01, "over_10_percent": 0.1}
"""Frequencies above which a feature is counted."""
EDGES = [round(-6 + 0.25 * i, 2) for i in range(25)]
"""Of the histogram's bins of log10 frequency; what is never active is counted apart."""
BLOCKS = 100
RESAMPLES = 2_000
MATCHED = 0.05
"""Relative distance of an L0 from its target up to which it is matched."""
_BASELINE = "jumprelu"
_ROWS = 16


@dataclass(frozen=True)
class Measured:
    """One SAE's counts on blocks of the text."""

    site: str
    architecture: str
    """Or JumpReLU with the penalty on frequent features (`frequent_saes.KINDS`)."""
    target: float
    seed: int
    active: Float[Tensor, "blocks d_sae"]
    """Tokens on which each feature is active."""
    tokens: Float[Tensor, " blocks"]
    fvu: float

    @property
    def key(self) -> tuple[str, float, str]:
        """What it shares with the same SAE of another seed."""
        return self.site, self.target, self.architecture


def study(
    runs: Sequence[Path], text: Sequence[str], tokens: int, context_size: int, out: Path
) -> None:
    """Measure every SAE of the runs and write `paper_frequencies.json` into the folder `out`.

    ValueError for runs of different language models, too little text, or one SAE given twice.
    """
    if not runs or not text:
        raise ValueError("give --runs, folders of jumpscope train, and --validation, other text.")
    bundles = [Bundle.open(run) for run in runs]
    saes = [bundle.load_sae(name) for bundle in bundles for name in bundle.sae_names]
    settings = _settings_of(saes)
    device = chosen_device("auto")
    model, tokenizer = bundles[0].load_model(chosen_dtype("auto", device), device)
    rows = read_rows(text, tokenizer, context_size, tokens)
    settings |= {
        "validation": [Path(path).stem for path in text],
        "context_size": context_size,
        "blocks": BLOCKS,
        "resamples": RESAMPLES,
        "seed": 0,
    }
    results = Results("frequencies", out, settings)
    measured = measure(model, tokenizer, [sae.to(device) for sae in saes], rows)
    results.keep(edges=EDGES, **summary(measured))


def _settings_of(saes: Sequence[SAE]) -> dict[str, Any]:
    """What all were trained with; ValueError where they do not belong together."""
    trained = [sae.cfg.metadata["training"]["settings"] for sae in saes]
    models = {sae.cfg.model_name for sae in saes}
    if len(models) > 1:
        raise ValueError(f"the runs are of several language models: {', '.join(sorted(models))}.")
    names = ("d_sae", "tokens", "batch", "lr_warmup", "lr_decay")
    return {
        "model": models.pop(),
        **{name: sorted({each.get(name) for each in trained}) for name in names},
        "lrs": sorted({float(sae.cfg.metadata["training"]["lr"]) for sae in saes}),
    }


@torch.no_grad()
def measure(
    model: Any, tokenizer: Any, saes: Sequence[SAE], rows: Sequence[TokenRow]
) -> list[Measured]:
    """Counts of all SAEs in one pass, in blocks of rows that follow each other."""
    blocks = list(_blocks(rows))
    stats = [
        [ReconstructionStats(sae.cfg.d_model, sae.cfg.d_sae, sae.W_dec.device) for _ in blocks]
        for sae in saes
    ]
    places = list(dict.fromkeys(_place(sae) for sae in saes))
    for number, block in enumerate(blocks):
        for batch in batches(block, tokenizer, _ROWS):
            ids = batch.input_ids.to(model.device)
            at_places = activations(model, ids, places)
            for sae, of_blocks in zip(saes, stats, strict=True):
                x = at_places[_place(sae)]
                x = x[batch.mask.to(x.device)].float()
                acts = sae.encode(x)
                of_blocks[number].update(x, sae.decode(acts), acts)
    return [_measured(sae, of_blocks) for sae, of_blocks in zip(saes, stats, strict=True)]


def _blocks(rows: Sequence[TokenRow]) -> Iterator[Sequence[TokenRow]]:
    count = min(BLOCKS, len(rows))
    for number in range(count):
        yield rows[number * len(rows) // count : (number + 1) * len(rows) // count]


def _place(sae: SAE) -> Site:
    assert sae.cfg.site is not None
    return sae.cfg.site


def _measured(sae: SAE, of_blocks: Sequence[ReconstructionStats]) -> Measured:
    training = sae.cfg.metadata["training"]
    total = of_blocks[0]
    for each in of_blocks[1:]:
        total = total + each
    return Measured(
        site=str(sae.cfg.site),
        architecture=kind_of(sae),
        target=float(training["l0_target"]),
        seed=int(training["settings"]["seed"]),
        active=torch.stack([each.frequency().cpu() * each.tokens for each in of_blocks]),
        tokens=torch.tensor([float(each.tokens) for each in of_blocks], dtype=torch.float64),
        fvu=total.result()["fvu"],
    )


def summary(measured: Sequence[Measured]) -> dict[str, Any]:
    """A row for each site, target and architecture, and the differences from JumpReLU."""
    groups: dict[tuple[str, float, str], list[Measured]] = {}
    for key, each in groupby(sorted(measured, key=lambda m: (m.key, m.seed)), lambda m: m.key):
        seeds = groups[key] = list(each)
        if len({m.seed for m in seeds}) < len(seeds):
            raise ValueError(f"{' '.join(map(str, key))} is there twice with one seed.")
    draws = {key: resampled(seeds) for key, seeds in groups.items()}
    rows = [_row(key, seeds, draws[key]) for key, seeds in groups.items()]
    differences = []
    for (site, target, architecture), seeds in groups.items():
        baseline = groups.get((site, target, _BASELINE))
        if architecture == _BASELINE or baseline is None:
            continue
        drawn, base = draws[site, target, architecture], draws[site, target, _BASELINE]
        differences.append(
            {
                "site": site,
                "target": target,
                "architecture": architecture,
                **{
                    name: _with_interval(
                        _mean_share(seeds, bound) - _mean_share(baseline, bound),
                        drawn[name] - base[name],
                    )
                    for name, bound in BOUNDS.items()
                },
            }
        )
    return {"rows": rows, "minus_jumprelu": differences}


def resampled(seeds: Sequence[Measured]) -> dict[str, Float[Tensor, " resamples"]]:
    """Shares above the bounds in draws of seeds and blocks. The same blocks are drawn for every
    group with as many, so differences of draws are paired.
    """
    of_blocks, of_seeds = (torch.Generator().manual_seed(number) for number in (0, 1))
    count = len(seeds[0].tokens)
    chosen = torch.randint(count, (RESAMPLES, count), generator=of_blocks)
    weight = torch.zeros(RESAMPLES, count, dtype=torch.float64)
    weight.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=torch.float64))
    tokens = (weight @ seeds[0].tokens)[:, None]
    shares: dict[str, list[Tensor]] = {name: [] for name in BOUNDS}
    for each in seeds:
        frequency = weight @ each.active / tokens
        for name, bound in BOUNDS.items():
            shares[name].append((frequency > bound).double().mean(1))
    picked = torch.randint(len(seeds), (RESAMPLES, len(seeds)), generator=of_seeds)
    return {
        name: torch.stack(values, 1).gather(1, picked).mean(1) for name, values in shares.items()
    }


def share_above(measured: Measured, bound: float) -> float:
    """Share of all features that are active on more than this share of the tokens."""
    return float((frequency_of(measured) > bound).double().mean())


def frequency_of(measured: Measured) -> Float[Tensor, " d_sae"]:
    """Share of all tokens on which each feature is active."""
    return measured.active.sum(0) / measured.tokens.sum()


def histogram(frequency: Float[Tensor, " d_sae"]) -> list[int]:
    """Features in the bins of log10 frequency between `EDGES`; lower ones are in the first."""
    logs = frequency[frequency > 0].log10().clamp(EDGES[0], EDGES[-1])
    inner = torch.tensor(EDGES[1:-1], dtype=logs.dtype)
    return torch.bincount(
        torch.bucketize(logs, inner, right=True), minlength=len(inner) + 1
    ).tolist()


def _mean_share(seeds: Sequence[Measured], bound: float) -> float:
    return sum(share_above(each, bound) for each in seeds) / len(seeds)


def _row(
    key: tuple[str, float, str], seeds: Sequence[Measured], drawn: Mapping[str, Tensor]
) -> dict[str, Any]:
    site, target, architecture = key
    frequencies = [frequency_of(each) for each in seeds]
    l0 = [float(each.sum()) for each in frequencies]
    return {
        "site": site,
        "target": target,
        "architecture": architecture,
        "seeds": [each.seed for each in seeds],
        "tokens": int(seeds[0].tokens.sum()),
        "l0": l0,
        "matched": all(abs(each / target - 1) <= MATCHED for each in l0),
        "fvu": [each.fvu for each in seeds],
        "dead": [float((each == 0).double().mean()) for each in frequencies],
        **{
            name: _with_interval(_mean_share(seeds, bound), drawn[name])
            | {"of_seeds": [share_above(each, bound) for each in seeds]}
            for name, bound in BOUNDS.items()
        },
        "histogram": [histogram(each) for each in frequencies],
    }


def _with_interval(value: float, drawn: Float[Tensor, " resamples"]) -> dict[str, Any]:
    low, high = drawn.quantile(torch.tensor([0.025, 0.975], dtype=drawn.dtype)).tolist()
    return {"value": value, "low": low, "high": high}
