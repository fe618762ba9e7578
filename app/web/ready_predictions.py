"""Predictions that a bundle brings, each an address of the Prompt page that explains it."""

from collections.abc import Mapping
from typing import Any

from app.engine.workbench import Workbench
from app.web.templating import address


def ready_predictions(workbench: Workbench) -> list[dict[str, str]]:
    """Title, text and address of each; what is none is left out."""
    written = workbench.bundle.examples.get("predictions", [])
    return [
        {
            "title": str(each.get("title", each["text"])),
            "text": each["text"],
            "address": _address(each),
        }
        for each in written
        if _is_prediction(each)
    ]


def _is_prediction(written: Any) -> bool:
    """Whether it names a text and a token, and features by token and number."""
    if not isinstance(written, Mapping) or not isinstance(written.get("text"), str):
        return False
    pairs = written.get("together", [])
    numbers = ("position", "feature")
    return (
        isinstance(written.get("token"), int)
        and isinstance(pairs, list)
        and all(isinstance(pair, Mapping) and pair.keys() >= {*numbers} for pair in pairs)
    )


def _address(prediction: Mapping[str, Any]) -> str:
    """Where the Prompt page shows it; js/effects.js reads what is chosen there."""
    token, together = prediction["token"], prediction.get("together", [])
    followed = prediction.get("target")
    ticks = [f"{pair['position']}.{pair['feature']}" for pair in together]
    return address(
        "prompt",
        sae=prediction.get("sae", ""),
        text=prediction["text"],
        token=token,
        next="" if followed is None else f"{token}.{followed}",
        by=prediction.get("order", ""),
        earlier="1" if prediction.get("earlier") else "",
        off="-".join([str(token), *ticks]) if ticks else "",
    )
