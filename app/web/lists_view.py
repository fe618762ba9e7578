"""What the page of lists shows: all of them with what is saved, or one with its features."""

from collections.abc import Mapping
from typing import Any, Final

from app.engine.workbench import Workbench
from app.service import lists as service
from app.web.numbers import count, one_in
from app.web.templating import address
from sae_core.notes import feature_lists, saved_pages

NEAR: Final = (24, 10)
"""Tokens of a context before and after its peak."""
_LABELS: Final = {"prompt": "prompt", "steering": "steering", "proof": "proof of a steering"}


def lists(workbench: Workbench, query: Mapping[str, str]) -> dict[str, Any]:
    """The list that the address names, else all; ValueError if there is no such list."""
    there = service.lists_there(workbench)
    shared = {
        "can_keep": there["can_keep"],
        "refused": there["problem"],
        "longest_name": feature_lists.MOST_NAME,
    }
    if list_id := query.get("list", ""):
        chosen = service.list_with_features(workbench, list_id)
        return {"view": "list", "list": shown_list(workbench, chosen), **shared}
    saved = service.saved_there(workbench)
    return {
        "view": "all",
        "lists": [
            {
                **each,
                "size": f"{count(each['size'])} feature{'' if each['size'] == 1 else 's'}",
                "href": address("lists", list=each["id"]),
            }
            for each in there["lists"]
        ],
        "saved": [
            {**each, "kind": _LABELS[each["kind"]], "made": each["made"][:10]}
            for each in saved["saved"]
        ],
        "longest_saved": saved_pages.MOST_NAME,
        **shared,
    }


def shown_list(workbench: Workbench, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """A list's values for templates: what `service.list_with_features` answers, and addresses."""
    first = workbench.sae_name()
    labels = {each["name"]: each["label"] for each in workbench.saes()}
    rows = []
    last = len(chosen["features"]) - 1
    for place, each in enumerate(chosen["features"]):
        name = each["sae"]
        in_address = "" if name == first else name
        rows.append(
            {
                **each,
                "id": f"{each['sae_hash'][:8]}-{each['feature']}",
                "name": each["label"] or each.get("signature", ""),
                "own_signature": each.get("signature", "") if each["label"] else "",
                "place": place,
                "up": place > 0,
                "down": place < last,
                "sae_label": labels.get(name, name) if each["here"] else name,
                "href": address("features", sae=in_address, feature=each["feature"])
                if each["here"]
                else None,
                "often": f"fires on {one_in(each['frequency'])} tokens"
                if each.get("frequency")
                else "",
                "heat": _heat(each.get("context"), each.get("max_act")),
            }
        )
    files = {kind: address(f"lists.{kind}", list=chosen["id"]) for kind in ("json", "html")}
    return {
        "id": chosen["id"],
        "name": chosen["name"],
        "rows": rows,
        "files": files,
        "saes": _saes(rows),
    }


def _heat(context: Mapping[str, Any] | None, scale: float | None) -> dict[str, Any] | None:
    """A few tokens around the peak of a context, whose colours are shares of the largest."""
    if not context:
        return None
    peak = context["peak"]
    begin, end = max(0, peak - NEAR[0]), peak + NEAR[1] + 1
    cut = {"cut-before": begin > 0, "cut-after": end < len(context["tokens"])}
    return {
        **{key: context[key][begin:end] for key in ("tokens", "bytes", "activations")},
        "peak": peak - begin,
        "cut": " ".join(name for name, is_cut in cut.items() if is_cut),
        "scale": scale,
    }


def _saes(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The SAEs of a list's features, once each, with their hashes."""
    saes = {each["sae_hash"]: each["sae"] for each in rows}
    return [{"name": name, "hash": sae_hash} for sae_hash, name in saes.items()]
