"""The YAML beside the weights of formats that have it: only plain values are made of it."""

from pathlib import Path
from typing import Any

import yaml

_LONGEST = 1_000_000
"""Bytes; the settings of an SAE are a few hundred."""


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; ValueError with one sentence if it holds none."""
    if path.stat().st_size > _LONGEST:
        raise ValueError(f"{path} is too long for an SAE's settings.")
    try:
        written = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{path} is not valid YAML ({said}).") from error
    if not isinstance(written, dict):
        raise ValueError(f"{path} is YAML but not an SAE's {path.name}.")
    # Weights & Biases wraps each setting: `d_model: {desc: null, value: 2560}`.
    return {
        str(key): value["value"] if isinstance(value, dict) and "value" in value else value
        for key, value in written.items()
    }
