"""What a proof comes to: Wilson's interval, the rule, which controls are chosen, the sentence."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from sae_core.proof import Arm, Proof, Run, fewest_runs, like_frequency
from sae_core.unedited import Reading
from sae_core.wilson import wilson


@pytest.mark.parametrize(
    ("passed", "runs", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_the_published_one(
    passed: int, runs: int, low: float, high: float
) -> None:
    assert wilson(passed, runs) == pytest.approx((low, high), abs=5e-5)
    # Seen from the other side.
    assert wilson(runs - passed, runs) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilsons_interval_holds_the_rates_that_a_score_test_allows() -> None:
    """Its definition: the ends are the rates p at which |k/n - p| is z standard errors of p."""
    for passed, runs in ((3, 7), (1, 12), (40, 41)):
        for end in wilson(passed, runs, z=2.0):
            error = (end * (1 - end) / runs) ** 0.5
            assert abs(passed / runs - end) == pytest.approx(2.0 * error)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(5, 5)[1] == 1.0
    with pytest.raises(ValueError, match="6 of 5 runs"):
        wilson(6, 5)


def run_of(share: float, seed: int, tokens: int = 20) -> Run:
    """A text on whose first tokens the target fires."""
    fires = np.arange(tokens) < round(share * tokens)
    return Run(
        seed=seed,
        ids=tuple(range(tokens)),
        reading=Reading(
            acts=fires[:, None].astype(np.float32),
            logp=np.full(tokens, -2.0 - share),
            special=np.zeros(tokens, dtype=bool),
        ),
        size=None,
        changed=tokens,
    )


def proof_of(
    target: Sequence[float],
    feature: Sequence[float],
    without: Sequence[float] | None = None,
    raises: bool = True,
) -> Proof:
    def arm(kind: Any, number: int | None, shares: Sequence[float]) -> Arm:
        runs = tuple(run_of(share, seed) for seed, share in enumerate(shares))
        return Arm(kind=kind, feature=number, cosine=0.0, runs=runs)

    base = without or [0.0] * len(target)
    return Proof(
        arms=(
            arm("without", None, base),
            arm("target", 7, target),
            arm("feature", 11, base),
            arm("feature", 12, feature),
            arm("random", None, base),
            arm("opposite", 7, base),
        ),
        raises=raises,
    )


def test_a_run_passes_against_the_run_of_its_own_seed() -> None:
    """By at least a twentieth of the new tokens, however often the target fires anyway."""
    proof = proof_of([0.25, 0.25, 0.15, 0.9], [0.0] * 4, without=[0.2, 0.25, 0.1, 0.9])
    assert proof.passes(proof.target) == [True, False, True, False]
    assert proof.passes(proof.without) == [False] * 4
    down = proof_of([0.15, 0.25, 0.9, 0.0], [0.0] * 4, without=[0.2, 0.25, 0.1, 0.9], raises=False)
    assert down.passes(down.target) == [True, False, False, True]
    assert "fewer than" in down.rule
    assert "more than" in proof.rule


def test_a_text_without_tokens_passes_no_rule() -> None:
    empty = run_of(0.0, 0, tokens=0)
    for raises in (True, False):
        proof = proof_of([0.5], [0.5], raises=raises)
        target = Arm(kind="target", feature=7, cosine=1.0, runs=(empty,))
        assert proof.passes(target) == [False]


def test_it_separates_where_every_control_is_beaten() -> None:
    """One control of four that does as well is enough to fail, though the four together do not."""
    proof = proof_of([0.5] * 6, [0.0] * 6)
    assert proof.separates
    assert str(proof.rate(proof.target)) == "6 of 6 runs (61 to 100 %)"
    assert proof.sentence == (
        "Steering #7 passes 6 of 6 runs (61 to 100 %); its 4 controls pass 0 of 24, the closest, "
        "#11, 0 of 6 runs (0 to 39 %): it separates from every control."
    )
    other = proof_of([0.5] * 6, [0.5, 0.5, 0.5, 0.0, 0.0, 0.0])
    assert not other.separates
    assert other.closest.feature == 12
    assert wilson(3, 24)[1] < wilson(6, 6)[0], "all controls together would have been beaten"
    assert other.sentence.endswith(
        "the closest, #12, 3 of 6 runs (19 to 81 %): it does not separate from #12."
    )


def test_who_passes_hardly_ever_separates_from_nobody() -> None:
    proof = proof_of([0.5, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0] * 6)
    assert not proof.separates
    assert proof.sentence.endswith(
        "#11, 0 of 6 runs (0 to 39 %): it passes too few to separate from them."
    )


def test_with_too_few_runs_nothing_separates_and_it_says_so() -> None:
    assert fewest_runs() == 4
    z = 1.959964
    assert 3 < z**2 < 4, "n / (n + z²) exceeds z² / (n + z²) from here on"
    three = proof_of([1.0] * 3, [0.0] * 3)
    assert not three.separates
    assert three.sentence.endswith("With fewer than 4 runs nothing could.")
    four = proof_of([1.0] * 4, [0.0] * 4)
    assert four.separates
    assert "fewer than 4 runs" not in four.sentence


def test_likelihood_is_a_median_over_runs() -> None:
    proof = proof_of([0.5, 0.5, 0.25], [1.0, 1.0, 1.0])
    # Tokens of a run with share s cost 2 + s nats.
    assert proof.cost == (
        "Median likelihood under the unedited model, in nats per token: without the edit 2.00, "
        "steered 2.50, controls 2.00."
    )


def test_controls_are_the_features_of_nearest_frequency() -> None:
    rng = np.random.default_rng(0)
    frequencies = np.exp(rng.uniform(-9, -1, size=300))
    frequencies[rng.choice(300, 60, replace=False)] = 0.0
    frequencies[[40, 41, 42]] = frequencies[43] = 0.01
    for feature in (5, 42, 100):
        own = frequencies[feature]
        if own == 0:
            continue
        order = sorted(
            (abs(np.log(f) - np.log(own)), i)
            for i, f in enumerate(frequencies)
            if f > 0 and i not in (feature, 9)
        )
        assert like_frequency(frequencies, feature, 5, without=[9]) == [i for _, i in order[:5]]
    assert like_frequency(frequencies, 42, 3) == [40, 41, 43], "of equals the lower numbers"
    dead = int(np.flatnonzero(frequencies == 0)[0])
    rarest = np.argsort(np.where(frequencies > 0, frequencies, np.inf))[:4]
    assert like_frequency(frequencies, dead, 4) == rarest.tolist()
    assert like_frequency(np.array([0.1, 0.0, 0.2]), 0, 5) == [2], "as many as there are"


def test_a_proof_shows_its_sentence_and_each_direction_in_a_notebook() -> None:
    proof = proof_of([0.9, 1.0], [0.0, 0.1])
    html = proof._repr_html_()
    assert proof.sentence.split("(")[0].strip() in html.replace("&#x27;", "'")
    assert str(proof.rate(proof.target)) in html
    assert html.count("<tr>") == 1 + len(proof.arms)
