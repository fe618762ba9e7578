"""Gemma Scope 2: JumpReLU SAEs and transcoders of Gemma 3 as `config.json`, `params.safetensors`.

`w_enc [d_in, d_sae]`, `b_enc`, `threshold`, `w_dec [d_sae, d_out]`, `b_dec`, and for transcoders
with a skip `affine_skip_connection` A `[d_in, d_out]`, of which x @ A is added. They take raw
activations, as ours do. `config.json` may be missing; the folder's name then says the same.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sae_core.formats.config_json import KEY, entry, read_json, recall, record, write_json
from sae_core.formats.hooks import gemma_module_name, site_of_hook
from sae_core.formats.origin import Origin
from sae_core.formats.plan import Plan, decoder_width, matrix_shape
from sae_core.formats.safetensors_file import SafetensorsFile
from sae_core.sae import SAE, tensor_shapes

WEIGHTS_FILE = "params.safetensors"
CONFIG_FILE = "config.json"
_NAMES = {"W_enc": "w_enc", "W_dec": "w_dec", "W_skip": "affine_skip_connection"}


def plan(path: Path, origin: Origin) -> Plan:
    """How to read `params.safetensors`, or a folder that holds it."""
    path = path / WEIGHTS_FILE if path.is_dir() else path
    weights = SafetensorsFile(path)
    d_model, d_sae = matrix_shape(weights, "w_enc")
    d_out = decoder_width(weights, "w_dec", d_sae)
    config = path.parent / CONFIG_FILE
    said = _said(config) if config.is_file() else {}
    width = said.pop("width", None)
    if width not in (None, d_sae):
        raise ValueError(f"{path} holds {d_sae} features but {CONFIG_FILE} says {width}.")
    skip = _NAMES["W_skip"] in weights.headers
    shape = {"architecture": "jumprelu", "d_model": d_model, "d_sae": d_sae, "d_out": d_out}
    cfg = origin.configure(path, said, **shape, skip=skip)
    names = {name: _NAMES.get(name, name) for name in tensor_shapes(cfg)}
    return Plan(cfg=cfg, weights=weights, names=names)


def write(sae: SAE, folder: Path, dtype: torch.dtype) -> Path:
    """Write both files; ValueError for anything but a JumpReLU SAE."""
    cfg = sae.cfg
    if cfg.architecture != "jumprelu":
        raise ValueError("Gemma Scope 2's format holds JumpReLU SAEs and transcoders only.")
    path = folder / WEIGHTS_FILE
    tensors = {name: getattr(sae, name).detach().to("cpu", dtype) for name in tensor_shapes(cfg)}
    save_file({_NAMES.get(n, n): tensor.contiguous() for n, tensor in tensors.items()}, path)
    declared = cfg.metadata.get("declared") or {}
    written: dict[str, Any] = {
        "architecture": "jump_relu",
        "model_name": cfg.model_name,
        "width": cfg.d_sae,
        "l0": declared.get("l0"),
        "hf_hook_point_in": gemma_module_name(cfg.site) if cfg.site else "",
        "type": "transcoder" if cfg.is_transcoder else "sae",
        KEY: record(cfg),
    }
    if cfg.site_out is not None:
        written["hf_hook_point_out"] = gemma_module_name(cfg.site_out)
        written["affine_connection"] = cfg.skip
    write_json(folder / CONFIG_FILE, written)
    return path


def _said(config: Path) -> dict[str, Any]:
    """What config.json says, as fields of `SAEConfig`, and the `width`."""
    written = read_json(config)
    if written.get("architecture", "jump_relu") != "jump_relu":
        raise ValueError(f"{config} is of a {written['architecture']!r}: jump_relu is read.")
    said: dict[str, Any] = {"model_name": _hub_id(entry(written, "model_name", str, config) or "")}
    for field, key in (("site", "hf_hook_point_in"), ("site_out", "hf_hook_point_out")):
        said[field] = site_of_hook(entry(written, key, str, config) or "")
    if said["site_out"] == said["site"]:
        said["site_out"] = None  # an SAE's, which some files name twice
    l0 = entry(written, "l0", (int, float), config)
    said["metadata"] = {} if l0 is None else {"declared": {"l0": float(l0)}}
    return said | recall(written, config) | {"width": entry(written, "width", int, config)}


def _hub_id(name: str) -> str:
    """The model's hub id: some files have `gemma-v3-1b-pt`."""
    if not name.startswith("gemma-v3-"):
        return name
    name = name.replace("-v3-", "-3-")
    return "google/" + (name.removesuffix("-pt") if "270m" in name else name)
