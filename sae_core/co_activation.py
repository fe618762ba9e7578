"""Which features fire together with one, on a text, and which feature of another SAE is the same.

Over the tokens of the text that count, with a and b for "fires on this token":

    Jaccard = tokens with a and b / tokens with a or b
    lift    = tokens with a and b * tokens / (tokens with a * tokens with b)

Jaccard is 1 for two that always fire together; lift says how many times as often they do as chance
would have it, and is large for rare features that met once. Between two SAEs the activations are
correlated (Pearson): of those that fire on few tokens it is as rough as their number is small.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_core.corpus import TokenRow, batches
from sae_core.index.logits import BEFORE_THE_MLP, stream_directions
from sae_core.placement import in_float64
from sae_core.sites import activations
from sae_core.splice import SplicedLM

_ROWS = 4
"""Rows in one forward: the lock on the model is held for no longer."""
_CHUNK = 2**24
"""Elements of the largest array over tokens and features: 64 MB in float32."""
_DIRECTIONS = 2**14
"""Decoder directions compared at once."""
_COSINES = 200_001
"""Points at which the density of a cosine is summed."""


@dataclass(frozen=True, kw_only=True)
class CoActivation:
    """How often a feature and each of its SAE fire, alone and on one token; arrays `[d_sae]`."""

    feature: int
    tokens: int
    """Tokens that count."""
    fires: np.ndarray
    """Tokens on which each feature fires."""
    both: np.ndarray
    """Tokens on which it fires together with the feature."""

    @property
    def own(self) -> int:
        """Tokens on which the feature itself fires."""
        return int(self.fires[self.feature])

    @property
    def either(self) -> np.ndarray:
        """Tokens on which one of the two fires, or both."""
        return self.own + self.fires - self.both

    def jaccard(self) -> np.ndarray:
        """Tokens with both over tokens with either, 0 where there are none."""
        return self.both / np.maximum(self.either, 1)

    def lift(self) -> np.ndarray:
        """How many times as often as by chance they fire together, 0 where one never fires."""
        return self.both * self.tokens / np.maximum(self.own * self.fires, 1)

    def nearest(self, limit: int) -> np.ndarray:
        """Numbers of the features that fire together with it, by falling Jaccard, then lift."""
        order = np.lexsort((np.arange(len(self.both)), -self.lift(), -self.jaccard()))
        return order[(self.both[order] > 0) & (order != self.feature)][:limit]


@torch.no_grad()
def co_activation(
    lm: SplicedLM, sae_name: str, feature: int, rows: Sequence[TokenRow]
) -> CoActivation:
    """How often features fire together with one of an SAE; ValueError for an unknown one."""
    lm.check_features(sae_name, [feature])
    fires = both = torch.zeros(lm.sae(sae_name).cfg.d_sae, dtype=torch.int64)
    tokens = 0
    for (acts,) in _encoded(lm, [sae_name], rows):
        active = acts > 0
        fires = fires + active.sum(0).cpu()
        both = both + active[active[:, feature]].sum(0).cpu()
        tokens += len(acts)
    return CoActivation(feature=feature, tokens=tokens, fires=fires.numpy(), both=both.numpy())


@torch.no_grad()
def correlations(
    lm: SplicedLM, sae_name: str, feature: int, other: str, rows: Sequence[TokenRow]
) -> np.ndarray:
    """Pearson correlation `[d_sae]` of a feature's activations with those of each feature of
    another SAE over the tokens that count for both; NaN where one is the same on all of them.
    """
    lm.check_features(sae_name, [feature])
    d_other = lm.sae(other).cfg.d_sae
    # From the first token's values, so that what always fires loses no digits.
    origin: tuple[Tensor, Tensor] | None = None
    sums = np.zeros((3, d_other))
    own_sum = own_square = 0.0
    tokens = 0
    for one, two in _encoded(lm, [sae_name, other], rows):
        a, b = in_float64(one[:, feature]), in_float64(two.to(one.device))
        if origin is None and len(a):
            origin = (a[0].clone(), b[0].clone())
        if origin is not None:
            a, b = a - origin[0], b - origin[1]
        tokens += len(a)
        own_sum += float(a.sum())
        own_square += float(a.square().sum())
        for total, part in zip(sums, (b.sum(0), b.square().sum(0), a @ b), strict=True):
            total += part.cpu().numpy()
    count = max(tokens, 1)
    total, square, product = sums
    covariance = product / count - own_sum / count * total / count
    own_variance = own_square / count - (own_sum / count) ** 2
    variance = square / count - (total / count) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        result = covariance / np.sqrt(np.maximum(own_variance, 0) * np.maximum(variance, 0))
    result[~np.isfinite(result)] = np.nan
    return np.clip(result, -1, 1)


def writes_to_stream(lm: SplicedLM, sae_name: str) -> bool:
    """Whether what an SAE writes is a direction of the residual stream, whatever it adds there."""
    return lm.target(sae_name).kind not in BEFORE_THE_MLP


@torch.no_grad()
def decoder_cosines(lm: SplicedLM, sae_name: str, feature: int, other: str) -> np.ndarray:
    """Cosine `[d_sae]` of the direction that a feature adds to the residual stream with that of
    each feature of another SAE; 0 for one without length. ValueError unless both write into the
    stream.
    """
    lm.check_features(sae_name, [feature])
    for name in (sae_name, other):
        if not writes_to_stream(lm, name):
            raise ValueError(f"SAE {name} writes what an MLP reads, which is no direction there.")
    sae = lm.sae(other)
    direction = stream_directions(lm.model, lm.sae(sae_name), torch.tensor([feature]))[0]
    cosines = []
    for start in range(0, sae.cfg.d_sae, _DIRECTIONS):
        some = torch.arange(start, min(start + _DIRECTIONS, sae.cfg.d_sae))
        rows = stream_directions(lm.model, sae, some)
        cosines.append((rows @ direction.to(rows)).clamp(-1, 1).cpu())
    return torch.cat(cosines).numpy()


def random_cosine(count: int, width: int) -> float:
    """The cosine that none of `count` random directions of a width has with one, in 19 of 20 cases.

    The density of one cosine t is proportional to (1 - t^2)^((width - 3) / 2).
    """
    t = np.linspace(-1, 1, _COSINES)[1:-1]
    below = np.cumsum((1 - t * t) ** ((max(width, 3) - 3) / 2))
    return float(np.interp(0.95 ** (1 / count), below / below[-1], t))


def _encoded(
    lm: SplicedLM, names: Sequence[str], rows: Sequence[TokenRow]
) -> Iterator[list[Tensor]]:
    """Activations `[tokens, d_sae]` of these SAEs on the tokens that count for all of them, few
    tokens at once; the model runs no further than the last of their sites.
    """
    saes, sites = [lm.sae(name) for name in names], [lm.site(name) for name in names]
    size = max(1, _CHUNK // sum(sae.cfg.d_sae for sae in saes))
    for batch in batches(rows, lm.tokenizer, _ROWS):
        with lm.lock:
            input_ids = batch.input_ids.to(lm.device)
            captured = activations(lm.model, input_ids, list(dict.fromkeys(sites)))
        for i, row in enumerate(batch.rows):
            reads = [captured[site][i, : len(row.ids)] for site in sites]
            counted = batch.mask[i, : len(row.ids)].clone()
            for sae, x in zip(saes, reads, strict=True):
                counted[:1] &= not lm.has_sink(sae, x, x)
            kept = [x[counted.to(x.device)].float() for x in reads]
            for start in range(0, int(counted.sum()), size):
                yield [
                    sae.encode(x[start : start + size].to(sae.W_enc.device))
                    for sae, x in zip(saes, kept, strict=True)
                ]
