"""The request that proves a steering."""

from typing import Final

from app.requests.models import SteerRequest
from app.requests.parameters import Whole, parameter

FEWEST_SEEDS: Final = 3
MOST_SEEDS: Final = 20


class ProveRequest(SteerRequest):
    """A steering against its controls."""

    temperature: float = parameter(
        0.8,
        "Temperature",
        "Sampling temperature; above 0, at which every seed would give the same text.",
        least=0,
        most="max_temperature",
    )
    seed: Whole = parameter(
        0,
        "Seed",
        "The first seed; the others follow it. It draws the random direction too.",
        least=0,
        most=2**32 - 1 - MOST_SEEDS,
    )
    edit: Whole = parameter(
        0,
        "Proven edit",
        "Number, from 0, of the edit that is proven; the others stay in every run.",
        least=0,
    )
    seeds: Whole = parameter(
        6,
        "Seeds",
        "Runs of the edit and of each control; with fewer than 4 nothing separates.",
        unit="runs",
        least=FEWEST_SEEDS,
        most=MOST_SEEDS,
    )
