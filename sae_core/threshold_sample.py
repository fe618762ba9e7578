"""What a feature's threshold does on text, measured with the model.

`feature_sample` takes from one pass to the SAE's site what `sae_core.threshold_lab` needs;
`measure_thresholds` splices the SAE in as it is, with one threshold changed, and with all of them
at 0, which is plain ReLU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_core.corpus import TokenRow, batches
from sae_core.evaluation import Evaluation, evaluate_together
from sae_core.jumprelu import kernel_density
from sae_core.placement import in_float64
from sae_core.progress_bar import silent
from sae_core.sae import SAE, JumpReLUSAE
from sae_core.sites import activations
from sae_core.splice import SplicedLM
from sae_core.threshold_lab import (
    FeatureSample,
    TrainingUnits,
    penalty_factor,
    training_units,
)

_ROWS = 4
"""Rows in one forward: the lock on the model is held for no longer."""
_CHUNK = 2**24
"""Elements of the largest array over tokens and features: 64 MB."""

AS_IS, MOVED, RELU = "as it is", "this threshold", "all ReLU"
"""Names of what `measure_thresholds` measures."""


@dataclass(frozen=True, kw_only=True)
class TextSample:
    """A feature on the tokens of a text that count, in the units of the saved SAE."""

    feature: FeatureSample
    units: TrainingUnits
    resting_penalty: float | None
    """The lambda with which all features together are at rest with the bandwidth that was given, in
    training's units: the cost in reconstruction over the density of tokens, each summed over
    features, the density times 1 + 2 w / w_0 where frequent features were penalised; None where no
    token is in any feature's window."""


def jumprelu_only(sae: SAE) -> JumpReLUSAE:
    """The same SAE; ValueError where its features have no thresholds of their own."""
    if not isinstance(sae, JumpReLUSAE):
        raise ValueError(
            f"a {sae.cfg.architecture} SAE has no threshold of each feature: choose a JumpReLU SAE."
        )
    return sae


@torch.no_grad()
def feature_sample(
    lm: SplicedLM,
    sae_name: str,
    feature: int,
    rows: Sequence[TokenRow],
    *,
    bandwidth: float | None = None,
) -> TextSample:
    """One feature on rows of tokens, the model running only up to the SAE's site and target.

    `bandwidth`, in training's units, is the one that `resting_penalty` is for; None is the units'.
    Raises ValueError for an SAE that is not JumpReLU, a feature that it does not have, a bandwidth
    of 0 or less, and rows without a token that counts.
    """
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f"bandwidth is {bandwidth} but must be above 0.")
    sae = jumprelu_only(lm.sae(sae_name))
    lm.check_features(sae_name, [feature])
    read, target = _site_activations(lm, sae_name, rows)
    if not len(read):
        raise ValueError("the text holds no token that counts: give more text.")
    direction, bias = sae.W_dec[feature], float(sae.threshold[feature])
    mean_square = float(in_float64(read.square().sum(1)).mean())
    units = training_units(sae.cfg, mean_square)
    width = units.scale * (units.bandwidth if bandwidth is None else bandwidth)
    pre_acts, pulls = [], []
    cost = 0.0
    density, fires = (in_float64(torch.zeros_like(sae.threshold)) for _ in range(2))
    size = max(1, _CHUNK // sae.cfg.d_sae)
    for start in range(0, len(read), size):
        x, y = read[start : start + size], target[start : start + size]
        z = sae.pre_acts(x)
        acts = sae.activate(z)
        error = y - sae.output(acts, x)
        pre_acts.append(z[:, feature])
        pulls.append(error @ direction + acts[:, feature] * direction.square().sum())
        weight = kernel_density((z - sae.threshold) / width, units.kernel)
        each = 2 * sae.threshold * (error @ sae.W_dec.T) / units.scale**2
        cost += float(in_float64((weight * each).sum(1)).sum())
        density += in_float64(weight.sum(0))
        fires += in_float64((acts > 0).sum(0))
    factor = penalty_factor(fires / len(read), units.frequency_scale)
    saving = float((density * factor).sum())
    return TextSample(
        feature=FeatureSample(
            pre_acts=torch.cat(pre_acts),
            pull=torch.cat(pulls),
            square_norm=float(direction.square().sum()),
            threshold=bias,
        ),
        units=units,
        resting_penalty=max(cost / saving, 0.0) if saving > 0 else None,
    )


def _site_activations(
    lm: SplicedLM, sae_name: str, rows: Sequence[TokenRow]
) -> tuple[Float[Tensor, "tokens d_model"], Float[Tensor, "tokens d_out"]]:
    """What an SAE reads and should reconstruct at the tokens that count, float32."""
    sae, site, target = lm.sae(sae_name), lm.site(sae_name), lm.target(sae_name)
    reads, targets = [], []
    for batch in batches(rows, lm.tokenizer, _ROWS):
        with lm.lock:
            captured = activations(lm.model, batch.input_ids.to(lm.device), [site, target])
        for row, mask in enumerate(batch.mask):
            kept = mask.clone()
            x, y = captured[site][row], captured[target][row]
            kept[:1] &= not lm.has_sink(sae, x, y)
            kept = kept.to(x.device)
            reads.append(x[kept].float())
            targets.append(y[kept.to(y.device)].float())
    device = sae.W_enc.device
    return torch.cat(reads).to(device), torch.cat(targets).to(device)


def with_thresholds(sae: SAE, threshold: Float[Tensor, " d_sae"]) -> SAE:
    """The same JumpReLU SAE with other thresholds; every other tensor is shared, none is changed.

    Raises ValueError for another architecture.
    """
    jumprelu_only(sae)
    with torch.device("meta"):
        changed = SAE.build(sae.cfg)
    for name, parameter in sae.named_parameters():
        setattr(changed, name, parameter)
    changed.threshold = nn.Parameter(threshold.to(sae.W_enc), requires_grad=False)
    return changed


def measure_thresholds(
    lm: SplicedLM, sae_name: str, feature: int, threshold: float, rows: Sequence[TokenRow]
) -> dict[str, Evaluation]:
    """`evaluate` of the SAE as it is, with this `threshold` of the feature, in the units of the
    saved SAE, and with all thresholds at 0; by AS_IS, MOVED (not where it is the feature's own) and
    RELU. No ablations: the loss recovered is NaN.

    Raises ValueError as `feature_sample`, and for a threshold below 0.
    """
    sae = jumprelu_only(lm.sae(sae_name))
    lm.check_features(sae_name, [feature])
    if not threshold >= 0:
        raise ValueError(f"threshold is {threshold} but must be 0 or more.")
    moved = sae.threshold.detach().clone()
    moved[feature] = threshold
    saes: dict[str, SAE] = {AS_IS: sae}
    if not torch.equal(moved, sae.threshold):
        saes[MOVED] = with_thresholds(sae, moved)
    saes[RELU] = with_thresholds(sae, torch.zeros_like(moved))
    return evaluate_together(lm.with_saes(saes), list(saes), rows, ablations=False, progress=silent)
