"""What the model and its SAEs take of the device's memory."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.engine.memory import gigabytes
from app.render.text import escape

Data = Mapping[str, Any]

RULE: Final = "The least recently used makes room for the next; one in use never does."


def memory_html(memory: Data | None, saes: Sequence[Data]) -> str:
    """A folded part of the overview, from `Service.memory`'s and `Service.sae_facts`'s answers.

    The summary says the essential; None is a model that is not loaded yet.
    """
    if memory is None:
        return '<p class="quiet loaded">Memory: the model is not loaded yet.</p>'
    loaded = memory["saes"]
    together = sum(row["bytes"] for row in loaded)
    count = f"{len(loaded)} SAE{'' if len(loaded) == 1 else 's'}"
    words = [f"model {gigabytes(memory['model'])}"]
    words += [f"{count} {gigabytes(together)}"] if loaded else ["no SAE yet"]
    words.append(f"{gigabytes(memory['free'])} free")
    return (
        f'<details class="loaded memory"><summary>Memory <span>{escape(" · ".join(words))}</span>'
        f'</summary><div class="panel">{_bar(memory)}<dl class="facts">{_facts(memory, saes)}</dl>'
        f'<p class="quiet">SAEs take at most {gigabytes(memory["sae_limit"])} together. {RULE}</p>'
        "</div></details>"
    )


def _facts(memory: Data, saes: Sequence[Data]) -> str:
    labels = {row["name"]: row["label"] for row in saes}
    device = "the processor" if memory["device"] == "cpu" else memory["device"]
    entries = [
        ("device", f"{device}, {gigabytes(memory['free'])} of {gigabytes(memory['total'])} free"),
        ("model", gigabytes(memory["model"])),
    ]
    for row in memory["saes"]:
        in_use = ", in use now" if row["in_use"] else ""
        entries.append((labels.get(row["name"], row["name"]), gigabytes(row["bytes"]) + in_use))
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in entries
    )


def _bar(memory: Data) -> str:
    """Model, SAEs, what else is taken, and the rest, drawn to scale."""
    total = memory["total"]
    ours = [("model", memory["model"]), ("saes", sum(row["bytes"] for row in memory["saes"]))]
    others = max(0, total - memory["free"] - sum(size for _, size in ours))
    parts = "".join(
        f'<i class="{name}" style="width:{100 * size / total:.2f}%"></i>'
        for name, size in (*ours, ("others", others))
    )
    return f'<div class="share" aria-hidden="true">{parts}</div>'
