"""One feature of an index as a notebook shows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sae_core import notebook
from sae_core.index import Index

CONTEXTS = 6
"""Of the strongest contexts."""


@dataclass(frozen=True)
class ShownFeature:
    """What an index holds of a feature, `Index.feature`, that shows itself in a notebook."""

    data: Mapping[str, Any]

    def __repr__(self) -> str:
        """Its number and signature, in one line."""
        return f"ShownFeature(#{self.data['feature']}: {self.data['signature']})"

    def _repr_html_(self) -> str:
        data = self.data
        parts = [
            notebook.facts(
                {
                    "fires on": float(data["frequency"]),
                    "largest": float(data["max_act"]),
                    "threshold": float(data["threshold"]),
                }
            )
        ]
        if histogram := data["pre_activation_histogram"]:
            parts.append(notebook.words("pre-activations, counts on a log scale"))
            parts.append(
                notebook.histogram(
                    histogram["edges"], histogram["counts"], "Pre-activations", data["threshold"]
                )
            )
        for context in [each for group in data["groups"] for each in group["contexts"]][:CONTEXTS]:
            parts.append(
                notebook.heat_map(
                    context["tokens"], context["activations"], data["max_act"], "Context"
                )
            )
        logits = data["logits"]
        for name in ("raises", "lowers"):
            rows = [(repr(each["token"]), float(each["logit"])) for each in logits[name] or ()]
            if rows:
                parts.append(notebook.table((name, "logit"), rows, most=5))
        rows = [
            (f"#{each['feature']}", each["signature"], float(each["cosine"]))
            for each in data["neighbours"]
        ]
        if rows:
            parts.append(notebook.table(("neighbour", "", "cosine"), rows, most=5))
        return notebook.page(f"#{data['feature']} {data['signature']}", *parts)


def show_feature(index: Index, feature: int) -> ShownFeature:
    """A feature of an index, to be shown; ValueError for one that there is not."""
    return ShownFeature(index.feature(feature))
