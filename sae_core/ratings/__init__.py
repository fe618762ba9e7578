"""People's ratings of features whose SAE and number they do not see: plans, items, rates."""

from sae_core.ratings.agreement import cohens_kappa, krippendorffs_alpha
from sae_core.ratings.rating_items import (
    RatingContext,
    has_intruder_tests,
    intruder_contexts,
    meaning_contexts,
)
from sae_core.ratings.rating_plan import BANDS, PlannedItem, rating_plan
from sae_core.ratings.rating_records import IntruderRating, MeaningRating, RatingRecords
from sae_core.ratings.rating_summary import intruder_rates, meaning_rates

__all__ = [
    "BANDS",
    "IntruderRating",
    "MeaningRating",
    "PlannedItem",
    "RatingContext",
    "RatingRecords",
    "cohens_kappa",
    "has_intruder_tests",
    "intruder_contexts",
    "intruder_rates",
    "krippendorffs_alpha",
    "meaning_contexts",
    "meaning_rates",
    "rating_plan",
]
