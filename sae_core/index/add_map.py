"""`jumpscope index --add-map`: a map of the features for indexes that exist."""

import time
from collections.abc import Sequence
from typing import Any

from sae_core.bundle import Bundle
from sae_core.index.add_scores import own_index
from sae_core.index.changes import put_map
from sae_core.index.feature_map import NEIGHBOURS, check_method, feature_map
from sae_core.index.index_checkpoint import only_build
from sae_core.index.index_config import MapMethod
from sae_core.index.logits import neighbours
from sae_core.placement import Device, chosen_device, wide_device


def add_map(
    bundle: Bundle,
    saes: Sequence[str] = (),
    *,
    method: MapMethod = "auto",
    device: Device = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Place the features of some SAEs (none named: of all), and put the maps into their indexes, in
    place of any that are there; the language model is not read.

    Nothing else in an index changes. Returns `{"seconds", "indexes": [{"sae", "path", "bytes",
    "features", "method", "kept"}]}`. Raises ValueError with one sentence for an SAE without an
    index, or with one of other weights, and for a method that is not installed.
    """
    if method == "off":
        raise ValueError("--add-map adds a map: give --map auto, umap or pca.")
    check_method(method)
    names = list(dict.fromkeys(saes)) or list(bundle.sae_names)
    place = wide_device(chosen_device(device))
    started = time.monotonic()
    results = []
    with only_build([bundle.index_path(name) for name in names]):
        for name in names:
            with own_index(bundle, name):
                pass  # a mistake is said before anything is computed
        for name in names:
            sae = bundle.load_sae(name, place)
            near, cosine = neighbours(sae, NEIGHBOURS)
            placed = feature_map(sae, near, cosine, method=method, seed=seed)
            assert placed is not None
            path = bundle.index_path(name)
            put_map(path, placed)
            results.append(
                {
                    "sae": name,
                    "path": str(path),
                    "bytes": path.stat().st_size,
                    "features": len(placed.places),
                    "method": placed.settings["method"],
                    "kept": placed.settings["kept"],
                }
            )
    return {"seconds": round(time.monotonic() - started, 1), "indexes": results}
