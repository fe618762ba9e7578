"""The request about one feature's threshold."""

from typing import Final

from app.requests.models import feature_parameter, sae_parameter
from app.requests.parameters import Request, Whole, parameter

MOST_LAB_TOKENS: Final = 4000
"""Tokens of the check's text that are measured on, at most."""


class ThresholdRequest(Request):
    """What another threshold would do on the check's text."""

    feature: Whole = feature_parameter()
    sae: str = sae_parameter()
    threshold: float | None = parameter(
        None,
        "Threshold",
        "Another threshold, in the activation's own units; empty is the feature's own.",
        least=0,
        most="max_value",
    )
    measured: bool = parameter(
        True,
        "Measured",
        "Whether L0, FVU and delta LM loss are measured too, with the SAE spliced in as it is, "
        "with this threshold, and as plain ReLU: up to four runs of the model beside the one to "
        "its site.",
    )
    penalty: float | None = parameter(
        None,
        "Lambda",
        "The sparsity penalty's lambda, in training's units; empty is the run's, or where it "
        "states none the one with which the SAE's features together are at rest.",
        least=0,
        most="max_value",
    )
    bandwidth: float | None = parameter(
        None,
        "Bandwidth",
        "The kernel's bandwidth, in training's units; empty is the run's, or where it states none "
        "the paper's 0.001.",
        least=1e-9,
        most="max_value",
    )
    tokens: Whole = parameter(
        MOST_LAB_TOKENS,
        "Tokens",
        "About how many tokens of the check's text to measure on.",
        unit="tokens",
        least=100,
        most=MOST_LAB_TOKENS,
    )
