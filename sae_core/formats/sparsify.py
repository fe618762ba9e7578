"""EleutherAI's sparsify: TopK SAEs and transcoders as `cfg.json` and `sae.safetensors`.

`encoder.weight [F, d_in]`, `encoder.bias [F]`, `W_dec [F, d_in]`, `b_dec [d_in]`, and with a skip
connection `W_skip [d_in, d_in]`, of which x @ W_skip.mT is added. An SAE encodes x - b_dec, a
transcoder x. The folder is named after the module that was read (`layers.10`, `layers.10.mlp`),
and the run's `config.json` lies one level up.
"""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sae_core.config import Site, SiteKind
from sae_core.formats.config_json import KEY, entry, read_json, recall, record, write_json
from sae_core.formats.folding import project, subtract_b_dec
from sae_core.formats.hooks import site_of_hook
from sae_core.formats.origin import Origin
from sae_core.formats.plan import Plan, decoder_width, matrix_shape
from sae_core.formats.safetensors_file import SafetensorsFile
from sae_core.sae import SAE

WEIGHTS_FILE = "sae.safetensors"
CONFIG_FILE = "cfg.json"
_NAMES = {
    "W_enc": "encoder.weight",
    "b_enc": "encoder.bias",
    "W_dec": "W_dec",
    "b_dec": "b_dec",
    "W_skip": "W_skip",
}
# What a module of a block reads, for transcoders from its input to its output.
_INPUTS: dict[SiteKind, SiteKind] = {"resid_post": "resid_pre", "mlp_proj": "mlp_in"}


def plan(path: Path, origin: Origin) -> Plan:
    """How to read a folder, or the `sae.safetensors` in one."""
    folder = path if path.is_dir() else path.parent
    config = folder / CONFIG_FILE
    if not config.is_file():
        raise ValueError(f"{folder} has no {CONFIG_FILE}: without it, the SAE's k is unknown.")
    written = read_json(config)
    weights = SafetensorsFile(folder / WEIGHTS_FILE)
    d_sae, d_model = matrix_shape(weights, "encoder.weight")
    d_out = decoder_width(weights, "W_dec", d_sae)
    for key, size in (("d_in", d_model), ("num_latents", d_sae)):
        if (entry(written, key, int, config) or size) != size:
            raise ValueError(f"{config} says {key}={written[key]} but the weights have {size}.")
    k = entry(written, "k", int, config)
    if k is None:
        raise ValueError(f"{config} lacks 'k': it is not an SAE of sparsify's.")
    if written.get("activation", "topk") != "topk" or written.get("signed"):
        kind = "signed topk" if written.get("signed") else written["activation"]
        raise ValueError(f"{config} is of a {kind} SAE: of sparsify's SAEs only topk are read.")
    transcode = bool(written.get("transcode"))
    skip = "W_skip" in weights.headers
    cfg = origin.configure(
        folder,
        _said(folder, transcode) | recall(written, config),
        transcoder=transcode,
        architecture="topk",
        d_model=d_model,
        d_sae=d_sae,
        d_out=d_out,
        skip=skip,
        k=k,
    )
    return Plan(
        cfg=cfg,
        weights=weights,
        names={name: stored for name, stored in _NAMES.items() if name != "W_skip" or skip},
        transposed=frozenset({"W_enc", "W_skip"}),
        # multi_topk is a loss of training: encoding is plain TopK.
        fold=None if transcode else subtract_b_dec,
    )


def write(sae: SAE, folder: Path, dtype: torch.dtype) -> Path:
    """Write both files; ValueError for anything but TopK from and to one width."""
    cfg = sae.cfg
    if cfg.architecture != "topk":
        raise ValueError(f"sparsify's format holds topk SAEs only, and this is {cfg.architecture}.")
    if cfg.width_out != cfg.d_model:
        raise ValueError("sparsify's format holds transcoders between equal widths only.")
    bias = sae.b_enc.data
    if not cfg.is_transcoder:
        bias = bias + project(sae, sae.b_dec.data)  # its encoder takes b_dec off the input
    tensors = {
        "encoder.weight": sae.W_enc.data.T,
        "encoder.bias": bias,
        "W_dec": sae.W_dec.data,
        "b_dec": sae.b_dec.data,
    }
    if cfg.skip:
        tensors["W_skip"] = sae.W_skip.data.T
    path = folder / WEIGHTS_FILE
    save_file({name: t.to("cpu", dtype).contiguous() for name, t in tensors.items()}, path)
    written = {
        "activation": "topk",
        "expansion_factor": max(1, cfg.d_sae // cfg.d_model),
        "normalize_decoder": True,
        "num_latents": cfg.d_sae,
        "k": cfg.k,
        "multi_topk": False,
        "skip_connection": cfg.skip,
        "transcode": cfg.is_transcoder,
        "d_in": cfg.d_model,
        KEY: record(cfg),
    }
    write_json(folder / CONFIG_FILE, written)
    return path


def _said(folder: Path, transcode: bool) -> dict[str, Any]:
    """What the folder's name and the run's settings say, as fields of `SAEConfig`."""
    hookpoint = folder.absolute()
    if re.fullmatch(r"seed\d+", hookpoint.name):
        hookpoint = hookpoint.parent  # a run with several seeds has a folder for each
    above = hookpoint.parent / "config.json"
    run = read_json(above) if above.is_file() else {}
    site = site_of_hook(hookpoint.name)
    site_out = None
    if transcode:
        inside = _INPUTS.get(site.kind) if site else None
        site, site_out = (Site(inside, site.layer), site) if site and inside else (None, None)
    return {
        "site": site,
        "site_out": site_out,
        "model_name": entry(run, "model", str, above),
        "context_size": entry(run, "ctx_len", int, above),
    }
