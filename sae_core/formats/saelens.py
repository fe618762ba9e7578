"""SAELens' folder layout, which is also ours: `cfg.json` and `sae_weights.safetensors`.

The keys are those of SAELens 6; what Jumpscope adds stands under `metadata.jumpscope`, which
SAELens carries along unread. docs/format.md specifies both.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sae_core.config import SAEConfig, Site
from sae_core.files import atomic_folder, atomic_write, keep_others, sha256
from sae_core.sae import SAE, tensor_shapes

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
# From this version on SAELens reads nested metadata; without it, it would lose ours.
SAE_LENS_VERSION = "6.54.12"
# Rounding these to bfloat16 costs no measurable quality; biases and thresholds stay float32.
_MATRICES = ("W_enc", "W_dec")


def save_sae(sae: SAE, folder: Path | str, dtype: torch.dtype = torch.float32) -> SAEConfig:
    """Write `sae` to `folder` and return the configuration as written.

    An SAE that is there is replaced, and stays whole if this fails; other files of the folder, an
    index say, are kept. `dtype` (float32 or bfloat16) is that of the matrices on disk; vectors are
    float32. The hash of the weights file is added to the metadata as `content_hash`.
    """
    tensors = {
        name: getattr(sae, name).detach().to("cpu", dtype if name in _MATRICES else torch.float32)
        for name in tensor_shapes(sae.cfg)
    }
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    folder = Path(folder)
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / WEIGHTS_FILE, metadata={"format": "pt"})
        (temporary / WEIGHTS_FILE).chmod(0o644)  # safetensors lets only the owner read
        digest = sha256(temporary / WEIGHTS_FILE)
        cfg = _with_metadata(sae.cfg, content_hash=digest)
        _write_config(cfg, temporary / CONFIG_FILE)
        if folder.is_dir():
            keep_others(folder, temporary)
    return cfg


def update_metadata(folder: Path | str, **metadata: Any) -> SAEConfig:
    """Add entries to the metadata of a saved SAE (measured numbers, say), leaving its weights."""
    path = Path(folder) / CONFIG_FILE
    cfg = _with_metadata(_read_config(path), **metadata)
    with atomic_write(path) as temporary:
        _write_config(cfg, temporary)
    return cfg


def load_config(folder: Path | str) -> SAEConfig:
    """The configuration of a saved SAE, without its weights."""
    return _read_config(Path(folder) / CONFIG_FILE)


def load_sae(folder: Path | str, device: str | torch.device = "cpu") -> SAE:
    """Read an SAE written by Jumpscope or SAELens; weights become float32 on `device`.

    Raises ValueError with one sentence for a missing or damaged file, an unknown architecture,
    wrong names or shapes, and values that are not finite.
    """
    folder = Path(folder)
    cfg = _read_config(folder / CONFIG_FILE)
    sae = SAE.build(cfg)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ValueError(f"{folder} has no {WEIGHTS_FILE}: it is not a whole SAE folder.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            _check_names(path, set(file.keys()), set(tensor_shapes(cfg)))
            for name, shape in tensor_shapes(cfg).items():
                found = tuple(file.get_slice(name).get_shape())
                if found != shape:
                    raise ValueError(
                        f"{name} in {path} has shape {found} but {CONFIG_FILE} says {shape}."
                    )
                tensor = file.get_tensor(name).float()
                if not bool(tensor.isfinite().all()):
                    raise ValueError(f"{name} in {path} holds values that are not finite.")
                getattr(sae, name).data = tensor
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or not a safetensors file ({error}): copy or train it again."
        ) from error
    return sae.to(device)


def _check_names(path: Path, found: set[str], expected: set[str]) -> None:
    if missing := expected - found:
        raise ValueError(f"{path} lacks the tensors {', '.join(sorted(missing))}.")
    if extra := found - expected:
        raise ValueError(f"{path} holds tensors of another format: {', '.join(sorted(extra))}.")


def _with_metadata(cfg: SAEConfig, **metadata: Any) -> SAEConfig:
    return replace(cfg, metadata={**cfg.metadata, **metadata})


def _write_config(cfg: SAEConfig, path: Path) -> None:
    site = cfg.site
    metadata: dict[str, Any] = {
        "sae_lens_version": SAE_LENS_VERSION,
        "model_name": cfg.model_name,
        "hook_name": _hook_name(site),
        "prepend_bos": cfg.prepend_bos,
        "context_size": cfg.context_size,
        "exclude_special_tokens": True,
        "jumpscope": {**cfg.metadata, "site": None if site is None else str(site)},
    }
    written: dict[str, Any] = {
        "architecture": cfg.architecture,
        "d_in": cfg.d_model,
        "d_sae": cfg.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        # SAELens' activations of this hook come with the heads apart.
        "reshape_activations": "hook_z" if site and site.kind == "attn_out" else "none",
        "metadata": metadata,
    }
    if cfg.k is not None:
        written |= {"k": cfg.k, "rescale_acts_by_decoder_norm": False}
    path.write_text(json.dumps(written, indent=2, allow_nan=False) + "\n")


def _read_config(path: Path) -> SAEConfig:
    if not path.is_file():
        raise ValueError(f"{path.parent} is not an SAE folder: it has no {CONFIG_FILE}.")
    try:
        written = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}).") from error
    metadata = (written.get("metadata") or {}) if isinstance(written, dict) else None
    ours = (metadata.get("jumpscope") or {}) if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(ours, dict):
        raise ValueError(f"{path} is JSON but not an SAE's {CONFIG_FILE}.")
    ours = dict(ours)
    site = ours.pop("site", None)
    for key, accepted in (
        ("apply_b_dec_to_input", False),
        ("normalize_activations", "none"),
        ("rescale_acts_by_decoder_norm", False),
    ):
        if written.get(key, accepted) != accepted:
            raise ValueError(
                f"{path} has {key}={written[key]!r}: fold it into the weights with SAELens first."
            )
    try:
        return SAEConfig(
            architecture=written["architecture"],
            d_model=written["d_in"],
            d_sae=written["d_sae"],
            site=Site.parse(site) if site else _site_of_hook(metadata.get("hook_name") or ""),
            model_name=metadata.get("model_name") or "",
            prepend_bos=metadata.get("prepend_bos", True),
            context_size=metadata.get("context_size"),
            k=written.get("k"),
            metadata=ours,
        )
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}: it is not an SAE's {CONFIG_FILE}.") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds a value of the wrong kind ({error}).") from error


# TransformerLens' names of the sites, which SAELens' files use.
_HOOKS = {
    "resid_post": "hook_resid_post",
    "mlp_out": "hook_mlp_out",
    "attn_out": "attn.hook_z",
}


def _hook_name(site: Site | None) -> str:
    return "" if site is None else f"blocks.{site.layer}.{_HOOKS[site.kind]}"


def _site_of_hook(hook: str) -> Site | None:
    parts = hook.split(".", 2)
    if len(parts) == 3 and parts[0] == "blocks" and parts[1].isdecimal():
        for kind, name in _HOOKS.items():
            if parts[2] == name:
                return Site(kind, int(parts[1]))  # pyright: ignore[reportArgumentType]
    return None
