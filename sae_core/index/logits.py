"""What a feature does to the next token's logits directly, as a linear readout.

    logits = unembedding @ (gain * direction),   minus their mean over the vocabulary

`direction` is the feature's decoder row scaled to unit length; `gain` is that of the final norm
(Gemma's `1 + weight`). The norm's division by the stream's size is left out, as it depends on the
token; so are a final soft cap, which keeps the order, and the layers in between. At `attn_out` the
row first goes through the attention's output projection and, where the model has one, the gain of
the norm that follows it, before it is scaled to unit length; likewise the gain at `attn_proj` and
`mlp_proj`. A transcoder's rows are taken at the site that it writes. What is written at `mlp_in` or
`mlp_in_unit` reaches the stream through the MLP alone, which is not linear: there are no logits.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_core.index.largest_products import ProductRows
from sae_core.sae import SAE
from sae_core.sites import layers, module_path

ROWS = 512
"""Features looked at together; to which of them others belong may decide the last bits."""
_TOKENS = 2**15
"""Rows of the unembedding taken to float32 together."""
BEFORE_THE_MLP = ("mlp_in", "mlp_in_unit")
"""Sites from which the stream is reached through the MLP alone."""
_FINAL_NORMS = (
    "model.norm",
    "model.language_model.norm",
    "norm",
    "transformer.ln_f",
    "ln_f",
    "gpt_neox.final_layer_norm",
)


def norm_gain(norm: nn.Module, width: int) -> Float[Tensor, " width"]:
    """Per-channel gain of a norm, whatever its convention, measured by probing it.

    The probe alternates 1 and -1: its mean is 0 and its size 1, so that RMSNorm and LayerNorm leave
    it alone but for gain (and bias, which cancels in the difference).
    """
    parameter = next(norm.parameters())
    probe = torch.ones(width, dtype=torch.float32, device=parameter.device)
    probe[1::2] = -1
    high = norm(probe.to(parameter.dtype)).float()
    low = norm((-probe).to(parameter.dtype)).float()
    return (high - low) / 2 * probe


def stream_directions(
    model: nn.Module, sae: SAE, features: Tensor | None = None
) -> Float[Tensor, "features hidden"]:
    """Unit direction that each feature, or each of those given, adds to the residual stream; zero
    rows stay zero.
    """
    site = sae.cfg.target
    assert site is not None
    block: Any = layers(model)[1][site.layer]
    # A model may be spread over several devices.
    rows = _decoder_rows(sae, features).to(next(block.parameters()).device)
    if site.kind == "attn_out":
        projection: Any = model.get_submodule(module_path(model, site)[0])
        # Linear keeps [out, in]; GPT-2's Conv1D keeps [in, out].
        transposed = type(projection).__name__ == "Conv1D"
        weight = projection.weight.float()
        rows = rows @ (weight if transposed else weight.T)
    # Llama's norm after attention, so called, stands before the MLP; Gemma 2 has one of each.
    if hasattr(block, "post_feedforward_layernorm"):
        if site.kind in ("attn_out", "attn_proj"):
            rows = rows * norm_gain(block.post_attention_layernorm, rows.shape[1])
        elif site.kind == "mlp_proj":
            rows = rows * norm_gain(block.post_feedforward_layernorm, rows.shape[1])
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)


@dataclass(frozen=True)
class TopLogits:
    """Token ids and centred logits `[features, k]`, on the CPU."""

    raises: Tensor
    raises_logit: Tensor
    lowers: Tensor
    lowers_logit: Tensor
    deviation: Tensor
    """`[features]`: standard deviation of a feature's logits over the vocabulary."""


@torch.no_grad()
def top_logits(
    model: Any, sae: SAE, k: int, leave_out: frozenset[int], features: Tensor | None = None
) -> "TopLogits":
    """The `k` tokens that each feature, or each of those given, raises and lowers most, but for
    those to `leave_out`; none (k is 0) where the SAE writes what the MLP reads.
    """
    assert sae.cfg.target is not None
    if sae.cfg.target.kind in BEFORE_THE_MLP:
        count = sae.cfg.d_sae if features is None else len(features)
        ids, logits = torch.zeros(count, 0, dtype=torch.long), torch.zeros(count, 0)
        return TopLogits(ids, logits, ids, logits, torch.zeros(count))
    unembedding: Tensor = model.get_output_embeddings().weight.detach()
    gain = _final_gain(model)
    hidden = torch.tensor(sorted(i for i in leave_out if i < len(unembedding)), dtype=torch.long)
    k = min(k, len(unembedding) - len(hidden))
    mean, covariance = _moments(unembedding)
    rows = ProductRows(unembedding, hidden.to(unembedding.device))
    features = (
        torch.arange(sae.cfg.d_sae, device=sae.W_dec.device) if features is None else features
    )
    parts: list[tuple[Tensor, ...]] = []
    for some in features.split(ROWS):
        part = (stream_directions(model, sae, some).to(gain.device) * gain).to(unembedding.device)
        centre = (part @ mean)[:, None]
        deviation = ((part @ covariance) * part).sum(1).clamp(min=0).sqrt()
        raises, lowers = rows.extremes(part, k)
        parts.append((raises[0], raises[1] - centre, lowers[0], -lowers[1] - centre, deviation))
    return TopLogits(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def _moments(unembedding: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the rows, in float32, a part of them after another."""
    count, width = unembedding.shape
    sums = [some.float().sum(0) for some in unembedding.split(_TOKENS)]
    mean = torch.stack(sums).sum(0) / count
    covariance = torch.zeros(width, width, device=unembedding.device)
    for some in unembedding.split(_TOKENS):
        centred = some.float() - mean
        covariance.addmm_(centred.T, centred)
    return mean, covariance / count


def _final_gain(model: nn.Module) -> Tensor:
    for path in _FINAL_NORMS:
        try:
            norm = model.get_submodule(path)
        except AttributeError:
            continue
        return norm_gain(norm, int(model.config.get_text_config().hidden_size))  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue, reportOptionalMemberAccess]
    raise ValueError(
        f"{type(model).__name__} has no final norm that Jumpscope knows: "
        "use a Gemma, Llama, Mistral, Qwen or GPT-2 style causal language model."
    )


@torch.no_grad()
def neighbours(sae: SAE, k: int, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Ids and cosines `[features, k]` of the features whose decoder rows point most like those of
    each feature, or of each of those given.
    """
    W_dec = sae.W_dec.detach()
    features = torch.arange(len(W_dec), device=W_dec.device) if features is None else features
    k = min(k, len(W_dec) - 1)
    rows = ProductRows(W_dec, normed=True)
    ids, cosines = [], []
    for part in features.split(ROWS):
        own = _decoder_rows(sae, part)
        own = own / own.norm(dim=1, keepdim=True).clamp(min=1e-12)
        index, cosine = rows.largest(own, k, besides=part)
        ids.append(index)
        cosines.append(cosine.clamp(-1, 1))
    return torch.cat(ids).cpu(), torch.cat(cosines).cpu()


def _decoder_rows(sae: SAE, features: Tensor | None) -> Tensor:
    rows = sae.W_dec.detach()
    return (rows if features is None else rows[features]).float()
