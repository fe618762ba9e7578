"""An index in the layout of Neuronpedia's exports: gzipped JSON lines, in batches of features.

    v1/MODEL/SOURCE/features/batch-N.jsonl.gz       logits, frequency, histogram
    v1/MODEL/SOURCE/activations/batch-N.jsonl.gz    a context a line
    v1/MODEL/SOURCE/explanations/batch-N.jsonl.gz   signatures, as explanations of type jumpscope

A source is `LAYER-SET`, such as `20-gemmascope-res-16k`. Near misses are left out, since nothing
fires in them. The files are the same bytes whenever they are written.
"""

import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from sae_core.files import atomic_folder
from sae_core.index.feature_pages import FEATURES, Page
from sae_core.index.store import Index
from sae_core.index.view_files import refuse_existing

BATCH: Final = 256
"""Features of a file."""
_SITES: Final = {"resid_post": "res", "mlp_out": "mlp", "attn_out": "att"}
_KINDS: Final = ("features", "activations", "explanations")


class _PageKept(Index):
    """An index for whoever goes through its features in order: a page is unpacked once for all
    features in it. It is open as long as the index that it is made of.
    """

    def __init__(self, index: Index) -> None:
        vars(self).update(vars(index))
        self._kept: tuple[int, Page] | None = None

    def _page(self, feature: int) -> tuple[Page, int]:
        number, at = divmod(feature, FEATURES)
        if self._kept is None or self._kept[0] != number:
            self._kept = (number, super()._page(feature)[0])
        return self._kept[1], at


def write_neuronpedia(
    index: Index, out: Path, source: str = "", progress: Callable[[int], None] = lambda done: None
) -> Path:
    """Write the folder `out`; returns the folder of the source in it.

    `source` names it, by default `LAYER-jumpscope-SITE-WIDTHk`. `progress` hears how many features
    are done. ValueError with one sentence if `out` is there already, or the disk is full.
    """
    refuse_existing(out)
    meta = index.meta
    model = str(meta["model_name"]).partition("@")[0].rpartition("/")[2]
    source = source or _source_of(meta)
    if not source or set(source) & set("/\\") or not source.split("-")[0].isdigit():
        raise ValueError(f"{source!r} is no source: name it as 20-gemmascope-res-16k.")
    d_sae = int(meta["d_sae"])
    pages = _PageKept(index)
    with atomic_folder(out) as folder:
        root = folder / "v1" / model / source
        for kind in _KINDS:
            (root / kind).mkdir(parents=True)
        for batch, first in enumerate(range(0, d_sae, BATCH)):
            lines: dict[str, list[Mapping[str, Any]]] = {kind: [] for kind in _KINDS}
            for feature in range(first, min(first + BATCH, d_sae)):
                data = pages.feature(feature)
                names = {"modelId": model, "layer": source, "index": str(feature)}
                lines["features"].append(names | _feature(data))
                lines["activations"] += (names | each for each in _activations(data))
                lines["explanations"].append(names | _explanation(data))
            for kind, records in lines.items():
                _write(root / kind / f"batch-{batch}.jsonl.gz", records)
            progress(min(first + BATCH, d_sae))
    return out / "v1" / model / source


def _source_of(meta: Mapping[str, Any]) -> str:
    site, _, layer = str(meta["site"]).partition("/")
    width = int(meta["d_sae"])
    words = f"{width // 1024}k" if width % 1024 == 0 else str(width)
    return f"{layer}-jumpscope-{_SITES.get(site, site.replace('_', ''))}-{words}"


def _feature(data: Mapping[str, Any]) -> dict[str, Any]:
    raises, lowers = data["logits"]["raises"], data["logits"]["lowers"]
    histogram = data["activation_histogram"]
    return {
        "maxActApprox": data["max_act"],
        "frac_nonzero": data["frequency"],
        "pos_str": [row["token"] for row in raises],
        "pos_values": [row["logit"] for row in raises],
        "neg_str": [row["token"] for row in lowers],
        "neg_values": [row["logit"] for row in lowers],
        "freq_hist_data_bar_values": histogram["edges"][:-1],
        "freq_hist_data_bar_heights": histogram["counts"],
    }


def _activations(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for group in data["groups"]:
        if group["name"] == "near_miss":
            continue
        for context in group["contexts"]:
            values = context["activations"]
            yield {
                "tokens": context["tokens"],
                "values": values,
                "maxValue": context["value"],
                "maxValueTokenIndex": context["peak"],
                "minValue": min(values),
                "binMin": group["low"],
                "binMax": group["high"],
                "dataSource": context["source"],
            }


def _explanation(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "description": data["signature"],
        "explanationModelName": None,
        "typeName": "jumpscope-signature",
    }


def _write(path: Path, records: list[Mapping[str, Any]]) -> None:
    with path.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
        text = io.TextIOWrapper(packed, encoding="utf-8", newline="\n")
        for record in records:
            text.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        text.flush()
        text.detach()
