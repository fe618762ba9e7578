"""The sparse autoencoder: `SAE` and its four architectures.

    pre_acts = x @ W_enc + b_enc      acts = activate(pre_acts)      recon = acts @ W_dec + b_dec

A transcoder reconstructs another activation than the one it reads, and may add x @ W_skip to it.

Weights take raw activations: input scaling and a pre-encoder bias are training matters, folded in
when an SAE is saved. Architectures differ in `activate` (and Gated in how it gets there), so that
everything else - splice, index, metrics, formats - is written once.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_core import notebook
from sae_core.config import SAEConfig


class SAE(nn.Module):
    """`W_enc [d_model, d_sae]`, `b_enc [d_sae]`, `W_dec [d_sae, d_out]`, `b_dec [d_out]`.

    `d_out` is `d_model` but for transcoders, which may also have `W_skip [d_model, d_out]`.

    Made by `SAE.build(cfg)`; parameters start as zeros in float32 and need no gradient (a trainer
    switches it on). Inputs of any float dtype are taken to the weights' dtype first.
    """

    tensor_names: tuple[str, ...] = ("W_enc", "b_enc", "W_dec", "b_dec")
    """Names of the tensors of the architecture; `tensor_shapes` has those of a configuration."""
    W_enc: nn.Parameter
    b_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter
    W_skip: nn.Parameter

    def __init__(self, cfg: SAEConfig) -> None:
        super().__init__()
        self.cfg = cfg
        for name, shape in tensor_shapes(cfg).items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))

    @staticmethod
    def build(cfg: SAEConfig) -> "SAE":
        """An SAE of the configured architecture with all weights 0."""
        return ARCHITECTURES[cfg.architecture](cfg)

    def __repr__(self) -> str:
        """Kind, sites, widths, model and device in one line."""
        cfg = self.cfg
        where = "no site" if cfg.site is None else str(cfg.site)
        parts = [
            f"{where} to {cfg.site_out}" if cfg.is_transcoder else where,
            f"d_model {cfg.d_model:,}",
            f"d_sae {cfg.d_sae:,}",
            f"k {cfg.k}" if cfg.k else "",
            f"of {cfg.model_name}" if cfg.model_name else "",
            str(self.W_enc.device),
        ]
        return f"{type(self).__name__}({', '.join(filter(None, parts))})"

    def _repr_html_(self) -> str:
        """Its configuration, measured numbers, and a histogram of its thresholds."""
        cfg = self.cfg
        measured = cfg.metadata.get("measured") or {}
        thresholds = self.effective_threshold().float().cpu()
        low, high = float(thresholds.min()), float(thresholds.max())
        parts = []
        if math.isfinite(low) and low < high:
            counts = torch.histc(thresholds, bins=40, min=low, max=high).int().tolist()
            edges = torch.linspace(low, high, 41).tolist()
            parts = [notebook.words("thresholds"), notebook.histogram(edges, counts, "Thresholds")]
        return notebook.page(
            type(self).__name__,
            notebook.facts(
                {
                    "site": str(cfg.site or "none"),
                    "writes to": str(cfg.site_out) if cfg.is_transcoder else None,
                    "d_model": cfg.d_model,
                    "d_sae": cfg.d_sae,
                    "k": cfg.k or None,
                    "of": cfg.model_name or None,
                    "device": str(self.W_enc.device),
                }
            ),
            notebook.facts({name: measured.get(name) for name in ("l0", "fvu", "delta_lm_loss")}),
            *parts,
        )

    def pre_acts(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_sae"]:
        """What the activation function sees."""
        return x.to(self.W_enc.dtype) @ self.W_enc + self.b_enc

    def activate(self, pre_acts: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Activations from pre-activations; 0 means that a feature is not active."""
        raise NotImplementedError(f"{type(self).__name__} is abstract: use SAE.build")

    def encode(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_sae"]:
        """Feature activations of raw model activations."""
        return self.activate(self.pre_acts(x))

    def decode(self, acts: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_out"]:
        """What the features make of their activations."""
        return acts @ self.W_dec + self.b_dec

    def output(
        self, acts: Float[Tensor, "*batch d_sae"], x: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_out"]:
        """Reconstruction from activations and the input they came from: `decode` and any skip."""
        return self.completed(self.decode(acts), x)

    def completed(
        self, recon: Float[Tensor, "*batch d_out"], x: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_out"]:
        """Reconstruction from what the features make of it (`decode`): with any skip."""
        return recon + x.to(self.W_skip.dtype) @ self.W_skip if self.cfg.skip else recon

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_out"]:
        """`output(encode(x), x)`."""
        return self.output(self.encode(x), x)

    def feature_acts(
        self, x: Float[Tensor, "*batch d_model"], features: Tensor
    ) -> Float[Tensor, "*batch n"]:
        """Activations of the chosen features alone; equal to `encode(x)[..., features]`."""
        return self.encode(x)[..., features]

    def effective_threshold(self) -> Float[Tensor, " d_sae"]:
        """Pre-activation above which a feature is active; 0 where that is no fixed number."""
        return torch.zeros_like(self.b_enc)


class _ColumnwiseSAE(SAE):
    """Architectures in which a feature's activation depends on its own pre-activation alone."""

    def feature_pre_acts(
        self, x: Float[Tensor, "*batch d_model"], features: Tensor
    ) -> Float[Tensor, "*batch n"]:
        """Pre-activations of the chosen features, at the cost of these features alone."""
        return x.to(self.W_enc.dtype) @ self.W_enc[:, features] + self.b_enc[features]


class JumpReLUSAE(_ColumnwiseSAE):
    """Active where the pre-activation exceeds the feature's own threshold (strictly)."""

    tensor_names = (*SAE.tensor_names, "threshold")
    threshold: nn.Parameter

    def activate(self, pre_acts: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """`pre_acts * (pre_acts > threshold)`."""
        return pre_acts * (pre_acts > self.threshold)

    def feature_acts(
        self, x: Float[Tensor, "*batch d_model"], features: Tensor
    ) -> Float[Tensor, "*batch n"]:
        """As `SAE.feature_acts`, computing these columns only."""
        pre = self.feature_pre_acts(x, features)
        return pre * (pre > self.threshold[features])

    def effective_threshold(self) -> Float[Tensor, " d_sae"]:
        """The learned threshold."""
        return self.threshold.detach()


class ReLUSAE(_ColumnwiseSAE):
    """Active where the pre-activation is positive."""

    def activate(self, pre_acts: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """`relu(pre_acts)`."""
        return pre_acts.relu()

    def feature_acts(
        self, x: Float[Tensor, "*batch d_model"], features: Tensor
    ) -> Float[Tensor, "*batch n"]:
        """As `SAE.feature_acts`, computing these columns only."""
        return self.feature_pre_acts(x, features).relu()


class TopKSAE(SAE):
    """The k largest pre-activations of a token, as far as they are positive."""

    def activate(self, pre_acts: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """The k largest kept after a ReLU, the others 0."""
        assert self.cfg.k is not None
        top = pre_acts.relu().topk(self.cfg.k, dim=-1)
        return torch.zeros_like(pre_acts).scatter(-1, top.indices, top.values)


class GatedSAE(SAE):
    """A gate decides which features are active, a second path how strongly.

    gate = x @ W_enc + b_gate; magnitude = relu(exp(r_mag) * (x @ W_enc) + b_mag); both share W_enc.
    `pre_acts` are the gate's; because the magnitude is a function of the gate's pre-activation,
    `activate` needs nothing else.
    """

    tensor_names = ("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag")
    b_gate: nn.Parameter
    b_mag: nn.Parameter
    r_mag: nn.Parameter

    def pre_acts(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_sae"]:
        """The gate's pre-activations."""
        return x.to(self.W_enc.dtype) @ self.W_enc + self.b_gate

    def activate(self, pre_acts: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Magnitudes where the gate is open."""
        magnitude = (self.r_mag.exp() * (pre_acts - self.b_gate) + self.b_mag).relu()
        return magnitude * (pre_acts > 0)

    def effective_threshold(self) -> Float[Tensor, " d_sae"]:
        """The gate opens at 0."""
        return torch.zeros_like(self.b_gate)


ARCHITECTURES: dict[str, type[SAE]] = {
    "jumprelu": JumpReLUSAE,
    "standard": ReLUSAE,
    "topk": TopKSAE,
    "gated": GatedSAE,
}


def tensor_shapes(cfg: SAEConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that an SAE of this configuration has."""
    by_name: dict[str, tuple[int, ...]] = {
        "W_enc": (cfg.d_model, cfg.d_sae),
        "W_dec": (cfg.d_sae, cfg.width_out),
        "b_dec": (cfg.width_out,),
    }
    names = ARCHITECTURES[cfg.architecture].tensor_names
    shapes = {name: by_name.get(name, (cfg.d_sae,)) for name in names}
    return shapes | ({"W_skip": (cfg.d_model, cfg.width_out)} if cfg.skip else {})
