"""What the page of the blind test shows: where it begins, one item, or the end.

The address holds the whole plan, so that a rater leaves and comes back to the first item that is
not rated yet.
"""

from collections.abc import Mapping
from typing import Any

from app.engine.workbench import Workbench
from app.requests import RatingsRequest, parsed
from app.service import blind as service
from app.web.numbers import count, fixed
from app.web.query import whole
from app.web.templating import address
from sae_core.ratings import RatingContext
from sae_core.ratings.rating_items import INTRUDERS, OWN
from sae_core.ratings.rating_records import LONGEST_NAME
from sae_core.ratings.rating_summary import intruder_score

KINDS = (
    (
        "meaning",
        "Meaning",
        "Up to ten contexts of one feature: does one meaning account for them, and for how many?",
    ),
    (
        "intruders",
        "Intruders",
        f"{OWN} contexts of one feature and {INTRUDERS} of its near neighbours: which {INTRUDERS}?",
    ),
)
VERDICTS = (("NO", "NO"), ("MAYBE", "MAYBE"), ("YES", "YES"))
GRADES = ((1, "few"), (2, "most"), (3, "all"))
_PER_SAE, _SEED = 20, 0


def blind(workbench: Workbench, query: Mapping[str, str]) -> dict[str, Any]:
    """The form that begins a test, or where the rater of the address stands."""
    given = {
        "rater": " ".join(query.get("rater", "").split()),
        "kind": query.get("kind") or "meaning",
        "saes": query.get("saes", ""),
        "per_sae": whole(dict(query), "per_sae", _PER_SAE),
        "seed": whole(dict(query), "seed", _SEED),
    }
    request = parsed(RatingsRequest, given, workbench.settings)
    names = service.rated_saes(workbench, request.saes)
    if not request.rater:
        return {
            "view": "start",
            "kinds": KINDS,
            "given": given,
            "saes_to_rate": service.rated_saes(workbench),
            "chosen": names[0] if request.saes and len(names) == 1 else request.saes,
            "longest_name": LONGEST_NAME,
            "kept": workbench.notes.kept,
        }
    progress = service.progress_of(workbench, request)
    at = whole(dict(query), "at", -1)
    place = progress.following if at < 0 else at
    shared = {"given": given, "rated": len(progress.rated), "of": len(progress.plan)}
    if place is None:
        return shared | _end(workbench, request)
    contexts = service.item_contexts(workbench, request, place)
    return {
        **shared,
        "view": request.kind,
        "at": place,
        "again": place in progress.rated,
        "contexts": [_seen(context, n) for n, context in enumerate(contexts)],
        "back": _link(given, place - 1) if place > 0 else None,
        "onward": _link(given, -1),
        "verdicts": VERDICTS,
        "grades": GRADES,
        "intruders": INTRUDERS,
    }


def _seen(context: RatingContext, n: int) -> dict[str, Any]:
    return {
        "n": n,
        "label": f"Context {n + 1}",
        "tokens": context.tokens,
        "shares": context.shares,
        "partial": context.partial,
        "peak": context.peak,
    }


def _link(given: Mapping[str, Any], at: int) -> str:
    kept = {name: value for name, value in given.items() if value not in ("", None)}
    return address("blind", **kept, at=at if at >= 0 else None)


def _end(workbench: Workbench, request: RatingsRequest) -> dict[str, Any]:
    """What a rater is told who has rated all: in an intruder test the score beside chance."""
    sentence = ""
    if request.kind == "intruders":
        rows = service.records_of(workbench).intruders()
        mine = (" ".join(request.rater.split()), request.seed)
        score = intruder_score([row.named for row in rows if (row.rater, row.seed) == mine])
        tests = "test" if score["ratings"] == 1 else "tests"
        sentence = (
            f"You have named {score['named']} of {score['of']} intruders in "
            f"{count(score['ratings'])} {tests}; drawing at random names "
            f"{fixed(score['of'] * INTRUDERS / (OWN + INTRUDERS), 1)} of them on average."
        )
    return {"view": "end", "sentence": sentence, "start": address("blind", kind=request.kind)}
