"""What the page of the map shows before its points are there: how the map was computed, and what it
means. The points are the browser's to ask for (js/map.js).
"""

from collections.abc import Mapping
from typing import Any, Final

from app.engine.indexes import map_command
from app.engine.workbench import Workbench
from app.service.features import missing
from app.service.map_points import MAP_DEFINITIONS
from app.web.numbers import percent
from app.web.query import whole

COLOURS: Final = (
    ("frequency", "how often they fire"),
    ("source", "source of their strongest contexts"),
    ("score", "output score"),
)
"""(value in the address, words) of what points are coloured by."""


def map_page(workbench: Workbench, query: Mapping[str, str]) -> dict[str, Any]:
    """The page of an SAE's map; ValueError for an address that means nothing."""
    name = workbench.sae_name(query.get("sae"))
    without = missing(workbench, name)
    if without is not None:
        return {"missing": without}
    index = workbench.sources.index(name)
    placed = index.feature_map
    if placed is None:
        return {"missing": None, "command": map_command(workbench.bundle, name)}
    colourings = [each for each in COLOURS if each[0] != "score" or index.has_output_scores]
    colour = query.get("colour", "frequency")
    if colour not in {value for value, _ in COLOURS}:
        choices = ", ".join(value for value, _ in COLOURS)
        raise ValueError(f"The map cannot be coloured by “{colour}”: choose one of {choices}.")
    if colour not in {value for value, _ in colourings}:
        colour = "frequency"  # from the map of another SAE, which has scores
    marked = whole(dict(query), "feature", 0) if query.get("feature") else None
    if marked is not None:
        marked = workbench.feature_number(name, marked)
    return {
        "missing": None,
        "command": None,
        "method": placed.settings["method"],
        "how": how(placed.settings),
        "kept": kept(placed.settings),
        "definitions": MAP_DEFINITIONS,
        "colourings": colourings,
        "colour": colour,
        "q": query.get("q", ""),
        "marked": marked,
    }


def how(computed: Mapping[str, Any]) -> str:
    """How a map was computed, in a sentence."""
    if computed["method"] == "pca":
        first, second = (percent(share) for share in computed["variance"])
        return (
            f"PCA (PyTorch {computed['version']}) of the decoder directions; the two axes hold "
            f"{first} and {second} of their variance."
        )
    return (
        f"UMAP (umap-learn {computed['version']}) of the decoder directions by cosine: "
        f"{computed['neighbours']} neighbours, min_dist {computed['min_dist']:g}, "
        f"{computed['rounds']} rounds from PCA, seed {computed['seed']}."
    )


def kept(computed: Mapping[str, Any]) -> str:
    """How well a map keeps neighbours, in a sentence; "" where that was not measured."""
    if computed["kept"] is None:
        return ""
    return (
        f"Of a feature’s 10 nearest directions {percent(computed['kept'])} are among its 10 "
        f"nearest on the map; by chance it would be {percent(computed['by_chance'])}."
    )
