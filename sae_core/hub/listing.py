"""Which commit a revision is, and which files it has: requested once, then kept.

A commit never changes, so its list of files is kept beside the client's cache (HF_HOME/assets), and
`canonical` and `jumpscope list` work offline too. What a branch pointed to last is kept by the
client itself.
"""

import json
import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, ModelInfo, cached_assets_path, constants
from huggingface_hub.errors import RevisionResolutionError

from sae_core.files import atomic_write
from sae_core.hub.failures import explained, not_a_hub, unreachable

log = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A repository at one commit."""

    repo: str
    commit: str
    files: dict[str, int] | None
    """Path -> size in bytes; None if it was never listed and the hub cannot be reached."""


def look(repo: str, revision: str | None = None) -> Listing:
    """The repository's files at `revision`, by default at the newest commit.

    Where the hub cannot be reached, what it said last is used. ValueError with one sentence if the
    repository or the revision does not exist, or if it never answered and cannot be reached.
    """
    what = f"{repo}@{revision}" if revision else repo
    try:
        commit = _commit(repo, revision)
        return Listing(repo=repo, commit=commit, files=_files(repo, commit))
    except json.JSONDecodeError as error:
        raise not_a_hub() from error
    except Exception as error:
        if sentence := explained(error, what):
            raise sentence from error
        raise


def _commit(repo: str, revision: str | None) -> str:
    if revision and _COMMIT.fullmatch(revision):
        return revision
    try:
        # Requested here, for resolve_revision would wait for ever for a hub that does not answer.
        commit = _info(repo, revision).sha
    except Exception as error:
        if not unreachable(error):
            raise
        try:
            kept = HfApi().resolve_revision(repo, revision=revision, local_files_only=True).resolved
        except RevisionResolutionError:
            raise error from None
        if not constants.is_offline_mode():
            log.warning("The hub cannot be reached: going on with %s as of %s.", repo, kept[:8])
        return kept
    assert commit is not None
    # The client notes what the revision is, for later use offline by us and others.
    api = HfApi()
    with suppress(RevisionResolutionError):
        if api.resolve_revision(repo, revision=revision, local_files_only=True).resolved == commit:
            return commit
    return api.resolve_revision(repo, revision=revision).resolved


def _files(repo: str, commit: str) -> dict[str, int] | None:
    kept = _kept(repo, commit)
    if kept is not None:
        with suppress(OSError, ValueError, TypeError, AttributeError):
            return {str(name): int(size) for name, size in json.loads(kept.read_text()).items()}
    try:
        info = _info(repo, commit, sizes=True)
    except Exception as error:
        if unreachable(error):
            return None
        raise
    files = {file.rfilename: file.size or 0 for file in info.siblings or []}
    if kept is not None:
        # Not to keep it costs a request next time, no more.
        with suppress(OSError, ValueError), atomic_write(kept) as temporary:
            temporary.write_text(json.dumps(files))
    return files


def _info(repo: str, revision: str | None, *, sizes: bool = False) -> ModelInfo:
    # The hub takes its time over the sizes of a thousand files.
    timeout = constants.HF_HUB_ETAG_TIMEOUT * (6 if sizes else 1)
    return HfApi().model_info(repo, revision=revision, timeout=timeout, files_metadata=sizes)


def _kept(repo: str, commit: str) -> Path | None:
    """The file for a commit's list of files; None if no folder can be made for it."""
    try:
        folder = cached_assets_path(
            "jumpscope", namespace=repo, subfolder="files", assets_dir=constants.HF_ASSETS_CACHE
        )
    except (OSError, ValueError):
        return None
    return folder / f"{commit}.json"
