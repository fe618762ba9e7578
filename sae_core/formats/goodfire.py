"""Goodfire: one PyTorch file whose name says the model and the layer, and of TopK SAEs k.

`Llama-3.1-8B-Instruct-SAE-l19.pth`: `encoder_linear.weight [F, d]`, `encoder_linear.bias`,
`decoder_linear.weight [d, F]`, `decoder_linear.bias`; ReLU, nothing is taken off the input.
`topk_sae_l15_exp16_k32.pt`: `decoder.weight` in place of the decoder's two tensors, with either
orientation, maybe `decoder_bias`, maybe no `encoder_linear.bias`.

They read the residual stream after the layer.
"""

from pathlib import Path

import torch

from sae_core.formats.origin import Origin
from sae_core.formats.plan import Plan, matrix_shape
from sae_core.formats.torch_file import TorchFile
from sae_core.sae import SAE

ENCODER = "encoder_linear.weight"
"""The tensor that no other format has."""
_RELU = {
    "W_enc": ENCODER,
    "b_enc": "encoder_linear.bias",
    "W_dec": "decoder_linear.weight",
    "b_dec": "decoder_linear.bias",
}
_TOPK = _RELU | {"W_dec": "decoder.weight", "b_dec": "decoder_bias"}


def plan(path: Path, origin: Origin) -> Plan:
    """How to read the file; ValueError for a TopK SAE whose name does not say k."""
    weights = TorchFile(path)
    d_sae, d_model = matrix_shape(weights, ENCODER)
    topk = _TOPK["W_dec"] in weights.headers
    if topk and origin.k is None:
        raise ValueError(
            f"{path} is of a TopK SAE that does not say its k: keep its name, as in "
            "topk_sae_l15_exp16_k32.pt."
        )
    transposed = {"W_enc", "W_dec"}
    if topk and matrix_shape(weights, _TOPK["W_dec"]) == (d_sae, d_model) != (d_model, d_sae):
        transposed = {"W_enc"}
    cfg = origin.configure(
        path,
        {},
        architecture="topk" if topk else "standard",
        d_model=d_model,
        d_sae=d_sae,
        k=origin.k if topk else None,
    )
    names = _TOPK if topk else _RELU
    optional = {"b_enc", "b_dec"} if topk else set()
    absent = frozenset(name for name in optional if names[name] not in weights.headers)
    return Plan(
        cfg=cfg,
        weights=weights,
        names={name: stored for name, stored in names.items() if name not in absent},
        transposed=frozenset(transposed),
        absent=absent,
    )


def write(sae: SAE, folder: Path, dtype: torch.dtype) -> Path:
    """Write the file; ValueError for anything but a ReLU SAE of a residual stream."""
    cfg = sae.cfg
    if cfg.architecture != "standard" or cfg.is_transcoder:
        raise ValueError(
            f"Goodfire's format holds standard (ReLU) SAEs only, and this is {cfg.architecture}."
        )
    if cfg.site is None or cfg.site.kind != "resid_post":
        raise ValueError(
            f"Goodfire's format holds SAEs of resid_post only, and this reads {cfg.site}."
        )
    state = {
        stored: (getattr(sae, name).data.T if stored.endswith("weight") else getattr(sae, name))
        .to("cpu", dtype)
        .clone(memory_format=torch.contiguous_format)
        for name, stored in _RELU.items()
    }
    model = cfg.model_name.rpartition("/")[2] or "model"
    path = folder / f"{model}-SAE-l{cfg.site.layer}.pth"
    torch.save(state, path)
    return path
