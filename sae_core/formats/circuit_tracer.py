"""circuit-tracer's transcoders: one `layer_0.safetensors` a layer, one `config.yaml` for them all.

`W_enc [F, d]` (the transpose of ours), `W_dec [F, d]`, `b_enc`, `b_dec`, for a skip `W_skip`, of
which x @ W_skip.T is added, and for a JumpReLU `activation_function.threshold`; without it the
activation is ReLU, or TopK where the settings, or the program that reads the repository, say k.
`config.yaml` names the model and the two hooks; without it they read what the MLP reads, after the
norm and its gain, and reconstruct what it adds to the stream. `wandb-config.yaml`, also spelt
`wanb-config.yaml`, has the sizes.
"""

import re
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from sae_core.config import Architecture, Site
from sae_core.formats.config_json import KEY, recall, record
from sae_core.formats.config_yaml import read_yaml
from sae_core.formats.hooks import site_of_hook, transformer_lens_name
from sae_core.formats.origin import Origin
from sae_core.formats.plan import Plan, decoder_width, matrix_shape
from sae_core.formats.safetensors_file import SafetensorsFile
from sae_core.sae import SAE, tensor_shapes

CONFIG_FILE = "config.yaml"
SIZES_FILE = "wandb-config.yaml"
_SIZES_FILES = (SIZES_FILE, "wanb-config.yaml")
_THRESHOLDS = ("activation_function.threshold", "threshold")
_K = ("k", "top_k", "topk")
_SET = "transcoder_set"
_HOOK_IN, _HOOK_OUT = "mlp.hook_in", "hook_mlp_out"


def plan(path: Path, origin: Origin) -> Plan:
    """How to read the file of one layer."""
    layer = re.fullmatch(r"layer_(\d+)\.safetensors", path.name)
    if layer is None:
        raise ValueError(
            f"{path} does not say its layer: keep its name, as in layer_5.safetensors."
        )
    weights = SafetensorsFile(path)
    d_sae, d_model = matrix_shape(weights, "W_enc")
    d_out = decoder_width(weights, "W_dec", d_sae)
    config, sizes = path.parent / CONFIG_FILE, {}
    for name in _SIZES_FILES:
        if (path.parent / name).is_file():
            sizes = read_yaml(path.parent / name)
    for key, size in (("d_model", d_model), ("d_feature", d_sae)):
        if sizes.get(key, size) != size:
            raise ValueError(f"{path} has {size} where {SIZES_FILE} says {key}={sizes[key]}.")
    written = read_yaml(config) if config.is_file() else {}
    kind = written.get("model_kind", _SET)
    if kind != _SET:
        raise ValueError(f"{config} is of a {kind}: of circuit-tracer's models {_SET} is read.")
    threshold = next((name for name in _THRESHOLDS if name in weights.headers), None)
    k = next((written[key] for key in _K if isinstance(written.get(key), int)), origin.k)
    architecture: Architecture = "standard" if k is None else "topk"
    if threshold:
        architecture, k = "jumprelu", None
    cfg = origin.configure(
        path,
        _said(written, int(layer[1]), config) | recall(written, config),
        transcoder=True,
        architecture=architecture,
        d_model=d_model,
        d_sae=d_sae,
        d_out=d_out,
        skip="W_skip" in weights.headers,
        k=k,
    )
    names = {name: name for name in tensor_shapes(cfg)} | (
        {"threshold": threshold} if threshold else {}
    )
    return Plan(cfg=cfg, weights=weights, names=names, transposed=frozenset({"W_enc", "W_skip"}))


def write(sae: SAE, folder: Path, dtype: torch.dtype) -> Path:
    """Write the layer's file and both settings; ValueError for anything but a transcoder."""
    cfg = sae.cfg
    if cfg.site is None or cfg.site_out is None:
        raise ValueError("circuit-tracer's format holds transcoders only, and this is an SAE.")
    if cfg.architecture == "gated":
        raise ValueError("circuit-tracer's format holds no gated transcoders.")
    if cfg.site.layer != cfg.site_out.layer or cfg.width_out != cfg.d_model:
        raise ValueError(
            "circuit-tracer's format holds transcoders within a layer and of one width only."
        )
    turned = ("W_enc", "W_skip")
    renamed = {"threshold": _THRESHOLDS[0]}
    tensors = {
        renamed.get(name, name): (
            getattr(sae, name).data.T if name in turned else getattr(sae, name).data
        )
        .to("cpu", dtype)
        .contiguous()
        for name in tensor_shapes(cfg)
    }
    path = folder / f"layer_{cfg.site.layer}.safetensors"
    save_file(tensors, path)
    written: dict[str, Any] = {
        "model_name": cfg.model_name,
        "model_kind": _SET,
        "feature_input_hook": _within_block(cfg.site),
        "feature_output_hook": _within_block(cfg.site_out),
        KEY: record(cfg),
    }
    if cfg.k is not None:
        written["k"] = cfg.k
    sizes = {"d_model": cfg.d_model, "d_feature": cfg.d_sae, "batch_size": cfg.context_size or 0}
    values = {name: {"desc": None, "value": value} for name, value in sizes.items()}
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(written, sort_keys=False))
    (folder / SIZES_FILE).write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def _said(written: dict[str, Any], layer: int, config: Path) -> dict[str, Any]:
    """What the settings say, as fields of `SAEConfig`."""
    sites = {}
    for field, key, usual in (
        ("site", "feature_input_hook", _HOOK_IN),
        ("site_out", "feature_output_hook", _HOOK_OUT),
    ):
        hook = written.get(key, usual)
        sites[field] = site_of_hook(f"blocks.{layer}.{hook}")
        if sites[field] is None:
            raise ValueError(f"{config} names a hook that is no site: {key} is {hook!r}.")
    model = written.get("model_name")
    return {**sites, "model_name": model if isinstance(model, str) else None}


def _within_block(site: Site) -> str:
    return transformer_lens_name(site).split(".", 2)[2]
