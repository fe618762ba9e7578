"""Requests for the map of features."""

from typing import Final

from app.requests.models import sae_parameter
from app.requests.parameters import Request, Whole, parameter

MOST_ON_MAP: Final = 2**18
"""Features of one map, at most."""


class MapRequest(Request):
    """The places of an SAE's features, or of some of them with their names."""

    sae: str = sae_parameter()
    features: list[Whole] | None = parameter(
        None,
        "Features",
        "Numbers of features to name, with their places; left out, the places of all that fire are "
        "given as columns.",
        unit="features",
        least=1,
        most="max_rows",
        missing="Name at least one feature, or leave the features out.",
    )
    limit: Whole = parameter(
        MOST_ON_MAP,
        "Limit",
        "Most features of the columns; of more, those that fire most often.",
        unit="features",
        least=1,
        most=MOST_ON_MAP,
    )
