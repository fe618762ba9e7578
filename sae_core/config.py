"""What an SAE is and where in a language model it reads: `SAEConfig` and `Site`."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

SiteKind = Literal["resid_post", "mlp_out", "attn_out"]
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
    """Width of the activation it reads and reconstructs."""
    d_sae: int
    """Number of features."""
    site: Site | None = None
    """Where it reads; None if the file does not say."""
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
            known = ", ".join(get_args(Architecture))
            raise ValueError(f"unknown SAE architecture {self.architecture!r}: known are {known}.")
        if self.d_model < 1 or self.d_sae < 1:
            raise ValueError(
                f"d_model {self.d_model} and d_sae {self.d_sae} of an SAE must be 1 or more."
            )
        if (self.architecture == "topk") != (self.k is not None):
            raise ValueError("k is needed for a topk SAE and for no other architecture.")
        if self.k is not None and not 1 <= self.k <= self.d_sae:
            raise ValueError(f"k is {self.k} but must be between 1 and d_sae ({self.d_sae}).")
