"""A check's result, kept with the SAE that it is about.

In the metadata of an SAE folder that Jumpscope wrote; beside the index, as `check.json`, for an SAE
whose files are somebody else's.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sae_core.bundle import Bundle
from sae_core.check.conventions import as_declared
from sae_core.check.recommended_command import with_source
from sae_core.check.sae_check import Check
from sae_core.files import atomic_write
from sae_core.formats.saelens import load_config, update_metadata
from sae_core.formats.saelens_config import CONFIG_FILE

CHECK_FILE = "check.json"


def save_check(bundle: Bundle, sae: str, check: Check) -> Path:
    """Keep a check, with today's date (UTC), and return the file that was written.

    Weights and index stay as they are. ValueError with one sentence if it cannot be written.
    """
    saved = {**check.as_dict(), "date": datetime.now(UTC).date().isoformat()}
    folder = bundle.sae_path(sae)
    if sae not in bundle.sources and load_config(folder).metadata.get("content_hash"):
        update_metadata(folder, check=saved)
        return folder / CONFIG_FILE
    with atomic_write(folder / CHECK_FILE) as temporary:
        temporary.write_text(json.dumps(saved, indent=2, allow_nan=False) + "\n")
    return folder / CHECK_FILE


def saved_check(bundle: Bundle, sae: str) -> dict[str, Any] | None:
    """The check kept with an SAE, as `Check.as_dict` has it, and its `date`; a command in its
    sentence is as it is typed for this SAE.

    None if there is none, or one of other weights or another site. ValueError with one sentence if
    it is damaged.
    """
    cfg = bundle.sae_config(sae)
    file = bundle.sae_path(sae) / CHECK_FILE
    saved = cfg.metadata.get("check")
    if saved is None and file.is_file():
        try:
            saved = json.loads(file.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is damaged ({error}): check the SAE again.") from error
    here = as_declared(cfg)
    if not isinstance(saved, dict) or saved.get("site") != (here and here.where):
        return None
    # An SAE whose files hold no hash has one once its weights have been read.
    digest = cfg.metadata.get("content_hash")
    if digest not in (None, saved.get("content_hash")):
        return None
    return saved | {"sentence": with_source(str(saved.get("sentence")), bundle.sae_source(sae))}
