"""`jumpscope index --add-output-scores`: what features write, measured for indexes that exist."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sae_core.bundle import Bundle
from sae_core.index.changes import put_scores
from sae_core.index.index_checkpoint import only_build
from sae_core.index.output_scores import arms_of, output_scores, settings
from sae_core.index.store import Index
from sae_core.placement import Device, DType, chosen_device, chosen_dtype
from sae_core.splice import SplicedLM


def add_output_scores(
    bundle: Bundle,
    saes: Sequence[str] = (),
    *,
    device: Device = "auto",
    dtype: DType = "auto",
) -> dict[str, Any]:
    """Measure output scores and side effects of all features of some SAEs (none named: of all), and
    put them into their indexes, in place of any that are there; a bar on stderr shows progress.

    Nothing else in an index changes but its schema, which becomes today's. Returns `{"seconds",
    "indexes": [{"sae", "path", "bytes", "features"}]}`. Raises ValueError with one sentence for an
    SAE without an index, or with one of other weights.
    """
    from tqdm import tqdm

    names = list(dict.fromkeys(saes)) or list(bundle.sae_names)
    place = chosen_device(device)
    started = time.monotonic()
    with only_build([bundle.index_path(name) for name in names]):
        # Mistakes are said before the model is read, and no build changes an index meanwhile.
        totals = {name: _totals(bundle, name) for name in names}
        model, tokenizer = bundle.load_model(chosen_dtype(dtype, place), place)
        arms = sum(arms_of(bundle.sae_config(name).d_sae) for name in names)
        with tqdm(
            total=arms, unit="token", unit_scale=True, desc="scoring", dynamic_ncols=True
        ) as bar:
            for name in names:
                lm = SplicedLM(model, tokenizer, {name: bundle.load_sae(name, place)})
                score, effect = output_scores(lm, name, progress=bar.update).columns()
                entries = {"output_scores": settings(), "totals": totals[name]}
                put_scores(bundle.index_path(name), score, effect, entries)
    return {
        "seconds": round(time.monotonic() - started, 1),
        "indexes": [
            {
                "sae": name,
                "path": str(bundle.index_path(name)),
                "bytes": bundle.index_path(name).stat().st_size,
                "features": bundle.sae_config(name).d_sae,
            }
            for name in names
        ],
    }


def _totals(bundle: Bundle, name: str) -> dict[str, float | None]:
    """The totals of an SAE's index in today's units; ValueError if scores cannot be added to it."""
    with own_index(bundle, name) as index:
        totals = index.meta["totals"]
        # JSON has no NaN.
        return {key: value if math.isfinite(value) else None for key, value in totals.items()}


@contextmanager
def own_index(bundle: Bundle, name: str) -> Iterator[Index]:
    """An SAE's index, open; ValueError if there is none, or if it is of other weights."""
    bundle.sae_source(name)  # one that the bundle has
    path = bundle.index_path(name)
    index = Index.open(path)
    try:
        indexed = index.meta["sae_hash"]
        if indexed and indexed != bundle.content_hash(name):
            raise ValueError(
                f"{path} was built from other weights of SAE {name}: build it again with jumpscope "
                "index."
            )
        yield index
    finally:
        index.close()
