"""Rates of ratings with their intervals, beside chance, and how far raters agree."""

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sae_core.ratings.agreement import cohens_kappa, krippendorffs_alpha
from sae_core.ratings.rating_items import INTRUDERS, OWN
from sae_core.ratings.rating_records import VERDICTS, IntruderRating, MeaningRating
from sae_core.wilson import wilson

CHANCE = INTRUDERS / (OWN + INTRUDERS)
"""Share of intruders that who draws at random names."""


def meaning_rates(ratings: Sequence[MeaningRating], names: Mapping[str, str]) -> dict[str, Any]:
    """Rates per SAE (hash to name in `names`), per rater and per band, and agreement on what
    several saw: the same feature by the same seed, whose contexts are the same.
    """
    by_item: dict[tuple[str, int, int], dict[str, str]] = defaultdict(dict)
    for each in ratings:
        by_item[each.sae_hash, each.feature, each.seed][each.rater] = each.verdict
    raters = sorted({each.rater for each in ratings})
    pairs = []
    for one, other in itertools.combinations(raters, 2):
        both = [(u[one], u[other]) for u in by_item.values() if one in u and other in u]
        kappa = cohens_kappa(both)
        pairs.append({"raters": [one, other], "features": len(both), "kappa": kappa})
    units = [list(unit.values()) for unit in by_item.values()]
    return {
        "ratings": len(ratings),
        "features": len({(each.sae_hash, each.feature) for each in ratings}),
        "raters": raters,
        "saes": [
            {
                **_named(sae_hash, names),
                **_verdicts(rows),
                "by_rater": [
                    {"rater": rater, **_verdicts([r for r in rows if r.rater == rater])}
                    for rater in sorted({row.rater for row in rows})
                ],
                "by_band": [
                    {"band": band, **_verdicts([r for r in rows if r.band == band])}
                    for band in dict.fromkeys(row.band for row in rows)
                ],
            }
            for sae_hash, rows in _by_sae(ratings)
        ],
        "alpha": krippendorffs_alpha(units, VERDICTS),
        "rated_by_several": sum(len(unit) > 1 for unit in units),
        "kappas": pairs,
    }


def intruder_rates(ratings: Sequence[IntruderRating], names: Mapping[str, str]) -> dict[str, Any]:
    """Share of intruders named per SAE and per rater, beside chance."""
    return {
        "ratings": len(ratings),
        "features": len({(each.sae_hash, each.feature) for each in ratings}),
        "raters": sorted({each.rater for each in ratings}),
        "chance": CHANCE,
        "saes": [
            {
                **_named(sae_hash, names),
                **intruder_score([row.named for row in rows]),
                "by_rater": [
                    {
                        "rater": rater,
                        **intruder_score([row.named for row in rows if row.rater == rater]),
                    }
                    for rater in sorted({row.rater for row in rows})
                ],
            }
            for sae_hash, rows in _by_sae(ratings)
        ],
    }


def intruder_score(named: Sequence[int]) -> dict[str, Any]:
    """Intruders named in several tests, their share, and how likely chance does as well."""
    total = sum(named)
    return {
        "ratings": len(named),
        "named": total,
        "of": INTRUDERS * len(named),
        "intruders_named": total / (INTRUDERS * len(named)) if named else math.nan,
        "intruder_p": chance_of(total, len(named)) if named else math.nan,
    }


def chance_of(named: int, tests: int) -> float:
    """Probability that drawing three of twelve at random in each test names so many or more."""
    size = OWN + INTRUDERS
    one = [
        math.comb(INTRUDERS, k) * math.comb(OWN, INTRUDERS - k) / math.comb(size, INTRUDERS)
        for k in range(INTRUDERS + 1)
    ]
    sums = [1.0]
    for _ in range(tests):
        longer = [0.0] * (len(sums) + INTRUDERS)
        for total, p in enumerate(sums):
            for k, q in enumerate(one):
                longer[total + k] += p * q
        sums = longer
    return min(1.0, math.fsum(sums[named:]))


def _verdicts(rows: Sequence[MeaningRating]) -> dict[str, Any]:
    """How many ratings, and the share of each verdict with its interval; YES first."""
    n = len(rows)
    verdicts = []
    for verdict in reversed(VERDICTS):
        count = sum(row.verdict == verdict for row in rows)
        low, high = wilson(count, n)
        verdicts.append(
            {
                "verdict": verdict,
                "count": count,
                "rate": count / n if n else math.nan,
                "low": low,
                "high": high,
            }
        )
    grade = sum(row.grade for row in rows) / n if n else math.nan
    return {"ratings": n, "verdicts": verdicts, "grade": grade}


def _by_sae(ratings: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    groups: dict[str, list[Any]] = defaultdict(list)
    for each in ratings:
        groups[each.sae_hash].append(each)
    return list(groups.items())


def _named(sae_hash: str, names: Mapping[str, str]) -> dict[str, str]:
    """An SAE by its name, or by its hash if it is none of those that are served."""
    return {"sae": names.get(sae_hash, sae_hash[:12]), "sae_hash": sae_hash}
