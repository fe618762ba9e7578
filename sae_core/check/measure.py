"""L0 and FVU of an SAE under any reading, on a sample of text.

The model runs once for a group of readings and only as far as their last site; the SAE's arithmetic
is float32, in chunks of so few tokens that a wide SAE needs little memory beside its weights.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from sae_core.check.readings import Bos, Reading, Scale
from sae_core.config import Site
from sae_core.corpus import TokenRow, batches
from sae_core.metrics import ReconstructionStats
from sae_core.sae import SAE
from sae_core.sites import activations
from sae_core.splice import SplicedLM

_ROWS = 4
"""Rows in one forward: the lock on the model is held for no longer."""
_KEPT = 2**27
"""Numbers kept of the forwards of one group of readings: 512 MB in float32."""
_CHUNK = 2**24
"""Elements of the largest array over tokens and features: 64 MB."""
_EPS = 1e-5
"""Keeps a divisor above 0; SAELens' own for norms."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What was measured under one reading; `l0` and `fvu` as `sae_core.metrics` defines them."""

    l0: float
    fvu: float
    """NaN where the sample does not define it."""
    tokens: int
    """Tokens counted."""
    divisor: float = 1.0
    """What the input was divided by; 1 for a scale of each token's own."""
    finite: bool = True
    """Whether the model's activations are finite numbers."""

    @property
    def usable(self) -> bool:
        """Whether there is anything to compare."""
        return self.finite and math.isfinite(self.l0) and math.isfinite(self.fvu)


@torch.no_grad()
def measure(
    lm: SplicedLM, sae: SAE, rows: Sequence[TokenRow], readings: Sequence[Reading]
) -> dict[Reading, Numbers]:
    """The numbers under each reading, in its order; special tokens count where a reading says so.

    Rows begin with BOS if the tokenizer has one. Memory: the activations of the sample at one site
    or two, and more of them, up to half a gigabyte, where many readings are asked for.
    """
    found: dict[Reading, Numbers] = {}
    tokens = sum(len(row.ids) for row in rows)
    most = _KEPT // (max(tokens, 1) * max(sae.cfg.d_model, sae.cfg.width_out))
    ordered = sorted(readings, key=lambda r: (r.bos == "absent", max(r.site.layer, r.target.layer)))
    for absent, same in groupby(ordered, key=lambda r: r.bos == "absent"):
        for group in _groups(same, most):
            sites = list(dict.fromkeys(site for r in group for site in (r.site, r.target)))
            sample = _gather(lm, rows, sites, sae.W_enc.device, without_bos=absent)
            found |= _numbers(sae, sample, group)
    return {reading: found[reading] for reading in readings}


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """Activations `[tokens, width]` at some sites, in the model's number format."""

    at: dict[Site, Tensor]
    ordinary: Tensor
    """False at special tokens."""

    def counted(self, bos: Bos) -> Tensor:
        """Which tokens a reading counts."""
        return torch.ones_like(self.ordinary) if bos == "counted" else self.ordinary


def _groups(readings: Iterable[Reading], most: int) -> Iterator[list[Reading]]:
    """Readings in order, in groups of no more than so many sites (or of one reading)."""
    group: list[Reading] = []
    sites: set[Site] = set()
    for reading in readings:
        wider = sites | {reading.site, reading.target}
        if group and len(wider) > most:
            yield group
            group, wider = [], {reading.site, reading.target}
        group.append(reading)
        sites = wider
    if group:
        yield group


def _gather(
    lm: SplicedLM,
    rows: Sequence[TokenRow],
    sites: Sequence[Site],
    device: torch.device,
    *,
    without_bos: bool,
) -> _Sample:
    if without_bos and lm.tokenizer.bos_token_id is not None:
        rows = [replace(row, ids=row.ids[1:]) for row in rows if len(row.ids) > 1]
    parts: dict[Site, list[Tensor]] = {site: [] for site in sites}
    ordinary: list[Tensor] = []
    for batch in batches(rows, lm.tokenizer, _ROWS):
        with lm.lock:
            found = activations(lm.model, batch.input_ids.to(lm.device), sites)
        # The first token of a row is real, BOS or not; padding is what is left.
        real = batch.mask.clone()
        real[:, 0] = True
        ordinary.append(batch.mask[real])
        for site in sites:
            parts[site].append(found[site].to(device)[real.to(device)])
    at = {site: torch.cat(part) for site, part in parts.items()}
    return _Sample(at=at, ordinary=torch.cat(ordinary).to(device))


def _numbers(sae: SAE, sample: _Sample, readings: Sequence[Reading]) -> dict[Reading, Numbers]:
    found: dict[Reading, Numbers] = {}

    def arithmetic(reading: Reading) -> Reading:
        return replace(reading, target=reading.site)

    # Readings that differ in the target alone share what the SAE makes of the input.
    alike = sorted(readings, key=lambda r: str(arithmetic(r)))
    for one, same in groupby(alike, key=arithmetic):
        found |= _of_input(sae, sample, one, list(same))
    return found


def _of_input(
    sae: SAE, sample: _Sample, reading: Reading, same: Sequence[Reading]
) -> dict[Reading, Numbers]:
    counted = sample.counted(reading.bos)
    x = sample.at[reading.site][counted]
    y = {r: sample.at[r.target][counted] for r in same}
    divisor = _divisor(x, reading.scale) / reading.factor
    stats = {
        r: ReconstructionStats(sae.cfg.width_out, sae.cfg.d_sae, sae.W_enc.device) for r in same
    }
    size = max(1, _CHUNK // sae.cfg.d_sae)
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        acts, recon = _apply(sae, x[part].float(), reading, divisor)
        for r in same:
            stats[r].update(y[r][part].float(), recon, acts)
    results = {r: stats[r].result() for r in same}
    return {
        r: Numbers(
            l0=results[r]["l0"],
            fvu=results[r]["fvu"],
            tokens=len(x),
            divisor=divisor,
            finite=bool(x.isfinite().all() and y[r].isfinite().all()),
        )
        for r in same
    }


def _divisor(x: Tensor, scale: Scale) -> float:
    """The one number that the whole sample is divided by."""
    norms = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32).double()
    if scale == "unit":
        return float(norms.square().mean().sqrt()) + _EPS
    if scale == "sqrt_d":
        return float(norms.mean()) / math.sqrt(x.shape[1]) + _EPS
    return 1.0


def _apply(sae: SAE, x: Tensor, reading: Reading, divisor: float) -> tuple[Tensor, Tensor]:
    """Activations, and the reconstruction in the model's own units."""
    shift, spread = torch.zeros(()).to(x), torch.tensor(divisor).to(x)
    if reading.scale == "layer_norm":
        shift, spread = x.mean(-1, keepdim=True), (x.std(-1, keepdim=True) + _EPS) * divisor
    read = (x - shift) / spread
    if reading.minus_b_dec:
        read = read - sae.b_dec
    acts = sae.encode(read)
    return acts, sae.output(acts, read) * spread + shift
