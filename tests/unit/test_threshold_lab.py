"""The two terms of a threshold's gradient, and the units they live in, against slow references."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from sae_core.config import SAEConfig
from sae_core.jumprelu import KERNELS, Kernel, jumprelu, step
from sae_core.threshold_lab import (
    FeatureSample,
    GradientTerms,
    gradient_terms,
    resting_points,
    tendency,
    training_units,
)
from training.losses.base import Batch, Penalty
from training.losses.jumprelu_loss import Extras, JumpReLULoss
from training.options import LossOptions
from training.trained_form import folded

D_MODEL, D_SAE, TOKENS, FEATURE = 6, 5, 400, 2
PENALTY, BANDWIDTH = 0.07, 0.4


def parameters(norm: float = 1.0) -> dict[str, torch.Tensor]:
    """An SAE in the form it is trained in, with decoder rows of this norm."""
    generator = torch.Generator().manual_seed(3)
    W_dec = torch.randn(D_SAE, D_MODEL, generator=generator, dtype=torch.float64)
    W_dec *= norm / W_dec.norm(dim=1, keepdim=True)
    return {
        "W_enc": W_dec.T.clone() / norm,
        "W_dec": W_dec,
        "b_enc": 0.1 * torch.randn(D_SAE, generator=generator, dtype=torch.float64),
        "b_dec": 0.2 * torch.randn(D_MODEL, generator=generator, dtype=torch.float64),
        "threshold": torch.linspace(0.2, 0.6, D_SAE, dtype=torch.float64),
    }


def inputs(tokens: int = TOKENS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return 0.6 * torch.randn(tokens, D_MODEL, generator=generator, dtype=torch.float64)


def sample_of(p: dict[str, torch.Tensor], x: torch.Tensor) -> FeatureSample:
    """Feature `FEATURE` on x, as an SAE in training has it."""
    z = (x - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    acts = z * (z > p["threshold"])
    acts[:, FEATURE] = 0
    direction = p["W_dec"][FEATURE]
    return FeatureSample(
        pre_acts=z[:, FEATURE],
        pull=(x - acts @ p["W_dec"] - p["b_dec"]) @ direction,
        square_norm=float(direction.square().sum()),
        threshold=float(p["threshold"][FEATURE]),
    )


def by_autograd(
    p: dict[str, torch.Tensor], x: torch.Tensor, threshold: float, penalty: float, kernel: Kernel
) -> float:
    """The straight-through gradient of training's own loss, by this feature's threshold."""
    thresholds = p["threshold"].clone()
    thresholds[FEATURE] = threshold
    thresholds.requires_grad_()
    z = (x - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    recon = jumprelu(z, thresholds, BANDWIDTH, kernel) @ p["W_dec"] + p["b_dec"]
    l0 = step(z, thresholds, BANDWIDTH, kernel).sum()
    loss = ((x - recon).square().sum() + penalty * l0) / len(x)
    (gradient,) = torch.autograd.grad(loss, thresholds)
    return float(gradient[FEATURE])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("norm", [1.0, 1.7])
def test_both_terms_are_those_of_straight_through_autograd(kernel: Kernel, norm: float) -> None:
    p, x = parameters(norm), inputs()
    thresholds = [0.05, 0.3, p["threshold"][FEATURE].item(), 0.9]
    terms = gradient_terms(
        sample_of(p, x), thresholds, penalty=PENALTY, bandwidth=BANDWIDTH, kernel=kernel
    )
    whole = [by_autograd(p, x, each, PENALTY, kernel) for each in thresholds]
    without_penalty = [by_autograd(p, x, each, 0.0, kernel) for each in thresholds]
    assert terms.gradient.tolist() == pytest.approx(whole, rel=1e-9)
    assert terms.reconstruction.tolist() == pytest.approx(without_penalty, rel=1e-9)
    assert min(abs(value) for value in whole) > 1e-4  # the tokens are in the windows


def test_the_penalty_on_frequent_features_is_that_of_the_training_s_own_loss() -> None:
    """Whatever the run's settings say about its loss, the terms or `other_penalties` have."""
    options, p, x = LossOptions(frequency_scale=0.1), parameters(), inputs()
    loss = JumpReLULoss(
        bandwidth=BANDWIDTH, targeted=False, extras=Extras(frequency=options.frequency_scale)
    )
    batch = Batch(
        raw=x,
        scale=torch.tensor(1.0),
        mean=torch.zeros(D_MODEL),
        penalty=Penalty(torch.tensor(PENALTY), torch.tensor(1.0), torch.tensor(0.0)),
    )
    gradients, _ = loss.gradients(
        {name: each.float().requires_grad_() for name, each in p.items()}, batch
    )
    units = training_units(run_with(options), 1.0)
    sample = sample_of(p, x)
    terms, plain = (
        gradient_terms(
            sample,
            [sample.threshold],
            penalty=PENALTY,
            bandwidth=BANDWIDTH,
            frequency_scale=frequency_scale,
        )
        for frequency_scale in (units.frequency_scale, None)
    )
    assert float(terms.gradient[0]) == pytest.approx(float(gradients["threshold"][FEATURE]), 1e-4)
    assert float(terms.sparsity[0]) > 1.5 * float(plain.sparsity[0])


def run_with(options: LossOptions) -> SAEConfig:
    """The metadata that a run with these options writes."""
    training = {"settings": {"bandwidth": BANDWIDTH, "loss": asdict(options)}}
    return SAEConfig(
        architecture="jumprelu", d_model=D_MODEL, d_sae=D_SAE, metadata={"training": training}
    )


def test_penalties_that_the_terms_leave_out_are_named() -> None:
    units = training_units(run_with(LossOptions(tanh_scale=4.0, pre_act=3e-6)), 1.0)
    assert units.other_penalties == ("tanh", "pre-activation")
    assert units.frequency_scale is None
    assert training_units(run_with(LossOptions()), 1.0).other_penalties == ()


def smoothed_loss(p: dict[str, torch.Tensor], x: torch.Tensor, threshold: float) -> float:
    """The mean loss with the feature switched on as far as the kernel's mass below z reaches,
    which is the exact loss, averaged over thresholds that scatter as the kernel does.
    """
    sample = sample_of(p, x)
    z = sample.pre_acts
    on = PENALTY - 2 * z * sample.pull + z.square() * sample.square_norm
    share = ((z - threshold) / SMOOTH + 0.5).clamp(0, 1)
    return float((share * on).mean())


SMOOTH = 0.02


def test_the_terms_are_the_slope_of_the_kernel_smoothed_loss() -> None:
    p, x = parameters(), inputs(400_000)
    for threshold in (0.15, 0.4, 0.8):
        terms = gradient_terms(sample_of(p, x), [threshold], penalty=PENALTY, bandwidth=SMOOTH)
        h = 1e-4
        slope = (smoothed_loss(p, x, threshold + h) - smoothed_loss(p, x, threshold - h)) / (2 * h)
        # The estimate puts the threshold for z within the window, and half of its tokens are off
        # instead of half on: that is of the order of the bandwidth and of the tokens' scatter.
        slack = 4 * float(terms.standard_error[0]) + SMOOTH * abs(float(terms.sparsity[0]))
        assert float(terms.gradient[0]) == pytest.approx(slope, abs=slack)
        assert slack < 0.2 * (abs(float(terms.reconstruction[0])) + float(terms.sparsity[0]))


def test_the_sparsity_term_is_the_slope_of_l0_exactly() -> None:
    p, x = parameters(), inputs()
    z = sample_of(p, x).pre_acts
    terms = gradient_terms(sample_of(p, x), [0.4], penalty=PENALTY, bandwidth=BANDWIDTH)

    def penalty(threshold: float) -> float:
        share = ((z - threshold) / BANDWIDTH + 0.5).clamp(0, 1)
        return PENALTY * float(share.mean())

    h = 1e-6
    saved = -(penalty(0.4 + h) - penalty(0.4 - h)) / (2 * h)
    assert float(terms.sparsity[0]) == pytest.approx(saved, rel=1e-6)
    assert int(terms.in_window[0]) == int(((z - 0.4).abs() < BANDWIDTH / 2).sum())


@pytest.mark.parametrize("norm", [1.0, 1.7])
def test_saved_tensors_give_the_terms_of_training(norm: float) -> None:
    """Trained on raw / C with rows of norm n, saved folded: the same terms, from the saved file."""
    scale, p, x = 70.0, parameters(norm), inputs()
    cfg = SAEConfig(
        architecture="jumprelu",
        d_model=D_MODEL,
        d_sae=D_SAE,
        metadata={
            "training": {
                "scale": scale,
                "lambda": PENALTY,
                "settings": {"bandwidth": BANDWIDTH, "loss": {"kernel": "gaussian"}},
            }
        },
    )
    sae = folded({name: tensor.float() for name, tensor in p.items()}, scale, cfg).double()
    raw = x * scale
    z = sae.pre_acts(raw)
    acts = sae.activate(z)
    acts[:, FEATURE] = 0
    saved = FeatureSample(
        pre_acts=z[:, FEATURE],
        pull=(raw - sae.decode(acts)) @ sae.W_dec[FEATURE],
        square_norm=float(sae.W_dec[FEATURE].square().sum()),
        threshold=float(sae.effective_threshold()[FEATURE]),
    )
    units = training_units(cfg, 1.0)
    assert units.stated == ("scale", "bandwidth", "lambda")
    inside = saved.scaled(units.scale)
    assert inside.threshold == pytest.approx(norm * float(p["threshold"][FEATURE]), rel=1e-5)
    terms = gradient_terms(
        inside,
        [inside.threshold],
        penalty=PENALTY,
        bandwidth=norm * units.bandwidth,
        kernel=units.kernel,
    )
    expected = by_autograd(p, x, float(p["threshold"][FEATURE]), PENALTY, "gaussian")
    # A threshold that is n times as large has an n-th of the slope.
    assert float(terms.gradient[0]) * norm == pytest.approx(expected, rel=1e-4)


def test_units_that_an_sae_does_not_state_are_the_papers() -> None:
    cfg = SAEConfig(architecture="jumprelu", d_model=4, d_sae=8)
    units = training_units(cfg, 9.0)
    assert (units.scale, units.bandwidth, units.kernel) == (3.0, 0.001, "rectangle")
    assert (units.penalty, units.l0_target, units.stated) == (None, None, ())
    aimed = SAEConfig(
        architecture="jumprelu",
        d_model=4,
        d_sae=8,
        metadata={
            "training": {
                "settings": {"bandwidth": 0.01, "kernel": "triangular"},
                "scale": 70.0,
                "lambda": None,
                "l0_target": 32.0,
            }
        },
    )
    units = training_units(aimed, 9.0)
    assert (units.scale, units.bandwidth, units.kernel) == (70.0, 0.01, "triangular")
    assert (units.penalty, units.l0_target, units.stated) == (None, 32.0, ("scale", "bandwidth"))


def test_training_rests_where_the_loss_is_least() -> None:
    p, x = parameters(), inputs(100_000)
    thresholds = torch.linspace(0.02, 1.2, 60).tolist()
    terms = gradient_terms(sample_of(p, x), thresholds, penalty=0.3, bandwidth=0.05)
    [rest] = [each for each in resting_points(terms) if 0.1 < each < 1.0]

    def loss(threshold: float) -> float:
        sample = sample_of(p, x)
        z = sample.pre_acts
        on = 0.3 - 2 * z * sample.pull + z.square() * sample.square_norm
        return float(((z > threshold) * on).mean())

    best = min(thresholds, key=loss)
    assert rest == pytest.approx(best, abs=0.05)


def test_a_crossing_needs_tokens_in_the_windows_on_both_sides() -> None:
    """As many as it takes to say what training would do: the page says both of one threshold."""

    def crossing(below: int, above: int, high: float = 1.0) -> list[float]:
        both = torch.tensor([-1.0, high], dtype=torch.float64)
        terms = GradientTerms(
            thresholds=torch.tensor([0.2, 0.4], dtype=torch.float64),
            reconstruction=both,
            sparsity=torch.zeros_like(both),
            standard_error=torch.full_like(both, 0.1),
            in_window=torch.tensor([below, above]),
        )
        said = [tendency(float(g), 0.1, n) for g, n in zip(both, (below, above), strict=True)]
        rests = resting_points(terms)
        assert not (rests and "unclear" in said)
        return rests

    assert crossing(8, 8) == pytest.approx([0.3])
    assert crossing(8, 8, high=0.0) == pytest.approx([0.4])
    assert crossing(7, 8) == crossing(8, 7) == crossing(1, 1) == crossing(8, 0, high=0.0) == []


def test_a_tendency_needs_tokens_in_the_window() -> None:
    assert tendency(-1.0, 0.1, 100) == "raise"
    assert tendency(1.0, 0.1, 100) == "lower"
    assert tendency(0.15, 0.1, 100) == "rest"
    assert tendency(-1.0, 0.1, 7) == "unclear"


def test_the_standard_error_is_that_of_resampled_tokens() -> None:
    p, x = parameters(), inputs(2000)
    whole = sample_of(p, x)
    terms = gradient_terms(whole, [0.4], penalty=PENALTY, bandwidth=BANDWIDTH)
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for _ in range(400):
        chosen = torch.randint(len(x), (len(x),), generator=generator)
        again = FeatureSample(
            pre_acts=whole.pre_acts[chosen],
            pull=whole.pull[chosen],
            square_norm=whole.square_norm,
            threshold=whole.threshold,
        )
        each = gradient_terms(again, [0.4], penalty=PENALTY, bandwidth=BANDWIDTH)
        drawn.append(float(each.gradient[0]))
    # The deviation of 400 draws is known to 4 %.
    assert float(terms.standard_error[0]) == pytest.approx(float(np.std(drawn)), rel=0.15)


def test_mistakes_are_sentences() -> None:
    sample = sample_of(parameters(), inputs())
    with pytest.raises(ValueError, match=r"bandwidth is 0\.0 but must"):
        gradient_terms(sample, [0.4], penalty=1.0, bandwidth=0.0)
    with pytest.raises(ValueError, match=r"frequency_scale is 0\.0 but must"):
        gradient_terms(sample, [0.4], penalty=1.0, bandwidth=0.1, frequency_scale=0.0)
    with pytest.raises(ValueError, match=r"lambda is -1\.0 but must"):
        gradient_terms(sample, [0.4], penalty=-1.0, bandwidth=0.1)
