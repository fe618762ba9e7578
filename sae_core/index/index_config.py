"""What to index and how: `IndexConfig`."""

from dataclasses import dataclass, field
from typing import Literal

from sae_core.placement import Device, DType
from sae_core.text_options import TextOptions

MapMethod = Literal["auto", "umap", "pca", "off"]
EARLY = 4
"""Tokens at the start of a row whose share of a feature's firing is counted apart."""


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """Settings of an index; `bundle` or `model`, each with `sae`, say of what."""

    corpus: tuple[str, ...]
    """Parquet, JSONL or text files, folders, globs, URLs, or data sets of the hub (user/name, maybe
    with /folder and @revision)."""
    bundle: str = ""
    """Folder of a bundle; the indexes are written beside its SAEs."""
    model: str = ""
    """Without a bundle: folder or hub id of the language model, maybe with @revision."""
    sae: tuple[str, ...] = ()
    """With bundle: names of SAEs, none means all. With model: hub ids, or folders of any format
    that is read. All are indexed in one pass over the model's activations."""
    tokens: int = 3_000_000
    """Tokens to read; special ones do not count, and the last row is read whole."""
    context_size: int = 0
    """Tokens per row, BOS included; 0 takes what the SAE was trained with."""
    rows_per_batch: int = 32
    """Rows run through the model at once, on a GPU as many of such batches as have 16,384 places;
    changes speed and memory, not the result."""
    before: int = 24
    """Tokens kept before the peak of a context."""
    after: int = 8
    """Tokens kept after the peak of a context."""
    top: int = 20
    """Strongest contexts kept per feature."""
    intervals: int = 5
    """Equal intervals of activation between threshold and maximum that are sampled."""
    per_interval: int = 5
    """Contexts sampled from each interval."""
    near_misses: int = 5
    """Contexts kept whose pre-activation is just below the threshold."""
    text: TextOptions = field(default_factory=TextOptions)
    """How documents are read from the corpus's files."""
    seed: int = 0
    """Decides which contexts are sampled from the intervals."""
    checkpoint_tokens: int = 1_000_000
    """Tokens between checkpoints, from which an interrupted run goes on."""
    output_scores: Literal["auto", "on", "off"] = "auto"
    """Whether to measure what each feature writes (8 tokens run for a feature); `auto` does where
    that is at most a tenth of the tokens read."""
    map: MapMethod = "auto"
    """How features are placed on the map; `auto` is UMAP where umap-learn is installed (pip install
    'jumpscope[map]') and there are 1,024 to 262,144 features, else PCA."""
    keep_state: bool = False
    """Keep beside the index what it is made from (index.state.safetensors), so that it can be
    merged with indexes of other text."""
    fresh: bool = False
    """Start again even if there is a checkpoint."""
    device: Device = "auto"
    """Where model and SAE run; `auto` is CUDA if there is a device, else Apple's GPU (mps), on
    which the model alone runs, else the CPU."""
    dtype: DType = "auto"
    """The model's dtype; `auto` is bfloat16 on CUDA, float32 elsewhere."""

    def __post_init__(self) -> None:
        self._check_corpus()
        if self.bundle and self.model:
            raise ValueError("give either bundle or model, not both.")
        if self.sae and not (self.bundle or self.model):
            raise ValueError("sae names SAEs of a bundle or for a model: give one of them.")
        if self.model and not self.sae:
            raise ValueError("model and sae go together: name the SAEs by hub id or folder.")
        for name, low, high in _BOUNDS:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value} but must be between {low} and {high}.")
        if self.context_size == 1:
            raise ValueError("context_size is 1 but must be 0, or 2 or more.")

    def _check_corpus(self) -> None:
        if not self.corpus:
            raise ValueError("corpus is empty: name at least one file.")


_BOUNDS = (
    ("tokens", 1, 2**40),
    ("context_size", 0, 2**15),
    ("rows_per_batch", 1, 2**15),
    # A position in a context is one byte on disk.
    ("before", 0, 127),
    ("after", 0, 127),
    ("top", 1, 100),
    ("intervals", 1, 16),
    ("per_interval", 0, 100),
    ("near_misses", 0, 100),
    ("checkpoint_tokens", 1, 2**40),
    ("seed", 0, 2**31 - 1),
)
