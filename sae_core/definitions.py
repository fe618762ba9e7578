"""What every number means, in a sentence; `sae_core.metrics` computes them.

Apart from it because whoever only prints a definition does not wait for PyTorch.
"""

HIGH_FREQUENCY = 0.1
"""Share of tokens from which on a feature counts as high-frequency."""

DEFINITIONS: dict[str, str] = {
    "tokens": "Tokens counted; special tokens (BOS, EOS, padding) are never counted.",
    "sink_tokens": (
        "First tokens of rows that were left out, because in this model without BOS they are "
        "attention sinks; 0 if they count."
    ),
    "l0": "L0: mean number of active features per token.",
    "fvu": (
        "FVU, fraction of variance unexplained: sum of squared reconstruction errors over the sum "
        "of squared deviations from the data set's mean activation."
    ),
    "ce_base": (
        "Cross-entropy of the untouched model, nats per token, over the tokens whose prediction "
        "the splice can affect."
    ),
    "ce_spliced": (
        "Cross-entropy with the SAE's reconstruction in place of the activation, nats per token, "
        "over the same tokens."
    ),
    "delta_lm_loss": (
        "Delta LM loss: cross-entropy with the reconstruction spliced in, minus without, nats per "
        "token, over the tokens that have a spliced one before them."
    ),
    "kl": (
        "KL divergence from the original next-token distribution to the spliced one, nats per "
        "token, over the tokens that have a spliced one before them."
    ),
    "loss_recovered_mean": (
        "Loss recovered against mean ablation: (CE with the mean activation - CE spliced) / (CE "
        "with the mean activation - CE base)."
    ),
    "loss_recovered_zero": (
        "Loss recovered against zero ablation: (CE with zeros - CE spliced) / (CE with zeros - CE "
        "base)."
    ),
    "dead": "Share of features that are never active in the sample.",
    "high_frequency": (
        f"Share of features active on at least {100 * HIGH_FREQUENCY:g} % of the tokens."
    ),
    "frequency": "Share of tokens on which a feature is active.",
    "uniformity": (
        "Uniformity: e to the entropy of the active features' absolute effects on the correct next "
        "token's mean-centred logit, over their number."
    ),
}

EFFECT_DEFINITIONS: dict[str, str] = {
    "p": "Probability of a next token, by the model as it is.",
    "p_spliced": (
        "Probability of a next token with the SAE's reconstruction in place of every activation "
        "that counts."
    ),
    "effect_kl": (
        "KL in nats from the model's next-token distribution to the one with this activation alone "
        "set to 0, the SAE's error kept."
    ),
    "effect_dlogp": (
        "Change of the followed next token's log-probability, nats, when this activation alone is "
        "set to 0: below 0, the feature speaks for that token."
    ),
    "effect_estimate": (
        "Estimate of that change, not a measurement: minus the activation times the gradient."
    ),
    "rank_correlation": (
        "Spearman's rank correlation of the estimates with the measured changes, over the pairs "
        "that have both: 1 if the estimates order them alike."
    ),
    "share": "The activation over the feature's largest in the index.",
    "lift": (
        "The activation over the feature's mean activation on all tokens of the index, also those "
        "on which it is 0: how many times more than usual."
    ),
    "joint": (
        "All ticked activations set to 0 at once; beyond the sum is what that does in excess of "
        "the sum of what each does alone."
    ),
}
"""Numbers of a prediction: `sae_core.effects` computes them."""

SCORE_DEFINITIONS: dict[str, str] = {
    "output_score": (
        "Output score, from 0 to 1: the highest probability among the 20 tokens that the feature "
        "raises most, times 1 minus that token's rank over the vocabulary, after its activation is "
        "raised by 10 times the largest one at the end of a neutral prompt."
    ),
    "side_effect": (
        "Side effect: KL in nats from the model's next-token distribution to the one after a push "
        "along the feature's direction at the end of a neutral prompt, for all features by half "
        "the activation's norm."
    ),
}
"""Numbers of what a feature writes: `sae_core.index.output_scores` computes them."""

EXPLANATION_DEFINITIONS: dict[str, str] = {
    "correlation": (
        "Pearson's correlation of the activations that a model simulates from an explanation, 0 to "
        "10, with the true ones, over all tokens of contexts that did not explain, half of them "
        "without the feature."
    ),
    "detection": (
        "Balanced accuracy: the mean of the share of texts with the feature that a model tells by "
        "an explanation, and of those without it; 0.5 is chance."
    ),
    "detection_interval": (
        "Interval of 95 % of the balanced accuracy, which joins Wilson's intervals of the two "
        "shares by the squares of their distances."
    ),
}
"""Numbers of an explanation: `sae_core.explain.explanation_scores` computes them."""

RATING_DEFINITIONS: dict[str, str] = {
    "verdict_rate": (
        "Share of ratings with a verdict, YES, MAYBE or NO, to whether one meaning accounts for a "
        "feature's contexts, with Wilson's interval of 95 %."
    ),
    "grade": (
        "Mean of the grades from 1 to 3: that meaning accounts for few, for most or for all of the "
        "contexts."
    ),
    "intruders_named": (
        "Share of contexts of near neighbours that raters tell from a feature's own, 3 among 12; "
        "chance is 0.25."
    ),
    "intruder_p": (
        "Probability that drawing 3 of 12 at random each time names as many intruders or more."
    ),
    "kappa": (
        "Cohen's kappa of two raters on the features that both rated under the same seed, whose "
        "contexts are the same: (p_o - p_e) / (1 - p_e), p_o "
        "the share rated alike, p_e the same if they were independent with their own rates."
    ),
    "alpha": (
        "Krippendorff's alpha of all raters on the features that two or more rated: 1 minus "
        "observed over expected disagreement, where NO, MAYBE and YES are ordered."
    ),
}
"""Numbers of people's ratings: `sae_core.ratings` computes them."""
