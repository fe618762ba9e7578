"""Which commit a revision is, and which files it has: requested once, then kept.

A commit never changes, so its list of files is kept beside the client's cache (HF_HOME/assets), and
`canonical` and `jumpscope list` work offline too. What a branch pointed to last is kept by the
client itself.
"""

import json
import logging
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from huggingface_hub import DatasetInfo, HfApi, ModelInfo, cached_assets_path, constants
from huggingface_hub.errors import RevisionResolutionError

from sae_core.files import atomic_write
from sae_core.hub.failures import errors_explained, not_a_hub, unreachable

log = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}")

RepoKind = Literal["model", "dataset"]
"""What a repository of the hub is; the hub keeps SAEs as models."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A repository at one commit."""

    repo: str
    commit: str
    files: dict[str, int] | None
    """Path -> size in bytes; None if it was never listed and the hub cannot be reached."""
    hashes: dict[str, str] = field(default_factory=dict)
    """Path -> SHA-256 of a large file."""


def look(repo: str, revision: str | None = None, *, kind: RepoKind = "model") -> Listing:
    """The repository's files at `revision`, by default at the newest commit.

    Where the hub cannot be reached, what it said last is used. ValueError with one sentence if the
    repository or the revision does not exist, or if it never answered and cannot be reached.
    """
    what = f"{repo}@{revision}" if revision else repo
    with errors_explained(what, kind=kind):
        try:
            commit = _commit(repo, revision, kind)
            files = _files(repo, commit, kind)
        except json.JSONDecodeError as error:
            raise not_a_hub() from error
    if files is None:
        return Listing(repo=repo, commit=commit, files=None)
    return Listing(
        repo=repo,
        commit=commit,
        files={path: size for path, (size, _) in files.items()},
        hashes={path: sha256 for path, (_, sha256) in files.items() if sha256},
    )


def _commit(repo: str, revision: str | None, kind: RepoKind) -> str:
    if revision and _COMMIT.fullmatch(revision):
        return revision
    try:
        # Requested here, for resolve_revision would wait for ever for a hub that does not answer.
        commit = _info(repo, revision, kind).sha
    except Exception as error:  # of no class in common: `unreachable` tells them apart
        if not unreachable(error):
            raise
        try:
            kept = (
                HfApi()
                .resolve_revision(repo, repo_type=kind, revision=revision, local_files_only=True)
                .resolved
            )
        except RevisionResolutionError:
            raise error from None
        if not constants.is_offline_mode():
            log.warning("The hub cannot be reached: going on with %s as of %s.", repo, kept[:8])
        return kept
    assert commit is not None
    # The client notes what the revision is, for later use offline by us and others.
    api = HfApi()
    with suppress(RevisionResolutionError):
        kept = api.resolve_revision(
            repo, repo_type=kind, revision=revision, local_files_only=True
        ).resolved
        if kept == commit:
            return commit
    return api.resolve_revision(repo, repo_type=kind, revision=revision).resolved


def _files(repo: str, commit: str, kind: RepoKind) -> dict[str, tuple[int, str]] | None:
    """Path -> size, and SHA-256 or "" for files that the hub keeps no such hash of."""
    kept = _kept(repo, commit)
    if kept is not None:
        # What cannot be unpacked is damaged, or was kept when hashes were not.
        with suppress(OSError, ValueError, TypeError, AttributeError):
            held = json.loads(kept.read_text()).items()
            return {str(name): (int(size), str(sha256)) for name, (size, sha256) in held}
    try:
        info = _info(repo, commit, kind, sizes=True)
    except Exception as error:  # as above; the caller says what is missing
        if unreachable(error):
            return None
        raise
    files = {
        file.rfilename: (file.size or 0, file.lfs.sha256 if file.lfs else "")
        for file in info.siblings or []
    }
    if kept is not None:
        # Not to keep it costs a request next time, no more.
        with suppress(OSError, ValueError), atomic_write(kept) as temporary:
            temporary.write_text(json.dumps(files))
    return files


def _info(
    repo: str, revision: str | None, kind: RepoKind, *, sizes: bool = False
) -> ModelInfo | DatasetInfo:
    # The hub takes its time over the sizes of a thousand files.
    timeout = constants.HF_HUB_ETAG_TIMEOUT * (6 if sizes else 1)
    api = HfApi()
    info = api.model_info if kind == "model" else api.dataset_info
    return info(repo, revision=revision, timeout=timeout, files_metadata=sizes)


def _kept(repo: str, commit: str) -> Path | None:
    """The file for a commit's list of files; None if no folder can be made for it."""
    try:
        folder = cached_assets_path(
            "jumpscope", namespace=repo, subfolder="files", assets_dir=constants.HF_ASSETS_CACHE
        )
    except (OSError, ValueError):
        return None
    return folder / f"{commit}.json"
