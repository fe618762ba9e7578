"""What the tests of the pages' HTML share: the service's answers, and a reader of the markup."""

from html.parser import HTMLParser
from typing import Any

VOID = {"input", "br", "meta", "link"}


class Document(HTMLParser):
    """Elements with their attributes, the text, inline code, and whether every element is closed in
    order.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.code: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"{tag} closed but not open"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["script"] and self.elements[-1][1].get("type") != "application/json":
            self.code.append(data)
        else:
            self.text += data

    def all(self, tag: str, **having: str) -> list[dict[str, str]]:
        """Attributes of the elements of that name whose attributes contain `having`."""
        return [
            attributes
            for name, attributes in self.elements
            if name == tag
            and all(value in attributes.get(key, "") for key, value in having.items())
        ]


def context(**changed: Any) -> dict[str, Any]:
    return {
        "tokens": ["He", " said", " no", ".\n", " Then"],
        "bytes": [""] * 5,
        "activations": [0.0, 4.0, 1.0, 0.0, 0.0],
        "peak": 1,
        "value": 4.0,
        "title": "A book",
        "license": "CC0",
        "source": "books",
        "document": 3,
        "offset": 9,
    } | changed


def feature(**changed: Any) -> dict[str, Any]:
    return {
        "sae": "first",
        "missing": None,
        "feature": 12,
        "signature": "said · replied",
        "previous": 11,
        "next": None,
        "frequency": 0.0061,
        "active_tokens": 18_300,
        "tokens": 3_000_000,
        "max_act": 8.0,
        "mean_act": 2.5,
        "threshold": 0.831,
        "output_score": 0.0425,
        "side_effect": 0.31,
        "writes": {
            "output_score": {"rank": 5, "of": 4096},
            "side_effect": {"rank": 2000, "of": 4096},
        },
        "unscored": None,
        "activation_histogram": {"edges": [0.831, 4.0, 8.0], "counts": [18_000, 300]},
        "pre_activation_histogram": {
            "edges": [-1.169, -0.169, 0.831, 1.831],
            "counts": [100, 10, 5],
            "below": 2_000_000,
            "above": 0,
            "threshold": 0.831,
        },
        "groups": [
            {"name": "top", "title": "Strongest", "low": 3.0, "high": 4.0, "contexts": [context()]},
            {"name": "interval_1", "title": "Weak", "low": 0.8, "high": 2.0, "contexts": []},
            {
                "name": "near_miss",
                "title": "Near misses",
                "low": 0.7,
                "high": 0.831,
                "contexts": [context(activations=[0.0] * 5, value=0.8, peak=2)],
            },
        ],
        "logits": {
            "raises": [{"token": " the", "id": 5, "bytes": "", "logit": 1.5}],
            "lowers": [{"token": "\n", "id": 6, "bytes": "", "logit": -0.5}],
        },
        "fires_on": {
            "tokens": [{"token": " said", "id": 7, "bytes": "", "share": 0.38, "lift": 40.0}],
            "sources": [{"source": "books", "share": 0.97, "lift": 2.1}],
        },
        "neighbours": [{"feature": 40, "cosine": 0.41, "signature": "cried"}],
    } | changed


def overview(**changed: Any) -> dict[str, Any]:
    sae = {
        "name": "first",
        "label": "layer 4 · resid_post · 4,096 features",
        "place": "layer 4 · resid_post",
        "site": "resid_post",
        "layer": 4,
        "architecture": "jumprelu",
        "d_model": 320,
        "d_sae": 4096,
        "d_out": 320,
        "reads": "resid_post/4",
        "writes": None,
        "skip": False,
        "k": None,
        "trained_on": "demo",
        "context_size": 256,
        "declared_l0": None,
        "repository": None,
        "folder": None,
        "revision": None,
        "weights": None,
        "content_hash": "abcd" * 16,
        "problem": None,
        "l0": 32.8,
        "fvu": 0.166,
        "delta_lm_loss": 0.23,
        "loss_recovered_mean": 0.952,
        "dead": 0.002,
    }
    return {
        "sae": "first",
        "bundle": {"name": "demo", "title": "A small model."},
        "model": {"parameters": 11_400_000, "layers": 8, "d_model": 320},
        "saes": [sae, sae | {"name": "second", "place": "layer 5 · mlp_out"}],
        "measured": sae | {"tokens": 200_000, "kl": 0.2},
        "missing": None,
        "memory": None,
        "check": {"sae": "first", "state": "unchecked", "sentence": None, "check": None},
        "index": {"tokens": 3_000_000, "totals": {"l0": 31.0, "fvu": 0.17, "dead": 0.01}},
        "definitions": {"l0": "Mean number of active features.", "fvu": "Error over variance."},
        "frequency_histogram": {"edges": [-3.0, -2.0, -1.0, 0.0], "counts": [0, 40, 3], "dead": 1},
        "highlights": [
            {
                "feature": 7,
                "signature": "wheat · corn",
                "frequency": 0.002,
                "max_act": 8.0,
                "rule": "80 % of its firing is on 2 words",
                "context": context(),
            }
        ],
    } | changed


def result(**changed: Any) -> dict[str, Any]:
    row = {
        "feature": 12,
        "signature": "said",
        "frequency": 0.01,
        "max_act": 8.0,
        "mean_act": 2.0,
        "threshold": 0.5,
        "output_score": 0.0425,
        "side_effect": 0.31,
        "starred": False,
    }
    rows = {"total": 120, "features": [row]}
    return {"sae": "first", "missing": None, "scored": True, **rows} | changed
