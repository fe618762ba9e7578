"""The views of an index as Parquet files, one each, for pandas, Polars, Spark and the like."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from sae_core.files import atomic_folder
from sae_core.index.store import Index
from sae_core.index.views import VIEWS


def write_parquet(
    index: Index, out: Path, progress: Callable[[str], None] = lambda view: None
) -> list[Path]:
    """Write `out`/VIEW.parquet (zstd) of every view, row group by row group; the files.

    All are there, or none is. `progress` hears of each view that is done. ValueError with one
    sentence if `out` is there already, or the disk is full.
    """
    refuse_existing(out)
    with (
        atomic_folder(out) as folder,
        contextlib.closing(index.query_connection(hardened=False)) as connection,
    ):
        for view in VIEWS:
            file = str(folder / f"{view}.parquet").replace("'", "''")
            connection.execute(
                f"COPY (FROM {view}) TO '{file}'"
                " (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 16384)"
            )
            progress(view)
    return [out / f"{view}.parquet" for view in VIEWS]


def refuse_existing(out: Path) -> None:
    """ValueError if something is at `out`, which is never written over."""
    if out.exists():
        raise ValueError(f"{out} exists already: name another folder with --out, or remove it.")
