"""SAELens' `cfg.json`: what its versions wrote, as an `SAEConfig` and what remains to be folded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from sae_core.config import Architecture, SAEConfig, Site
from sae_core.formats.config_json import KEY, entry, read_json, site, sites, write_json
from sae_core.formats.hooks import site_of_hook, transformer_lens_name
from sae_core.formats.origin import Origin

CONFIG_FILE = "cfg.json"
SCALE_FILE = "activation_scaler.json"
# From this version on SAELens reads nested metadata; without it, it would lose ours.
SAE_LENS_VERSION = "6.54.12"
# Saved in training: what save_inference_model would make of them is read.
_OF_BATCH = ("batchtopk", "matryoshka_batchtopk")
_NO_SAE = {
    "temporal": "depends on earlier tokens through attention of its own",
    "matching_pursuit": "encodes a token in steps, each on what the ones before left",
    "abstopk": "has negative activations, which nothing here shows",
}
_OLD_NAMES = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a `cfg.json` says."""

    cfg: SAEConfig
    subtract_b_dec: bool
    """Whether it encodes x - b_dec."""
    by_decoder_norm: bool
    """TopK: whether activations are multiplied by the lengths of decoder rows."""
    scale: float | None
    """Factor of its input in training, if that is not in the weights yet."""
    of_batch: bool
    """Whether it was saved in training by a batch's TopK: one threshold is stored apart."""


def describe(folder: Path, origin: Origin) -> Described:
    """Read `cfg.json`; ValueError with one sentence for what cannot be one of our SAEs."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder} is not an SAE folder: it has no {CONFIG_FILE}.")
    written = read_json(path)
    metadata = entry(written, "metadata", dict, path) or {}
    if not _is_nested(written, metadata):
        written = metadata = _renewed(written, path)
    ours = dict(entry(metadata, KEY, dict, path) or {})
    of_batch = written.get("architecture") in _OF_BATCH
    architecture, transcoder, skip = _architecture(written, path)
    model_name = entry(metadata, "model_name", str, path) or ""
    sites_said = {
        "site": site(ours.pop("site", None)) or _hook(metadata, "hook_name", model_name, path),
        "site_out": site(ours.pop("site_out", None))
        or (_hook(metadata, "hook_name_out", model_name, path) if transcoder else None),
    }
    said = {
        **sites_said,
        "model_name": model_name,
        "prepend_bos": entry(metadata, "prepend_bos", bool, path),
        "context_size": entry(metadata, "context_size", int, path),
        "metadata": _declared(written, metadata, of_batch, path) | ours,
    }
    cfg = origin.configure(
        path,
        said,
        transcoder=transcoder,
        architecture=architecture,
        d_model=_size(written, "d_in", path),
        d_sae=_size(written, "d_sae", path),
        d_out=_size(written, "d_out", path) if transcoder else None,
        skip=skip,
        k=_size(written, "k", path) if architecture == "topk" else None,
    )
    # SAELens takes b_dec off the input unless it is told not to, but never a transcoder's.
    subtract = written.get("apply_b_dec_to_input", not transcoder)
    if subtract and transcoder:
        raise ValueError(f"{path} has apply_b_dec_to_input={subtract!r}, which no transcoder has.")
    return Described(
        cfg=cfg,
        subtract_b_dec=bool(subtract),
        by_decoder_norm=(architecture == "topk" or of_batch)
        and bool(written.get("rescale_acts_by_decoder_norm")),
        scale=_scale(written, folder),
        of_batch=of_batch,
    )


def write_config(cfg: SAEConfig, path: Path) -> None:
    """Write `cfg.json` for weights that take raw activations."""
    # SAELens' activations of this hook come with the heads apart.
    by_heads = cfg.site is not None and cfg.site.kind == "attn_out" and not cfg.is_transcoder
    metadata: dict[str, Any] = {
        "sae_lens_version": SAE_LENS_VERSION,
        "model_name": cfg.model_name,
        "hook_name": "" if cfg.site is None else transformer_lens_name(cfg.site),
        "prepend_bos": cfg.prepend_bos,
        "context_size": cfg.context_size,
        "exclude_special_tokens": True,
        KEY: {**cfg.metadata, **sites(cfg)},
    }
    written: dict[str, Any] = {
        "architecture": architecture_name(cfg),
        "d_in": cfg.d_model,
        "d_sae": cfg.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if by_heads else "none",
        "metadata": metadata,
    }
    if cfg.site_out is not None:
        metadata["hook_name_out"] = transformer_lens_name(cfg.site_out)
        written["d_out"] = cfg.width_out
    if cfg.k is not None:
        written |= {"k": cfg.k, "rescale_acts_by_decoder_norm": False}
    write_json(path, written)


def architecture_name(cfg: SAEConfig) -> str:
    """SAELens' name; for Gated and TopK transcoders, which it does not have, a name in its manner.

    So it refuses those rather than take them for SAEs.
    """
    if not cfg.is_transcoder:
        return cfg.architecture
    parts = ["" if cfg.architecture == "standard" else cfg.architecture, "skip" * cfg.skip]
    return "_".join([*filter(None, parts), "transcoder"])


def _architecture(written: dict[str, Any], path: Path) -> tuple[Architecture, bool, bool]:
    """Architecture, whether it is a transcoder's, and whether it has a skip connection."""
    name = entry(written, "architecture", str, path)
    if name is None:
        raise ValueError(f"{path} lacks 'architecture': it is not an SAE's {CONFIG_FILE}.")
    if name in _OF_BATCH:
        return "jumprelu", False, False
    if name in _NO_SAE:
        raise ValueError(f"{path} is of a {name} SAE, which {_NO_SAE[name]}: it cannot be read.")
    parts = name.split("_")
    transcoder = parts[-1] == "transcoder"
    skip = transcoder and "skip" in parts
    base = "_".join(p for p in parts if p not in ("transcoder", "skip")) if transcoder else name
    base = base or "standard"
    if base not in get_args(Architecture):
        names = ", ".join(get_args(Architecture))
        raise ValueError(f"{path} is of an unknown SAE architecture {name!r}: read are {names}.")
    return base, transcoder, skip  # pyright: ignore[reportReturnType] - checked above


def _declared(
    written: dict[str, Any], metadata: dict[str, Any], of_batch: bool, path: Path
) -> dict[str, Any]:
    """The L0 and the dead features that the training measured at its end, as metadata."""
    said: dict[str, Any] = {}
    l0 = entry(metadata, "l0", (int, float), path)
    if l0 is None and of_batch:
        l0 = entry(written, "k", (int, float), path)
    if l0 is not None:
        said["l0"] = float(l0)
    dead = entry(metadata, "num_dead_features", (int, float), path)
    if dead is not None:
        said["dead_features"] = int(dead)
    return {"declared": said} if said else {}


def _is_nested(written: dict[str, Any], metadata: dict[str, Any]) -> bool:
    """Whether this is version 6 or later, as SAELens decides it."""
    version = str(written.get("sae_lens_version") or metadata.get("sae_lens_version") or "0")
    major = version.split(".")[0]
    return major.isdecimal() and int(major) >= 6


def _renewed(written: dict[str, Any], path: Path) -> dict[str, Any]:
    """The flat keys of versions before 6 under today's names, with the defaults of that time."""
    new = {_OLD_NAMES.get(key, key): value for key, value in written.items()}
    new = {"architecture": "standard", "apply_b_dec_to_input": True} | new
    k = (entry(new, "activation_fn_kwargs", dict, path) or {}).get("k")
    if new.get("activation_fn") == "topk" and k is not None:
        new |= {"architecture": "topk", "k": k}
    elif new.get("activation_fn", "relu") != "relu":
        raise ValueError(f"{path} has activation_fn={new['activation_fn']!r}: relu is read.")
    return new


def _hook(metadata: dict[str, Any], key: str, model_name: str, path: Path) -> Site | None:
    """The site of a hook; the module's name, where it is given, says it more exactly."""
    if metadata.get("hook_head_index") is not None:
        return None  # one head of several: no site of ours
    for name in (f"hf_{key}", key):
        named = site_of_hook(entry(metadata, name, str, path) or "", model_name)
        if named is not None:
            return named
    return None


def _size(written: dict[str, Any], key: str, path: Path) -> int:
    value = entry(written, key, int, path)
    if value is None:
        raise ValueError(f"{path} lacks {key!r}: it is not an SAE's {CONFIG_FILE}.")
    return value


def _scale(written: dict[str, Any], folder: Path) -> float | None:
    """Factor of the input that is still to be folded; ValueError for what is no factor."""
    normalised = written.get("normalize_activations")
    if normalised in (None, False, "none"):
        return None
    beside = folder / SCALE_FILE
    if normalised in (True, "expected_average_only_in") and beside.is_file():
        factor = entry(read_json(beside), "scaling_factor", (int, float), beside)
        if factor is not None and factor > 0:
            return float(factor)
    if normalised in (True, "expected_average_only_in"):
        raise ValueError(
            f"{folder / CONFIG_FILE} has normalize_activations={normalised!r} but the factor is "
            f"not beside it in {SCALE_FILE}: fold it into the weights with SAELens first."
        )
    raise ValueError(
        f"{folder / CONFIG_FILE} has normalize_activations={normalised!r}, which depends on each "
        "token and cannot be folded into the weights."
    )
