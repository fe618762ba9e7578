"""What the model and its SAEs take of the device's memory, as the overview shows it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.web.numbers import gigabytes

Data = Mapping[str, Any]

RULE: Final = "The least recently used makes room for the next; one in use never does."


def memory_view(memory: Data | None, saes: Sequence[Data]) -> dict[str, Any] | None:
    """Summary, bar and facts from `app.service.overview.memory`; None before there is a model."""
    if memory is None:
        return None
    loaded = memory["saes"]
    together = sum(row["bytes"] for row in loaded)
    words = [f"model {gigabytes(memory['model'])}"]
    words.append(
        f"{len(loaded)} SAE{'' if len(loaded) == 1 else 's'} {gigabytes(together)}"
        if loaded
        else "no SAE yet"
    )
    words.append(f"{gigabytes(memory['free'])} free")
    return {
        "summary": " · ".join(words),
        "parts": _shares(memory, together),
        "facts": _facts(memory, saes),
        "rule": f"SAEs take at most {gigabytes(memory['sae_limit'])} together. {RULE}",
    }


def _shares(memory: Data, together: int) -> list[tuple[str, float]]:
    """Shares of model, SAEs and what else is taken; the rest is free."""
    total, model = memory["total"], memory["model"]
    others = max(0, total - memory["free"] - model - together)
    return [("model", model / total), ("saes", together / total), ("others", others / total)]


def _facts(memory: Data, saes: Sequence[Data]) -> list[tuple[str, str]]:
    labels = {row["name"]: row["label"] for row in saes}
    device = "the CPU" if memory["device"] == "cpu" else memory["device"]
    room = f"{gigabytes(memory['free'])} of {gigabytes(memory['total'])} free"
    return [
        ("device", f"{device}, {room}"),
        ("model", gigabytes(memory["model"])),
        *(
            (
                labels.get(row["name"], row["name"]),
                gigabytes(row["bytes"]) + (", in use now" if row["in_use"] else ""),
            )
            for row in memory["saes"]
        ),
    ]
