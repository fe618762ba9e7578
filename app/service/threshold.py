"""What another threshold of a feature would do, and what holds its own where it is."""

from typing import TYPE_CHECKING, Any, Final

from app.engine.memory import refused_when_full
from app.engine.workbench import Workbench
from app.requests import RequestError, ThresholdRequest
from app.service.token_rows import finite, finite_list
from sae_core.definitions import DEFINITIONS
from sae_core.number_text import number

if TYPE_CHECKING:
    from sae_core.threshold_lab import GradientTerms, TrainingUnits
    from sae_core.threshold_sample import TextSample

THRESHOLD_DEFINITIONS: Final = {
    "reconstruction": "What raising the threshold costs: the mean over tokens of K(u) / bandwidth "
    "times 2 threshold d . (x - recon), per token and unit of the threshold, in training's units.",
    "sparsity": "What raising the threshold saves: lambda times the mean over tokens of K(u) / "
    "bandwidth, in the same units; where the run penalised frequent features, times 1 + 2 w / w_0. "
    "Where both are equal, training comes to rest.",
    "lambda": "The price of one more active feature per token, in squared error of inputs of mean "
    "squared norm 1.",
    "bandwidth": "Width of the kernel K around the threshold, for inputs of mean squared norm 1.",
    **{name: DEFINITIONS[name] for name in ("l0", "fvu", "delta_lm_loss", "frequency")},
}

SHOWN_WINDOWS: Final = 6.0
"""Bandwidths on either side of the thresholds that the curves reach."""
POINTS: Final = 61
"""Thresholds on the curves, beside the two that are asked about."""
_MEASURED: Final = ("l0", "fvu", "delta_lm_loss")


def threshold(workbench: Workbench, request: ThresholdRequest) -> dict[str, Any]:
    """What another threshold of a feature would do on the check's text, and the two terms of its
    gradient in training.

    Only for JumpReLU SAEs.
    """
    name = workbench.sae_name(request.sae)
    feature = workbench.feature_number(name, request.feature)
    architecture = workbench.bundle.sae_config(name).architecture
    if architecture != "jumprelu":
        raise RequestError(
            f"A {architecture} SAE has no threshold of each feature: choose a JumpReLU SAE.", "sae"
        )
    engine = workbench.load()
    from sae_core.check import check_rows
    from sae_core.threshold_sample import AS_IS, MOVED, RELU, feature_sample, measure_thresholds

    text = workbench.checker.texts(request.tokens)
    with (
        refused_when_full(
            f"{request.tokens:,} tokens do not fit into the memory of {engine.device}: lower "
            "tokens or max_sae_memory."
        ),
        engine.spliced([name]) as lm,
    ):
        rows = check_rows(lm, lm.sae(name).cfg, text, request.tokens)
        sample = feature_sample(lm, name, feature, rows, bandwidth=request.bandwidth)
        own = sample.feature.threshold
        moved = own if request.threshold is None else request.threshold
        measured = measure_thresholds(lm, name, feature, moved, rows) if request.measured else {}
    pre_acts = sample.feature.pre_acts
    fires = {AS_IS: own, MOVED: moved, RELU: 0.0}
    return {
        "sae": name,
        "feature": feature,
        "threshold": moved,
        "own_threshold": own,
        "tokens": len(pre_acts),
        "variants": [
            {
                "name": variant,
                "threshold": fires[variant],
                "frequency": int((pre_acts > fires[variant]).sum()) / len(pre_acts),
                **{key: finite(getattr(evaluation, key)) for key in _MEASURED},
            }
            for variant, evaluation in measured.items()
        ],
        "gradient": _gradient(sample, request, moved),
        "definitions": THRESHOLD_DEFINITIONS,
    }


def _gradient(sample: "TextSample", request: ThresholdRequest, moved: float) -> dict[str, Any]:
    """Both terms over thresholds around the feature's own and the `moved` one; thresholds in the
    units of the saved SAE, everything else in training's.
    """
    from sae_core.threshold_lab import gradient_terms, resting_points, tendency

    units, scale = sample.units, sample.units.scale
    bandwidth = request.bandwidth or units.bandwidth
    penalty, penalty_from = _penalty(sample, request)
    own = sample.feature.threshold
    reach = SHOWN_WINDOWS * bandwidth * scale
    low, high = max(min(own, moved) - reach, 0.0), max(own, moved) + reach
    grid = sorted({own, moved, *(low + (high - low) * k / (POINTS - 1) for k in range(POINTS))})
    terms = gradient_terms(
        sample.feature.scaled(scale),
        [each / scale for each in grid],
        penalty=penalty,
        bandwidth=bandwidth,
        kernel=units.kernel,
        frequency_scale=units.frequency_scale,
    )
    rests = [each * scale for each in resting_points(terms)]
    here = grid.index(moved)
    at = {
        "reconstruction": float(terms.reconstruction[here]),
        "sparsity": float(terms.sparsity[here]),
        "standard_error": float(terms.standard_error[here]),
        "in_window": int(terms.in_window[here]),
    }
    moves = tendency(float(terms.gradient[here]), at["standard_error"], at["in_window"])
    return {
        "thresholds": grid,
        **_curves(terms),
        "at": {**at, "tendency": moves},
        "rests": rests,
        "sentence": _sentence(moves, at, own == moved, _by(units)),
        "units": _units(units, bandwidth, penalty, penalty_from, request),
    }


def _curves(terms: "GradientTerms") -> dict[str, Any]:
    names = ("reconstruction", "sparsity", "standard_error", "in_window")
    return {name: finite_list(getattr(terms, name).cpu().numpy()) for name in names}


def _penalty(sample: "TextSample", request: ThresholdRequest) -> tuple[float, str]:
    """Lambda, and where it is from: `given`, `run`, or `rest` where it is estimated."""
    if request.penalty is not None:
        return request.penalty, "given"
    if sample.units.penalty is not None:
        return sample.units.penalty, "run"
    return sample.resting_penalty or 0.0, "rest"


def _units(
    units: "TrainingUnits",
    bandwidth: float,
    penalty: float,
    penalty_from: str,
    request: ThresholdRequest,
) -> dict[str, Any]:
    bandwidth_from = "run" if "bandwidth" in units.stated else "paper"
    if request.bandwidth is not None:
        bandwidth_from = "given"
    return {
        "lambda": penalty,
        "lambda_from": penalty_from,
        "bandwidth": bandwidth,
        "bandwidth_from": bandwidth_from,
        "kernel": units.kernel,
        "scale": units.scale,
        "scale_from": "run" if "scale" in units.stated else "text",
        "l0_target": units.l0_target,
        "frequency_scale": units.frequency_scale,
        "other_penalties": list(units.other_penalties),
        "sentence": _units_sentence(units, bandwidth, penalty, penalty_from, bandwidth_from),
    }


def _units_sentence(
    units: "TrainingUnits", bandwidth: float, penalty: float, penalty_from: str, width_from: str
) -> str:
    """Where lambda, bandwidth and scale are from, in words."""
    aimed = (
        f"The run aimed at an L0 of {number(units.l0_target)} instead of a lambda"
        if units.l0_target
        else "The SAE does not state its lambda"
    )
    lambdas = {
        "given": f"Lambda {number(penalty)} is yours.",
        "run": f"Lambda {number(penalty)} is the run's.",
        "rest": f"{aimed}: {number(penalty)} is the one with which its features together are at "
        "rest on this text.",
    }
    widths = {
        "given": f"Bandwidth {bandwidth:g} is yours.",
        "run": f"Bandwidth {bandwidth:g} ({units.kernel}) is the run's.",
        "paper": f"It does not state its bandwidth: {bandwidth:g} is the paper's.",
    }
    scaled = (
        f"Training divided activations by {number(units.scale)}."
        if "scale" in units.stated
        else f"Activations are divided by {number(units.scale)}, the root of their mean squared "
        "norm on this text, as training did in the paper."
    )
    return " ".join((lambdas[penalty_from], widths[width_from], scaled, *_penalties_say(units)))


def _penalties_say(units: "TrainingUnits") -> list[str]:
    """What the run's loss had beyond a penalty on L0, a sentence each."""
    said = {
        "tanh": "The run had a tanh penalty in place of L0: what is saved here is not the run's.",
        "pre-activation": "The run had a penalty on pre-activations below their threshold, "
        "which raising it makes dearer: that is not in the cost here.",
    }
    others = [said[name] for name in units.other_penalties]
    if not units.frequency_scale:
        return others
    scale = number(units.frequency_scale)
    return [f"Its penalty on frequent features, of scale {scale}, is in what is saved.", *others]


def _by(units: "TrainingUnits") -> str:
    """What is said to move the threshold: not the run's training, where its loss had more."""
    return "training by these two terms alone" if units.other_penalties else "training"


def _sentence(moves: str, at: dict[str, Any], own: bool, by: str) -> str:
    """What `by`, training, would do to the threshold that is asked about, in words."""
    here = "its threshold" if own else "this threshold"
    cost, saved = number(at["reconstruction"]), number(at["sparsity"])
    n = at["in_window"]
    seen = f"{n:,} {'token lies' if n == 1 else 'tokens lie'} in the kernel's window"
    if not n:
        return (
            f"No token lies in the kernel's window at {here}, so nothing says where training "
            "would move it."
        )
    if moves == "unclear":
        return f"Only {seen} at {here}: too few to say where training would move it."
    both = f"At {here} raising it costs {cost} in reconstruction and saves {saved} in sparsity"
    ends = {
        "rest": f"equal within two standard errors, so {by} is at rest here",
        "raise": f"so {by} would raise it",
        "lower": f"so {by} would lower it",
    }
    return f"{both} ({seen}): {ends[moves]}."
