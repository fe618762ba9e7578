"""The JSON beside the weights: reading it, and what we add to the formats of others.

Their readers ignore keys that they do not know, so what an SAE's configuration says beyond the
format's own keys stands under `jumpscope`, and nothing is lost on the way there and back.
"""

import json
from pathlib import Path
from typing import Any

from sae_core.config import SAEConfig, Site

KEY = "jumpscope"
_FIELDS = ("site", "site_out", "model_name", "prepend_bos", "context_size")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ValueError with one sentence if it holds none."""
    try:
        written = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(written, dict):
        raise ValueError(f"{path} is JSON but not an SAE's {path.name}.")
    return written


def write_json(path: Path, written: dict[str, Any]) -> None:
    """Write a JSON object, indented."""
    path.write_text(json.dumps(written, indent=2, allow_nan=False) + "\n")


def entry(written: dict[str, Any], key: str, kind: type | tuple[type, ...], path: Path) -> Any:
    """`written[key]`, None if it is not there or null; ValueError if it is not of `kind`."""
    value = written.get(key)
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{path} holds a value of the wrong kind: {key} is {value!r}.")
    return value


def site(text: str | None) -> Site | None:
    """A site as a configuration has it."""
    return Site.parse(text) if text else None


def sites(cfg: SAEConfig) -> dict[str, str | None]:
    """The configuration's sites as JSON."""
    read = {"site": None if cfg.site is None else str(cfg.site)}
    return read if cfg.site_out is None else read | {"site_out": str(cfg.site_out)}


def record(cfg: SAEConfig) -> dict[str, Any]:
    """What to write under `KEY` in a format that has no keys for it."""
    # The hash is that of the file it was read from, not of the one beside this.
    metadata = {key: value for key, value in cfg.metadata.items() if key != "content_hash"}
    return {
        **metadata,
        **sites(cfg),
        "model_name": cfg.model_name,
        "prepend_bos": cfg.prepend_bos,
        "context_size": cfg.context_size,
    }


def recall(written: dict[str, Any], path: Path) -> dict[str, Any]:
    """What we recorded in a file as fields of `SAEConfig`; nothing if we did not write it."""
    ours = dict(entry(written, KEY, dict, path) or {})
    if not ours:
        return {}
    return {
        "site": site(entry(ours, "site", str, path)),
        "site_out": site(entry(ours, "site_out", str, path)),
        "model_name": entry(ours, "model_name", str, path),
        "prepend_bos": entry(ours, "prepend_bos", bool, path),
        "context_size": entry(ours, "context_size", int, path),
        "metadata": {key: value for key, value in ours.items() if key not in _FIELDS},
    }
