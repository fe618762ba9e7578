"""All formats by name: which one a path holds, reading it, writing it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch

from sae_core.config import SAEConfig
from sae_core.files import atomic_folder, keep_others, sha256
from sae_core.formats import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    goodfire,
    hook_z,
    llama_scope,
    qwen_scope,
    saelens,
    sparsify,
)
from sae_core.formats.container import DamagedError, refuse_placeholder
from sae_core.formats.layouts import LAYOUTS, layout_of, refused
from sae_core.formats.names import origin_of_path
from sae_core.formats.origin import Origin
from sae_core.formats.plan import Plan
from sae_core.formats.safetensors_file import SafetensorsFile
from sae_core.formats.torch_file import TorchFile
from sae_core.sae import SAE

_MODULES: dict[str, ModuleType] = {
    "saelens": saelens,
    "gemma_scope": gemma_scope,
    "gemma_scope_2": gemma_scope_2,
    "dictionary_learning": dictionary_learning,
    "sparsify": sparsify,
    "llama_scope": llama_scope,
    "qwen_scope": qwen_scope,
    "circuit_tracer": circuit_tracer,
    "goodfire": goodfire,
    "hook_z": hook_z,
}

FORMATS = tuple(_MODULES)
"""Names of the formats that are read."""

WRITTEN = tuple(name for name in FORMATS if name != "qwen_scope")
"""Names of those that are written too: their files say all that an SAE is."""


def recognise(path: Path) -> str:
    """The format of a folder or file; ValueError with one sentence if it is none of ours."""
    if not path.exists():
        raise ValueError(f"{path} does not exist.")
    return _held(path)[0]


def weights_file(path: Path) -> Path:
    """The file with the weights of the SAE in a folder, or the file that `path` is itself."""
    return _held(path)[1]


def read_config(path: Path, *, origin: Origin | None = None) -> SAEConfig:
    """The configuration of an SAE of any format from its headers, without reading its weights."""
    with _naming_the_culprit(origin):
        return _plan(path, origin).cfg


def read_sae(
    path: Path, device: str | torch.device = "cpu", *, origin: Origin | None = None
) -> SAE:
    """Read an SAE of any format; its weights become float32 on `device`.

    What the file itself does not say is taken from `origin`, by default from the names of the
    folders around it. The metadata's `content_hash` is the SHA-256 of the weights file. ValueError
    with one sentence for anything that is not a whole SAE.
    """
    with _naming_the_culprit(origin):
        return _plan(path, origin).carry_out(device)


def write_sae(sae: SAE, folder: Path, to: str, dtype: torch.dtype = torch.float32) -> SAEConfig:
    """Write `sae` to `folder` in the format `to`; its configuration with the new file's hash.

    An SAE of the same format that is there is replaced, and other files beside it are kept.
    ValueError if the format cannot hold the SAE, or if the folder holds something else.
    """
    if to not in WRITTEN:
        raise ValueError(f"unknown format {to!r}: use one of {', '.join(WRITTEN)}.")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder.")
    if folder.is_dir() and any(folder.iterdir()) and (_weights_in(folder) or ("",))[0] != to:
        raise ValueError(f"{folder} is not empty and holds no {to} SAE: choose another folder.")
    if to != "saelens" and dtype == torch.float8_e4m3fn:
        raise ValueError(f"{to} has no float8_e4m3fn: write saelens, or another dtype.")
    if to == "saelens":
        return saelens.save_sae(sae, folder, dtype)
    with atomic_folder(folder) as temporary:
        path = _MODULES[to].write(sae, temporary, dtype)
        path.chmod(0o644)
        digest = sha256(path)
        if folder.is_dir():
            keep_others(folder, temporary)
    return replace(sae.cfg, metadata={**sae.cfg.metadata, "content_hash": digest})


@contextmanager
def _naming_the_culprit(origin: Origin | None) -> Iterator[None]:
    """Inside the block the error for a damaged file says so if the file is as long as the hub's
    own: then to download it again would not help.
    """
    try:
        yield
    except DamagedError as error:
        if origin is None or error.path.stat().st_size != origin.bytes:
            raise
        raise ValueError(
            f"{error.path} is {error.wrong}, and as long as on the hub: {origin.repo}'s own file "
            "is not whole, so choose another folder of it, or tell its owner."
        ) from error


def _held(path: Path) -> tuple[str, Path]:
    """The format and the weights file of the SAE at `path`; ValueError if there is none."""
    if not path.is_dir():
        return _of_file(path), path
    if located := _weights_in(path):
        return located
    files = sorted(file.relative_to(path).as_posix() for file in path.glob("*.safetensors"))
    if reason := refused([*files, *(f"{path.as_posix()}/{file}" for file in files)]):
        raise ValueError(f"{path} holds {reason}.")
    if any("w_enc" in SafetensorsFile(path / file).headers for file in files):
        raise ValueError(
            f"{path} holds the layers of a cross-layer transcoder: SAEs and transcoders of one "
            "layer are read."
        )
    raise ValueError(f"{path} holds no SAE: no file is named as one of {', '.join(FORMATS)}.")


def _weights_in(folder: Path) -> tuple[str, Path] | None:
    """The format and the weights file of the one SAE in a folder, None if there is none.

    ValueError if it holds several files that are an SAE each.
    """
    for layout in LAYOUTS:
        files = layout.within(folder)
        if len(files) > 1:
            raise ValueError(
                f"{folder} holds {len(files)} SAEs: name one of its files, as {files[0].name}."
            )
        if files:
            return _of_file(files[0]), files[0]
    # Of an SAE without its weights the reader says what is missing.
    if (folder / saelens.CONFIG_FILE).is_file():
        return "saelens", folder / saelens.WEIGHTS_FILE
    return None


def _of_file(path: Path) -> str:
    """The format of a file, from its name and, where several formats share one, its tensors."""
    if reason := refused([path.as_posix()]):
        raise ValueError(f"{path} is {reason}.")
    layout = layout_of(path.absolute().as_posix())
    name = layout.format if layout else ""
    if name == "saelens":
        others = (path.parent / saelens.CONFIG_FILE, path.parent / llama_scope.CONFIG_FILE)
        return "llama_scope" if not others[0].is_file() and others[1].is_file() else name
    if path.suffix == ".npz":
        return "gemma_scope"
    if path.suffix in (".pt", ".pth") and name not in ("dictionary_learning", "qwen_scope"):
        if hook_z.config_file(path).is_file():
            return "hook_z"
        headers = TorchFile(path, inside="ae").headers
        return "goodfire" if goodfire.ENCODER in headers else "dictionary_learning"
    if name:
        return name
    if path.suffix == ".safetensors" and "w_enc" in SafetensorsFile(path).headers:
        return "gemma_scope_2"
    refuse_placeholder(path)
    raise ValueError(f"{path} is in no SAE format that is read: {', '.join(FORMATS)}.")


def _plan(path: Path, origin: Origin | None) -> Plan:
    name, weights = _held(path)
    if origin is None:
        origin = origin_of_path(weights)
    plan: Plan = _MODULES[name].plan(weights, origin)
    metadata = plan.cfg.metadata
    if not origin.repo and (name == "saelens" or "source" in metadata):
        return plan  # ours, or made from something that the file still knows
    source = {**metadata.get("source", {}), "format": name}
    return replace(plan, cfg=replace(plan.cfg, metadata={**metadata, "source": source}))
