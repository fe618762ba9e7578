"""A map of an SAE's features: each decoder direction a place on a plane.

Two methods. *UMAP* (arXiv 1802.03426, by umap-learn) lays out the graph of nearest decoder
directions, so that neighbours on the map tend to be neighbours by cosine; distances between groups,
and the axes, mean nothing. *PCA* projects the directions onto the two axes in which they vary most;
it is linear, and of thousands of nearly orthogonal directions two axes show a percent or two. What
was used is kept with the map, and how well it keeps neighbours is measured.
"""

import importlib.metadata
import logging
import threading
import warnings
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.index.index_config import MapMethod
from sae_core.index.map_reader import FeatureMap
from sae_core.placement import in_float64
from sae_core.sae import SAE

log = logging.getLogger(__name__)

NEIGHBOURS = 15
"""Nearest directions of each feature that UMAP lays out."""
MIN_DIST = 0.1
"""UMAP's: how close to each other it may put neighbours."""
FEWEST, MOST = 1024, 2**18
"""Features between which `auto` takes UMAP: of fewer 15 are no neighbourhood, of more it takes many
minutes."""
KEPT_OF = 10
"""Neighbours that are looked for again on the map."""
_LARGE = 10_000
"""Features from which UMAP takes 200 rounds in place of 500, as it does by itself."""
_LINALG = threading.Lock()
"""PyTorch loads what it has for CUDA at the first call, and fails if two threads make that."""
_ROWS = 2**14
_SAMPLE = 1024
_INSTALL = "umap-learn is not installed: run pip install 'jumpscope[map]', or give --map pca."


def umap_is_there() -> bool:
    """Whether umap-learn is installed; it is not imported."""
    try:
        importlib.metadata.version("umap-learn")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def check_method(method: MapMethod) -> None:
    """ValueError if a map is asked for that cannot be computed here."""
    if method == "umap" and not umap_is_there():
        raise ValueError(_INSTALL)


def chosen_method(method: MapMethod, d_sae: int) -> Literal["umap", "pca", "off"]:
    """`auto` is UMAP where umap-learn is installed and there are 1,024 to 262,144 features, and
    else PCA; ValueError if UMAP is asked for and not there.
    """
    check_method(method)
    if method != "auto":
        return method
    return "umap" if FEWEST <= d_sae <= MOST and umap_is_there() else "pca"


@torch.no_grad()
def feature_map(
    sae: SAE,
    neighbours: Int[Tensor, "d_sae k"],
    cosines: Float[Tensor, "d_sae k"],
    *,
    method: MapMethod = "auto",
    seed: int = 0,
    rounds: int | None = None,
) -> FeatureMap | None:
    """The map of an SAE's features, or None for `off`.

    `neighbours` and `cosines` are of the nearest decoder directions of each feature, nearest first,
    as `sae_core.index.logits.neighbours` finds them, `NEIGHBOURS` or more unless there are fewer
    features. With UMAP `seed` decides the map (PCA has no chance in it), and `rounds` is how often
    each edge is pulled; None takes 500, or 200 from 10,000 features on.
    """
    chosen = chosen_method(method, len(neighbours))
    if chosen == "off":
        return None
    flat, variance = principal_places(sae.W_dec)
    if chosen == "pca":
        settings: dict[str, Any] = {
            "method": "pca",
            "version": torch.__version__.partition("+")[0],
            "variance": [round(share, 6) for share in variance],
        }
    else:
        rounds = rounds or (500 if len(flat) < _LARGE else 200)
        log.info("placing %s features by UMAP", f"{len(flat):,}")
        flat = _by_umap(flat, neighbours, cosines, seed, rounds)
        settings = {
            "method": "umap",
            "version": importlib.metadata.version("umap-learn"),
            "neighbours": min(NEIGHBOURS, neighbours.shape[1]),
            "min_dist": MIN_DIST,
            "metric": "cosine",
            "rounds": rounds,
            "start": "pca",
            "seed": seed,
        }
    places = quantised(flat)
    return FeatureMap(places, settings | _quality(places, neighbours))


def principal_places(W_dec: Float[Tensor, "d_sae d_out"]) -> tuple[np.ndarray, tuple[float, float]]:
    """Each decoder direction (length 1) on the two axes in which the directions vary most, float32
    `[d_sae, 2]`, and the share of the variance of each axis, NaN-free.

    An axis points to where its largest entry is positive, so that the map has one orientation.
    """
    parts = W_dec.detach().split(_ROWS)  # all directions at once would be a copy of the decoder
    count, width = W_dec.shape
    mean = torch.stack([in_float64(_unit(some)).sum(0) for some in parts]).sum(0) / count
    covariance = torch.zeros_like(mean).repeat(width, 1)
    for some in parts:
        centred = in_float64(_unit(some)) - mean
        covariance += centred.T @ centred
    with _LINALG:
        values, axes = torch.linalg.eigh(covariance)
    values, axes = values.clamp(min=0).flip(0), axes.flip(1)[:, :2]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    axes = axes * torch.where(largest < 0, -1.0, 1.0)
    places = torch.cat([(in_float64(_unit(some)) - mean) @ axes for some in parts])
    total = float(values.sum())
    shares = [float(value) / total if total else 0.0 for value in values[:2]]
    if width == 1:
        places, shares = torch.nn.functional.pad(places, (0, 1)), [*shares, 0.0]
    return places.float().cpu().numpy(), (shares[0], shares[1])


def _unit(rows: Tensor) -> Tensor:
    rows = rows.float()
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)


def _by_umap(
    start: np.ndarray, neighbours: Tensor, cosines: Tensor, seed: int, rounds: int
) -> np.ndarray:
    """UMAP's places, float32 `[d_sae, 2]`, from `start`, in one thread so that the seed decides."""
    from umap import UMAP  # pyright: ignore[reportMissingImports]

    count = len(start)
    k = min(NEIGHBOURS, neighbours.shape[1])
    # umap-learn counts each point as the nearest to itself.
    own = np.arange(count, dtype=np.int32)[:, None]
    ids = np.hstack([own, neighbours[:, :k].cpu().numpy().astype(np.int32)])
    away = (1 - cosines[:, :k]).clamp(min=0).cpu().numpy().astype(np.float32)
    distances = np.hstack([np.zeros((count, 1), np.float32), away])
    init: Any = (start / max(float(np.abs(start).max()), 1e-12) * 10).astype(np.float32)
    layout = UMAP(
        n_neighbors=k + 1,
        min_dist=MIN_DIST,
        metric="cosine",
        n_epochs=rounds,
        init=init,
        precomputed_knn=(ids, distances),
        random_state=seed,
        n_jobs=1,
    )
    with warnings.catch_warnings():
        # That other directions could not be placed on this map, which nobody asks for.
        warnings.filterwarnings("ignore", message="precomputed_knn")
        # Of what it is fitted to only the number of rows counts: distances are given.
        return np.asarray(layout.fit_transform(start), np.float32)


def quantised(flat: Float[np.ndarray, "n 2"]) -> np.ndarray:
    """Places as 65,535ths of the smallest square around all of them, uint16 `[n, 2]`."""
    low, high = flat.min(0).astype(np.float64), flat.max(0).astype(np.float64)
    side = float((high - low).max()) or 1.0
    shifted = (flat - (low + high) / 2) / side + 0.5
    return np.rint(np.clip(shifted, 0, 1) * 65535).astype(np.uint16)


def _quality(places: np.ndarray, neighbours: Tensor) -> dict[str, float | None]:
    """How many of the nearest directions are nearest on the map, of 1,024 features at most."""
    count = len(places)
    if count <= 2 * KEPT_OF or neighbours.shape[1] < KEPT_OF:
        return {"kept": None, "by_chance": None}
    where = torch.from_numpy(places.astype(np.float32))
    features = torch.linspace(0, count - 1, min(count, _SAMPLE)).long().unique()
    nearest = neighbours[:, :KEPT_OF].cpu()
    kept = 0
    for some in features.split(64):
        apart = torch.cdist(where[some], where)
        apart[torch.arange(len(some)), some] = torch.inf
        on_map = apart.topk(KEPT_OF, largest=False).indices
        kept += int((nearest[some][:, :, None] == on_map[:, None]).sum())
    share = kept / (len(features) * KEPT_OF)
    return {"kept": round(share, 4), "by_chance": round(KEPT_OF / (count - 1), 6)}
