"""Where an SAE's features are on their map, and what they are coloured by."""

import base64
from typing import Any, Final

import numpy as np

from app.engine.indexes import map_command
from app.engine.workbench import Workbench
from app.requests import MapRequest, RequestError
from sae_core.index import Index

MAP_DEFINITIONS: Final = {
    "umap": "Features whose decoder directions are near each other by cosine tend to be near each "
    "other here. Distances between groups, the axes and empty space mean nothing.",
    "pca": "Decoder directions projected onto the two axes in which they vary most. Features that "
    "are near each other here need not be alike: the other axes are left out.",
    "kept": "Share of a feature's 10 nearest decoder directions that are among the 10 nearest to "
    "it on the map; by chance it would be 10 over the number of features.",
    "source": "The source of text that most of the feature's strongest contexts are from.",
}


def map_points(workbench: Workbench, request: MapRequest) -> dict[str, Any]:
    """Places of the features that fire, as columns, with frequency, output score and source; or
    those of some features, with their names.

    A column is `dtype` (numpy's name, little-endian) and `data` in base64. `x` runs to the right
    and `y` upwards, both in 65,535ths of one square; a `source` is its place in `sources`.
    """
    name = workbench.sae_name(request.sae)
    index = workbench.sources.index(name)
    placed = index.feature_map
    if placed is None:
        raise RequestError(
            f"This index has no map: {map_command(workbench.bundle, name)} adds it.", "sae"
        )
    frequency = index.frequencies()
    fires = frequency > 0
    answer: dict[str, Any] = {
        "sae": name,
        "computed": placed.settings,
        "total": len(frequency),
        "dead": int((~fires).sum()),
        "scored": index.has_output_scores,
        "sources": [row["source"] for row in index.meta["sources"]],
        "definitions": MAP_DEFINITIONS,
    }
    if request.features is not None:
        numbers = [workbench.feature_number(name, each) for each in request.features]
        return answer | {"features": _named(index, numbers, placed.places)}
    order = np.flatnonzero(fires)
    if len(order) > request.limit:
        most = np.argsort(-frequency[order], kind="stable")[: request.limit]
        order = np.sort(order[most])
    columns = {
        "feature": (order, "<u4"),
        "x": (placed.places[order, 0], "<u2"),
        "y": (placed.places[order, 1], "<u2"),
        "frequency": (frequency[order], "<f4"),
        "source": (index.main_sources()[order], "<u2"),
    }
    if index.has_output_scores:
        columns["output_score"] = (index.output_scores()[order], "<f4")
    return answer | {
        "shown": len(order),
        "columns": {key: _column(values, dtype) for key, (values, dtype) in columns.items()},
    }


def _column(values: np.ndarray, dtype: str) -> dict[str, str]:
    data = np.ascontiguousarray(values, dtype).tobytes()
    return {"dtype": dtype, "data": base64.b64encode(data).decode()}


def _named(index: Index, numbers: list[int], places: np.ndarray) -> list[dict[str, Any]]:
    """What a list says of each of these features, in their order."""
    rows, sources = index.summaries(numbers), index.main_sources()
    names = [row["source"] for row in index.meta["sources"]]
    return [
        {
            "feature": number,
            "signature": rows[number]["signature"],
            "frequency": rows[number]["frequency"],
            "output_score": rows[number]["output_score"],
            "source": None if sources[number] < 0 else names[sources[number]],
            "x": int(places[number, 0]),
            "y": int(places[number, 1]),
        }
        for number in numbers
    ]
