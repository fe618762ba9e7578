"""L0 and FVU of an SAE under any convention, on a sample of text.

The model runs once for a group of conventions and only as far as their last site; the SAE's
arithmetic is float32, in chunks of so few tokens that a wide SAE needs little memory beside its
weights.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from sae_core.attention_sink import FirstTokenStats, first_of_rows, is_sink
from sae_core.check.conventions import Bos, Convention, Scale
from sae_core.config import Site
from sae_core.corpus import TokenRow, batches
from sae_core.placement import in_float64
from sae_core.progress_bar import Progress, silent
from sae_core.sae import SAE
from sae_core.sites import activations
from sae_core.splice import SplicedLM

_ROWS = 4
"""Rows in one forward: the lock on the model is held for no longer."""
_KEPT = 2**27
"""Numbers kept of the forwards of one group of conventions: 512 MB in float32."""
_CHUNK = 2**24
"""Elements of the largest array over tokens and features: 64 MB."""
_EPS = 1e-5
"""Keeps a divisor above 0; SAELens' own for norms."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What was measured under one convention; `l0` and `fvu` as `sae_core.metrics` defines them."""

    l0: float
    fvu: float
    """NaN where the sample does not define it."""
    tokens: int
    """Tokens counted."""
    sink_tokens: int = 0
    """First tokens that were left out as attention sinks."""
    dead: float = 0.0
    """Share of the features that are active on none of them."""
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
    lm: SplicedLM,
    sae: SAE,
    rows: Sequence[TokenRow],
    conventions: Sequence[Convention],
    report: Progress = silent,
) -> dict[Convention, Numbers]:
    """The numbers under each convention, in their order; special tokens count where it says so.

    `report` is told the tokens that the model has read.

    Rows begin with BOS if the tokenizer has one. Memory: the activations of the sample at one site
    or two, and more of them, up to half a gigabyte, where there are many conventions.
    """
    numbers: dict[Convention, Numbers] = {}
    tokens = sum(len(row.ids) for row in rows)
    most = _KEPT // (max(tokens, 1) * max(sae.cfg.d_model, sae.cfg.width_out))
    ordered = sorted(
        conventions, key=lambda c: (c.bos == "absent", max(c.site.layer, c.target.layer))
    )
    for absent, same in groupby(ordered, key=lambda c: c.bos == "absent"):
        for group in _groups(same, most):
            sites = list(dict.fromkeys(site for c in group for site in (c.site, c.target)))
            sample = _gather(lm, rows, sites, sae.W_enc.device, report, without_bos=absent)
            numbers |= _numbers(sae, sample, group)
    return {convention: numbers[convention] for convention in conventions}


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """Activations `[tokens, width]` at some sites, in the model's dtype."""

    at: dict[Site, Tensor]
    ordinary: Tensor
    """False at special tokens."""
    first: Tensor
    """True at first tokens that may be attention sinks."""

    def counted(self, bos: Bos) -> Tensor:
        """Which tokens a convention counts."""
        return torch.ones_like(self.ordinary) if bos == "counted" else self.ordinary


def _groups(conventions: Iterable[Convention], most: int) -> Iterator[list[Convention]]:
    """Conventions in order, in groups of no more than so many sites (or of one convention)."""
    group: list[Convention] = []
    sites: set[Site] = set()
    for convention in conventions:
        wider = sites | {convention.site, convention.target}
        if group and len(wider) > most:
            yield group
            group, wider = [], {convention.site, convention.target}
        group.append(convention)
        sites = wider
    if group:
        yield group


def _gather(
    lm: SplicedLM,
    rows: Sequence[TokenRow],
    sites: Sequence[Site],
    device: torch.device,
    report: Progress = silent,
    *,
    without_bos: bool,
) -> _Sample:
    if without_bos and lm.tokenizer.bos_token_id is not None:
        rows = [replace(row, ids=row.ids[1:]) for row in rows if len(row.ids) > 1]
    parts: dict[Site, list[Tensor]] = {site: [] for site in sites}
    ordinary: list[Tensor] = []
    first: list[Tensor] = []
    for batch in batches(rows, lm.tokenizer, _ROWS):
        with lm.lock:
            captured = activations(lm.model, batch.input_ids.to(lm.device), sites)
        # The first token of a row is real, BOS or not; padding is what is left.
        real = batch.mask.clone()
        real[:, 0] = True
        ordinary.append(batch.mask[real])
        first.append(first_of_rows(lm.tokenizer, batch.mask)[real])
        report(int(real.sum()))
        for site in sites:
            parts[site].append(captured[site].to(device)[real.to(device)])
    at = {site: torch.cat(part) for site, part in parts.items()}
    return _Sample(
        at=at, ordinary=torch.cat(ordinary).to(device), first=torch.cat(first).to(device)
    )


def _numbers(
    sae: SAE, sample: _Sample, conventions: Sequence[Convention]
) -> dict[Convention, Numbers]:
    numbers: dict[Convention, Numbers] = {}

    def arithmetic(convention: Convention) -> Convention:
        return replace(convention, target=convention.site)

    # Conventions that differ in the target alone share what the SAE makes of the input.
    alike = sorted(conventions, key=lambda c: str(arithmetic(c)))
    for one, same in groupby(alike, key=arithmetic):
        numbers |= _of_input(sae, sample, one, list(same))
    return numbers


def _of_input(
    sae: SAE, sample: _Sample, convention: Convention, same: Sequence[Convention]
) -> dict[Convention, Numbers]:
    counted = sample.counted(convention.bos)
    may_count = int(counted.sum())
    # Left out from the start where their norms tell, for the sake of what the input is divided by.
    counted = counted & ~(sample.first & _outliers(sample, convention.site))
    first = sample.first[counted]
    x = sample.at[convention.site][counted]
    y = {c: sample.at[c.target][counted] for c in same}
    divisor = _divisor(x, convention.scale) / convention.factor
    stats = {c: FirstTokenStats(sae.cfg.width_out, sae.cfg.d_sae, sae.W_enc.device) for c in same}
    size = max(1, _CHUNK // sae.cfg.d_sae)
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        acts, recon = _apply(sae, x[part].float(), convention, divisor)
        for c in same:
            of_target = y[c][part].float()
            stats[c].update(x[part].float(), of_target, recon, acts, first[part])
    settled = {c: stats[c].stats(without_first=stats[c].sink) for c in same}
    results = {c: settled[c].result() for c in same}
    return {
        c: Numbers(
            l0=results[c]["l0"],
            fvu=results[c]["fvu"],
            tokens=settled[c].tokens,
            # Every other token that may count does.
            sink_tokens=may_count - settled[c].tokens,
            dead=results[c]["dead"],
            divisor=divisor,
            finite=bool(x.isfinite().all() and y[c].isfinite().all()),
        )
        for c in same
    }


def _outliers(sample: _Sample, site: Site) -> bool:
    """Whether first tokens are attention sinks at a site by their norms alone."""
    norms = torch.linalg.vector_norm(sample.at[site], dim=-1, dtype=torch.float32)
    return is_sink(norms[sample.first], norms[sample.ordinary & ~sample.first])


def _divisor(x: Tensor, scale: Scale) -> float:
    """The one number that the whole sample is divided by."""
    norms = in_float64(torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32))
    if scale == "unit":
        return float(norms.square().mean().sqrt()) + _EPS
    if scale == "sqrt_d":
        return float(norms.mean()) / math.sqrt(x.shape[1]) + _EPS
    return 1.0


def _apply(sae: SAE, x: Tensor, convention: Convention, divisor: float) -> tuple[Tensor, Tensor]:
    """Activations, and the reconstruction in the model's own units."""
    shift, spread = torch.zeros(()).to(x), torch.tensor(divisor).to(x)
    if convention.scale == "layer_norm":
        shift, spread = x.mean(-1, keepdim=True), (x.std(-1, keepdim=True) + _EPS) * divisor
    read = (x - shift) / spread
    if convention.minus_b_dec:
        read = read - sae.b_dec
    acts = sae.encode(read)
    return acts, sae.output(acts, read) * spread + shift
