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
