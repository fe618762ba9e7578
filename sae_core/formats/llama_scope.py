"""Llama Scope and what OpenMOSS' library wrote since: SAEs and transcoders of scaled activations.

`encoder.weight [F, d]`, `encoder.bias`, `decoder.weight [d, F]`, `decoder.bias`, in two layouts:

- `hyperparams.json` and `checkpoints/final.safetensors`: one `jump_relu_threshold` for all features
  and `dataset_average_activation_norm`, `in` and `out`, in the settings.
- `config.json` and `sae_weights.safetensors`: a threshold a feature, as `log_jumprelu_threshold`,
  and the norms as tensors, `dataset_average_activation_norm.HOOK`.

The input is multiplied by c_in = sqrt(d) / its norm, what comes out is divided by c_out, likewise.
Both are folded in, so that the SAE takes and gives raw activations:

    W_enc * c_in    W_dec / c_out    b_dec / c_out

The one threshold of the first layout is compared, by the program that published it, with what a
feature contributes to the raw output, so it is threshold * c_out here; those of the second with the
pre-activation itself. With `sparsity_include_decoder_norm`, decoder rows that are no unit vectors
count: the threshold is then divided by their lengths.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sae_core.config import Architecture
from sae_core.formats.config_json import KEY, entry, read_json, recall, record, write_json
from sae_core.formats.folding import subtract_b_dec
from sae_core.formats.hooks import site_of_hook, transformer_lens_name
from sae_core.formats.origin import Origin
from sae_core.formats.plan import Plan, matrix_shape
from sae_core.formats.safetensors_file import SafetensorsFile
from sae_core.sae import SAE, JumpReLUSAE

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "sae_weights.safetensors"
_OLD_CONFIG = "hyperparams.json"
_NAMES = {
    "W_enc": "encoder.weight",
    "b_enc": "encoder.bias",
    "W_dec": "decoder.weight",
    "b_dec": "decoder.bias",
}
_LOG_THRESHOLD = "log_jumprelu_threshold"
_NORM = "dataset_average_activation_norm"


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """What is folded into the weights."""

    c_in: float
    c_out: float
    threshold: float | None
    """The one threshold of all features, if the settings have it."""
    by_decoder_norm: bool
    subtract_b_dec: bool


def plan(path: Path, origin: Origin) -> Plan:
    """How to read the weights file, of either layout."""
    above = path.parent.parent / _OLD_CONFIG
    config = above if above.is_file() else path.parent / CONFIG_FILE
    if not config.is_file():
        raise ValueError(f"{path} lacks its settings: neither {above} nor {config} exists.")
    written = read_json(config)
    weights = SafetensorsFile(path)
    d_sae, d_model = matrix_shape(weights, "encoder.weight")
    d_out, columns = matrix_shape(weights, "decoder.weight")
    if columns != d_sae:
        raise ValueError(f"decoder.weight in {path} has {columns} features, the encoder {d_sae}.")
    _refuse(written, config)
    hooks = [_hook(written, key, config) for key in ("hook_point_in", "hook_point_out")]
    architecture, threshold = _activation(written, weights, config)
    scale = _Scale(
        c_in=_factor(written, weights, config, hooks[0], "in", d_model),
        c_out=_factor(written, weights, config, hooks[1], "out", d_out),
        threshold=threshold,
        by_decoder_norm=bool(written.get("sparsity_include_decoder_norm")),
        subtract_b_dec=bool(written.get("apply_decoder_bias_to_pre_encoder")),
    )
    transcoder = hooks[0] != hooks[1]
    if scale.subtract_b_dec and transcoder:
        raise ValueError(f"{config} takes the bias of a transcoder's output off its input.")
    said = {
        "site": site_of_hook(hooks[0]),
        "site_out": site_of_hook(hooks[1]) if transcoder else None,
    } | recall(written, config)
    cfg = origin.configure(
        path,
        said,
        transcoder=transcoder,
        architecture=architecture,
        d_model=d_model,
        d_sae=d_sae,
        d_out=d_out,
    )
    own = _LOG_THRESHOLD in weights.headers and architecture == "jumprelu"
    scalar = architecture == "jumprelu" and not own
    norms = {name for name in weights.headers if name.startswith(f"{_NORM}.")}
    return Plan(
        cfg=cfg,
        weights=weights,
        names=_NAMES | ({"threshold": _LOG_THRESHOLD} if own else {}),
        transposed=frozenset({"W_enc", "W_dec"}),
        unused=frozenset(norms),
        absent=frozenset({"threshold"} if scalar else ()),
        fold=lambda sae: _fold(sae, scale),
    )


def write(sae: SAE, folder: Path, dtype: torch.dtype) -> Path:
    """Write the newer layout; ValueError for anything but a JumpReLU SAE without a skip."""
    cfg = sae.cfg
    if not isinstance(sae, JumpReLUSAE) or cfg.skip:
        raise ValueError("Llama Scope's format holds JumpReLU SAEs without a skip connection only.")
    if cfg.site is None or cfg.target is None:
        raise ValueError("Llama Scope's format names the hook, and this SAE does not say its site.")
    hook_in, hook_out = transformer_lens_name(cfg.site), transformer_lens_name(cfg.target)
    tensors = {
        stored: (getattr(sae, name).data.T if stored.endswith("weight") else getattr(sae, name))
        .to("cpu", dtype)
        .contiguous()
        for name, stored in _NAMES.items()
    }
    smallest = torch.finfo(torch.float32).tiny
    tensors[_LOG_THRESHOLD] = sae.threshold.data.clamp(min=smallest).log().cpu()
    # Norms under which both factors are 1.
    norms = {hook_in: math.sqrt(cfg.d_model), hook_out: math.sqrt(cfg.width_out)}
    tensors |= {f"{_NORM}.{hook}": torch.tensor(norm) for hook, norm in norms.items()}
    path = folder / WEIGHTS_FILE
    save_file(tensors, path)
    written = {
        "sae_type": "sae",
        "hook_point_in": hook_in,
        "hook_point_out": hook_out,
        "d_model": cfg.d_model,
        "expansion_factor": cfg.d_sae / cfg.d_model,
        "act_fn": "jumprelu",
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": False,
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        KEY: record(cfg),
    }
    write_json(folder / CONFIG_FILE, written)
    return path


def _refuse(written: dict[str, Any], config: Path) -> None:
    """ValueError with the reason for models of the same library that are no SAEs of one layer."""
    kind = written.get("sae_type", "sae")
    if kind not in ("sae", "transcoder"):
        raise ValueError(f"{config} is of a {kind}: SAEs and transcoders of one layer are read.")
    if written.get("use_glu_encoder"):
        raise ValueError(f"{config} has a gated linear unit for an encoder, which is not read.")
    if written.get("use_decoder_bias") is False:
        raise ValueError(f"{config} has no decoder bias, which is not read.")


def _activation(
    written: dict[str, Any], weights: SafetensorsFile, config: Path
) -> tuple[Architecture, float | None]:
    """The architecture, and the one threshold of a JumpReLU SAE that has no other."""
    name = str(written.get("act_fn", "jumprelu")).lower()
    threshold = entry(written, "jump_relu_threshold", (int, float), config)
    if name == "relu":
        return "standard", None
    # TopK is how they were trained; the threshold is what they are used with.
    if name in ("jumprelu", "topk") and _LOG_THRESHOLD in weights.headers:
        return "jumprelu", None
    if name in ("jumprelu", "topk") and threshold is not None and threshold > 0:
        return "jumprelu", float(threshold)
    raise ValueError(
        f"{config} has act_fn={name!r} and no threshold: JumpReLU and ReLU SAEs are read."
    )


def _hook(written: dict[str, Any], key: str, config: Path) -> str:
    hook = entry(written, key, str, config)
    if not hook:
        raise ValueError(f"{config} lacks {key!r}: it is not an SAE's settings.")
    return hook


def _factor(
    written: dict[str, Any],
    weights: SafetensorsFile,
    config: Path,
    hook: str,
    side: str,
    width: int,
) -> float:
    """What activations at this side are multiplied by before the SAE sees them."""
    normalised = written.get("norm_activation", "dataset-wise")
    if normalised == "inference":
        return 1.0
    if normalised != "dataset-wise":
        raise ValueError(
            f"{config} has norm_activation={normalised!r}, which depends on each token and cannot "
            "be folded into the weights."
        )
    norms = entry(written, _NORM, dict, config) or {}
    norm = norms.get(side, norms.get(hook))
    name = f"{_NORM}.{hook}"
    if norm is None and name in weights.headers:
        norm = weights.number(name)
    if not isinstance(norm, int | float) or not norm > 0:
        raise ValueError(
            f"{config} says neither the data set's average norm ({_NORM}) nor that it is folded in."
        )
    return math.sqrt(width) / float(norm)


def _fold(sae: SAE, scale: _Scale) -> None:
    if scale.subtract_b_dec:
        subtract_b_dec(sae)  # of the scaled input, so before the scale goes in
    if isinstance(sae, JumpReLUSAE):
        if scale.threshold is None:
            sae.threshold.data.exp_()
        else:
            sae.threshold.data.fill_(scale.threshold * scale.c_out)
        if scale.by_decoder_norm:
            norms = torch.linalg.vector_norm(sae.W_dec.data, dim=1)
            sae.threshold.data /= norms.clamp(min=torch.finfo(norms.dtype).tiny)
    sae.W_enc.data *= scale.c_in
    sae.W_dec.data /= scale.c_out
    sae.b_dec.data /= scale.c_out
