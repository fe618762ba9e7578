"""What an SAE is and where in a language model it reads: `SAEConfig` and `Site`."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

SiteKind = Literal[
    "resid_pre",
    "resid_mid",
    "resid_post",
    "mlp_in",
    "mlp_in_unit",
    "mlp_proj",
    "mlp_out",
    "attn_out",
    "attn_proj",
    "attn_add",
]
Architecture = Literal["jumprelu", "gated", "topk", "standard"]


@dataclass(frozen=True)
class Site:
    """One activation of a decoder: its kind and the layer it belongs to, written `resid_post/4`."""

    kind: SiteKind
    """Which activation of the block (see `sae_core.sites` for the modules)."""
    layer: int
    """Index of the block, from 0."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(SiteKind):
            raise ValueError(
                f"unknown site {self.kind!r}: use one of {', '.join(get_args(SiteKind))}."
            )
        if self.layer < 0:
            raise ValueError(f"layer {self.layer} of site {self.kind} must be 0 or more.")

    def __str__(self) -> str:
        return f"{self.kind}/{self.layer}"

    @classmethod
    def parse(cls, text: str) -> "Site":
        """`"resid_post/4"` as a `Site`; ValueError if it is not of that form."""
        kind, slash, layer = text.partition("/")
        if not slash or not layer.isdecimal():
            raise ValueError(f"site {text!r} is not of the form KIND/LAYER, e.g. resid_post/4.")
        return cls(kind, int(layer))  # pyright: ignore[reportArgumentType] - checked above


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """Everything about an SAE but its weights."""

    architecture: Architecture
    """Activation function: `standard` is ReLU."""
    d_model: int
    """Width of the activation it reads and, unless it is a transcoder, reconstructs."""
    d_sae: int
    """Number of features."""
    site: Site | None = None
    """Where it reads; None if the file does not say."""
    site_out: Site | None = None
    """Transcoders only: the activation it reconstructs from the one at `site`."""
    d_out: int | None = None
    """Width of what it reconstructs where that is not `d_model`."""
    skip: bool = False
    """Whether a linear map `W_skip` of the input is added to the reconstruction."""
    model_name: str = ""
    """Language model it was trained on (a hub id or a bundle's name)."""
    prepend_bos: bool = True
    """Whether its training prompts began with BOS."""
    context_size: int | None = None
    """Tokens per training prompt, BOS included."""
    k: int | None = None
    """TopK only: features active per token."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Training settings and cost, measured numbers, content hash: JSON values."""

    def __post_init__(self) -> None:
        if self.architecture not in get_args(Architecture):
            names = ", ".join(get_args(Architecture))
            raise ValueError(f"unknown SAE architecture {self.architecture!r}: use one of {names}.")
        if min(self.d_model, self.d_sae, self.width_out) < 1:
            raise ValueError(
                f"d_model {self.d_model}, d_sae {self.d_sae} and d_out {self.width_out} of an SAE "
                "must be 1 or more."
            )
        if self.site_out is None and (self.d_out not in (None, self.d_model) or self.skip):
            raise ValueError("only a transcoder, which has a site_out, has a d_out or a skip.")
        if (self.architecture == "topk") != (self.k is not None):
            raise ValueError("k is needed for a topk SAE and for no other architecture.")
        if self.k is not None and not 1 <= self.k <= self.d_sae:
            raise ValueError(f"k is {self.k} but must be between 1 and d_sae ({self.d_sae}).")

    @property
    def is_transcoder(self) -> bool:
        """Whether it reconstructs another activation than the one it reads."""
        return self.site_out is not None

    @property
    def target(self) -> Site | None:
        """The site of the activation that it reconstructs."""
        return self.site_out or self.site

    @property
    def width_out(self) -> int:
        """Width of the activation that it reconstructs."""
        return self.d_model if self.d_out is None else self.d_out
