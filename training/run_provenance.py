"""Where an SAE comes from: versions, commit, device, settings, for its metadata."""

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from sae_core.corpus import data_set_of
from sae_core.hub.datasets import pinned
from training.train_config import TrainConfig

_PACKAGES = ("jumpscope", "torch", "triton", "transformers", "duckdb")


def model_name(model: str) -> str:
    """A hub id as it is; for a folder its name (its parent's for a bundle's folder `model`)."""
    path = Path(model)
    if not path.is_dir():
        return model
    path = path.resolve()
    return path.parent.name if path.name == "model" else path.name


def model_place(model: str) -> str:
    """A hub id as it is; for a folder its absolute path."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def file_names(paths: Sequence[str]) -> list[str]:
    """Local paths without their folders, for other machines have others; data sets of the hub with
    their commit, URLs as they are.
    """
    return [_file_name(path) for path in paths]


def _file_name(path: str) -> str:
    if data_set := data_set_of(path):
        return pinned(data_set)
    return path if "://" in path else Path(path).name


def settings(cfg: TrainConfig) -> dict[str, Any]:
    """The settings that decide an SAE's weights, as JSON values."""
    chosen = asdict(cfg)
    del chosen["run"], chosen["out"]
    chosen["model"] = model_name(cfg.model)
    for name in ("corpus", "eval_corpus"):
        chosen[name] = file_names(chosen[name])
    return chosen


def software(device: torch.device) -> dict[str, Any]:
    """Versions, git commit (None outside a checkout) and device."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    cuda = device.type == "cuda"
    return {
        "versions": versions,
        "commit": _commit(),
        "device": torch.cuda.get_device_name(device) if cuda else platform.machine(),
    }


def _commit() -> str | None:
    """Commit of the checkout this package is run from, marked `+` if files differ from it."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *args: str) -> str:
    command = ["git", "-C", str(root), *args]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=20
    ).stdout.strip()
