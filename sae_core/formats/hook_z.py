"""SAEs of attention's output as Connor Kissane and Rob Krzyzanowski published them for GPT-2.

A PyTorch file `gpt2-small_L5_Hcat_z_....pt` with `W_enc [d, F]`, `b_enc`, `W_dec [F, d]`, `b_dec`,
and beside it `..._cfg.json`, whose keys are `act_name` (`blocks.5.attn.hook_z`: the heads' outputs,
side by side), `act_size`, `dict_size`. ReLU; b_dec is taken off the input.
"""

from pathlib import Path

import torch

from sae_core.formats.config_json import KEY, entry, read_json, recall, record, write_json
from sae_core.formats.folding import project, subtract_b_dec
from sae_core.formats.hooks import site_of_hook, transformer_lens_name
from sae_core.formats.origin import Origin
from sae_core.formats.plan import Plan, matrix_shape
from sae_core.formats.torch_file import TorchFile
from sae_core.sae import SAE

_NAMES = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
_MODEL = "openai-community/gpt2"
_CONTEXT = 128


def config_file(path: Path) -> Path:
    """The settings that belong to a file of weights."""
    return path.with_name(f"{path.stem}_cfg.json")


def plan(path: Path, origin: Origin) -> Plan:
    """How to read the file."""
    weights = TorchFile(path)
    d_model, d_sae = matrix_shape(weights, "W_enc")
    config = config_file(path)
    if not config.is_file():
        raise ValueError(f"{path} lacks {config.name} beside it, which names its activation.")
    written = read_json(config)
    for key, size in (("act_size", d_model), ("dict_size", d_sae)):
        if (entry(written, key, int, config) or size) != size:
            raise ValueError(f"{config} says {key}={written[key]} but {path} has {size}.")
    name = entry(written, "act_name", str, config) or ""
    site = site_of_hook(name)
    if site is None:
        raise ValueError(f"{config} names no activation that is a site: act_name is {name!r}.")
    said = {"site": site, "model_name": _MODEL, "context_size": _CONTEXT}
    said |= recall(written, config)
    cfg = origin.configure(path, said, architecture="standard", d_model=d_model, d_sae=d_sae)
    return Plan(cfg=cfg, weights=weights, names=_NAMES, fold=subtract_b_dec)


def write(sae: SAE, folder: Path, dtype: torch.dtype) -> Path:
    """Write both files; ValueError for anything but a ReLU SAE that says its site."""
    cfg = sae.cfg
    if cfg.architecture != "standard" or cfg.is_transcoder or cfg.site is None:
        raise ValueError(
            f"this format holds standard (ReLU) SAEs of a site only, and this is {cfg.architecture}"
            f" of {cfg.site}."
        )
    tensors = {name: getattr(sae, name).data for name in _NAMES}
    tensors["b_enc"] = tensors["b_enc"] + project(sae, sae.b_dec.data)
    state = {
        name: tensor.to("cpu", dtype).clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    model = cfg.model_name.rpartition("/")[2] or "model"
    path = folder / f"{model}_L{cfg.site.layer}_Hcat_z_{cfg.d_sae}.pt"
    torch.save(state, path)
    written = {
        "act_name": transformer_lens_name(cfg.site),
        "act_size": cfg.d_model,
        "dict_size": cfg.d_sae,
        KEY: record(cfg),
    }
    write_json(config_file(path), written)
    return path
