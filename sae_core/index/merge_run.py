"""`jumpscope index --merge`: indexes of other text, joined in a bundle."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from sae_core.bundle import BUNDLE_FILE, INDEX_FILE, Bundle
from sae_core.index.index_run import summary
from sae_core.index.merge import check_parts, merge_indexes
from sae_core.index.schema import check_name
from sae_core.placement import Device, DType, chosen_device, chosen_dtype, wide_device


def run_merge(
    bundle: Bundle,
    saes: Sequence[str],
    parts: Sequence[Path],
    *,
    device: Device = "auto",
    dtype: DType = "auto",
    output_scores: Literal["auto", "on", "off"] = "auto",
) -> dict[str, Any]:
    """Give some SAEs of a bundle (none named: all) the index of all texts of `parts`, in order.

    Each part is a bundle, the folder of an index, or an index; its state is beside the index. A bar
    on stderr shows progress. Returns a `summary`. Raises ValueError with one sentence if a state is
    missing or damaged, if a part is named twice, or if they do not fit together.
    """
    from tqdm import tqdm

    started = time.monotonic()
    names = list(dict.fromkeys(saes)) or list(bundle.sae_names)
    indexes = [[_index(part, name, len(names) == 1) for part in parts] for name in names]
    paths = [bundle.index_path(name) for name in names]
    for name, path, files in zip(names, paths, indexes, strict=True):
        bundle.sae_source(name)  # one that the bundle has
        check_name(path)
        check_parts(files)
    place = chosen_device(device)
    model, tokenizer = bundle.load_model(chosen_dtype(dtype, place), place)
    metas = []
    with tqdm(unit="token", unit_scale=True, desc="merging", dynamic_ncols=True) as bar:
        for name, path, files in zip(names, paths, indexes, strict=True):
            sae = bundle.load_sae(name, wide_device(place))
            meta = merge_indexes(
                model,
                tokenizer,
                sae,
                files,
                path,
                output_scores=output_scores,
                model_name=bundle.name,
                progress=bar.update,
            )
            metas.append(meta)
    return summary(started, zip(names, paths, metas, strict=True))


def _index(part: Path, name: str, alone: bool) -> Path:
    """A part's index of the SAE `name`; `alone`: of no other SAE one is wanted."""
    if (part / BUNDLE_FILE).is_file():
        bundle = Bundle.open(part)
        bundle.sae_source(name)
        return bundle.index_path(name)
    if not alone:
        raise ValueError(f"{part} is the index of one SAE: say with --sae of which one.")
    return part / INDEX_FILE if part.is_dir() else part
