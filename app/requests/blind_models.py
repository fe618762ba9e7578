"""The request of ratings by people, and of one more."""

from typing import Final, Literal

from app.requests.parameters import Request, Whole, parameter

MOST_PER_SAE: Final = 200


class RatingsRequest(Request):
    """The rates of all ratings; with a rater, an item and what is said of it, one more is kept."""

    rater: str = parameter(
        "", "Rater", "Who rates; empty counts for nobody.", unit="characters", most=60
    )
    kind: Literal["meaning", "intruders"] = parameter(
        "meaning",
        "Kind",
        "What is asked: whether contexts have one meaning, or which three of twelve are another's.",
    )
    saes: str = parameter(
        "",
        "SAEs",
        "Names of the SAEs that are rated, with commas; empty is all with an index.",
        unit="characters",
        most=2000,
    )
    per_sae: Whole = parameter(
        20,
        "Features of each SAE",
        "Features of each SAE in the plan, evenly from bands of frequency.",
        unit="features",
        least=1,
        most=MOST_PER_SAE,
    )
    seed: Whole = parameter(0, "Seed", "Draws the plan.", least=0, most=2**32 - 1)
    at: Whole | None = parameter(
        None, "Item", "Place in the plan, from 0, of the item that is rated.", least=0
    )
    verdict: Literal["", "YES", "MAYBE", "NO"] = parameter(
        "", "Verdict", "Whether one meaning accounts for the item's contexts; empty rates nothing."
    )
    grade: Whole = parameter(
        0,
        "Grade",
        "For how many of the contexts it accounts: 1 few, 2 most, 3 all; 0 is none given.",
        least=0,
        most=3,
    )
    marked: list[Whole] | None = parameter(
        None,
        "Marked",
        "Places, from 0, of the three contexts that are taken for intruders.",
        most=3,
    )
