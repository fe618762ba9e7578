"""`jumpscope export`: an index for other programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from app.commands.shared import open_bundle

if TYPE_CHECKING:
    from tqdm import tqdm

Format = Literal["parquet", "neuronpedia"]


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write what an SAE's index holds as Parquet files, or in the layout of Neuronpedia's exports.

    Parquet: one file a view (features, feature_contexts, feature_logits, histograms, neighbours,
    token_shares, source_shares, documents, vocabulary, meta), as docs/sql.md describes them.
    Neuronpedia: gzipped JSON lines of features, activations and explanations, in batches.
    """

    bundle: Annotated[str, tyro.conf.Positional] = "demo"
    """Folder of a bundle; `demo` is the bundled one."""
    out: str
    """Folder to write, which must not exist yet."""
    sae: str = ""
    """SAE whose index is written; empty is the bundle's first."""
    format: Format = "parquet"
    """What to write."""
    source: str = ""
    """Neuronpedia's name of the SAE, such as 20-gemmascope-res-16k; empty makes one of its layer,
    site and width."""

    def execute(self) -> str:
        """Open, write; returns the folder that holds the files."""
        from tqdm import tqdm

        from app.engine.indexes import open_index
        from sae_core.index.neuronpedia import write_neuronpedia
        from sae_core.index.view_files import write_parquet
        from sae_core.index.views import VIEWS

        bundle, out = open_bundle(self.bundle), Path(self.out)
        if self.source and self.format != "neuronpedia":
            raise ValueError("source belongs to Neuronpedia's layout: add --format neuronpedia.")
        if self.sae and self.sae not in bundle.sae_names:
            raise ValueError(
                f"there is no SAE {self.sae!r}: use one of {', '.join(bundle.sae_names)}."
            )
        index = open_index(bundle, self.sae or bundle.sae_names[0])
        try:
            if self.format == "parquet":
                with tqdm(total=len(VIEWS), unit=" views") as bar:
                    write_parquet(index, out, lambda view: _step(bar, 1))
                return str(out)
            with tqdm(total=index.meta["d_sae"], unit=" features") as bar:
                written = write_neuronpedia(
                    index, out, self.source, lambda done: _step(bar, done - bar.n)
                )
            return str(written)
        finally:
            index.close()


def _step(bar: "tqdm", steps: int) -> None:
    bar.update(steps)
