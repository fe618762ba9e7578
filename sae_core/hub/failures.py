"""What a failure of the hub's client means for its user, in one sentence that says what to do.

The client's errors come wrapped in each other, and transformers wraps them once more; so the whole
chain of causes is looked at. Its HTTP library is httpx in versions 1 and httpx2 in versions 2 of
huggingface_hub: transport errors are told by the names of their classes, which are the same.
"""

import difflib
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from sae_core.hub.ids import GEMMA_SCOPE, is_gemma_scope

_NOT_CACHED = (LocalEntryNotFoundError, RevisionResolutionError)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def explained(
    error: BaseException, what: str, *, kind: Literal["model", "dataset"] = "model"
) -> ValueError | None:
    """The ValueError to raise from `error`, which came up on the way to `what` on the hub.

    `what` is a repository or an id, as the user gave it; `kind` says of what. None if the hub has
    no part in the error.
    """
    chain = list(_chain(error))
    for cause in chain:
        if sentence := _sentence(cause, what, kind):
            return ValueError(sentence)
    if any(isinstance(cause, _NOT_CACHED) for cause in chain):
        return ValueError(f"{what} is not among the files downloaded before: go online to get it.")
    return None


@contextmanager
def errors_explained(what: str, *, kind: Literal["model", "dataset"] = "model") -> Iterator[None]:
    """Errors of the hub's client in the block become `explained` ones; all others stay as they are.

    Every kind is looked at, since the client's have no class in common: two HTTP libraries raise
    them, the system, and a library that fetches large files in chunks.
    """
    try:
        yield
    except Exception as error:
        if sentence := explained(error, what, kind=kind):
            raise sentence from error
        raise


def unreachable(error: BaseException) -> bool:
    """Whether the hub gave no answer of its own: offline, no network, down. Not a wrong proxy."""
    return any(
        isinstance(cause, OfflineModeIsEnabled)
        or (isinstance(cause, HfHubHTTPError) and cause.response.status_code >= 500)
        or (_is(cause, "TransportError") and not _is(cause, "ProxyError"))
        for cause in _chain(error)
    )


def not_a_hub() -> ValueError:
    """The error for an answer that no hub gives, such as the login page of a network."""
    return ValueError(
        f"what answers at {constants.ENDPOINT} is not a hub: check HF_ENDPOINT, the proxy, and "
        "whether the network wants a login first."
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _is(error: BaseException, name: str) -> bool:
    """Whether `error` is of the HTTP library's class `name` or of one derived from it."""
    return any(
        kind.__name__ == name and kind.__module__.startswith("httpx") for kind in type(error).mro()
    )


def _sentence(error: BaseException, what: str, kind: str) -> str | None:
    if isinstance(error, HfHubHTTPError):
        return _answered(error, what, kind)
    if isinstance(error, OfflineModeIsEnabled):
        return (
            f"{what} is not among the files downloaded before, and HF_HUB_OFFLINE is set: unset it "
            "to download."
        )
    if isinstance(error, HFValidationError):
        return f"{what} is not the name of a hub repository: write owner/name."
    if isinstance(error, FileMetadataError):
        return str(not_a_hub())
    if isinstance(error, OSError) and (sentence := _disk(error)):
        return sentence
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return f"the download of {what} was cut short: run the command again."
    return _transport(error, what) or _xet(error, what)


def _answered(error: HfHubHTTPError, what: str, kind: str) -> str:
    """For errors that the hub itself stated."""
    status = error.response.status_code
    repo = getattr(error, "repo_id", None) or "/".join(what.partition("@")[0].split("/")[:2])
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo}"
    if isinstance(error, GatedRepoError) and status == 401:
        return (
            f"{repo} is gated: accept its terms on {page}, then run hf auth login, or set HF_TOKEN."
        )
    if isinstance(error, GatedRepoError):
        return (
            f"{repo} is gated and this login has no access to it: accept its terms on {page} "
            "with the same account, or set HF_TOKEN to the token of one that has."
        )
    if isinstance(error, RepositoryNotFoundError):
        if is_gemma_scope(repo):
            near = difflib.get_close_matches(repo, GEMMA_SCOPE, 3, cutoff=0)
            return (
                f"the hub has no repository {repo}: Gemma Scope's are {', '.join(near)} and more."
            )
        thing = "data set" if kind == "dataset" else "repository"
        return (
            f"the hub has no {thing} {repo}: check the name, or the path if a folder here is "
            "meant; if it is private, run hf auth login, or set HF_TOKEN."
        )
    if isinstance(error, RevisionNotFoundError):
        return f"the hub has no such revision of {what}: name a branch, a tag or a full commit."
    if isinstance(error, EntryNotFoundError):
        return f"the hub has no such file of {what}: check the name and the revision."
    if status == 401:
        return (
            "the hub refuses the token in use: run hf auth login again, or set HF_TOKEN to a "
            "valid one."
        )
    if status == 429:
        return (
            "the hub wants fewer requests: wait a few minutes and run again, logged in (hf auth "
            "login) for a higher limit."
        )
    if status >= 500:
        return f"the hub is in trouble (status {status}) and did not send {what}: try again later."
    said = (error.server_message or "").split("\n")[0].rstrip(".")
    return f"the hub refuses to send {what} (status {status}{': ' if said else ''}{said})."


def _disk(error: OSError) -> str | None:
    cache = constants.HF_HUB_CACHE
    if error.errno in _FULL:
        return _full_disk()
    if error.errno in _READ_ONLY and str(error.filename or "").startswith(cache):
        return f"{error.filename} cannot be written: set HF_HOME to a folder you may write to."
    return None


def _full_disk() -> str:
    return (
        f"no space left on the disk of {constants.HF_HUB_CACHE}: free some, or set HF_HOME to a "
        "folder on another disk."
    )


def _transport(error: BaseException, what: str) -> str | None:
    if _is(error, "ProxyError"):
        return f"the proxy does not work ({error}): check HTTPS_PROXY and HTTP_PROXY."
    if _is(error, "TimeoutException"):
        return (
            f"{constants.ENDPOINT} did not answer in time: run the command again, or set "
            "HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT to more seconds."
        )
    if _is(error, "ConnectError"):
        return (
            f"{constants.ENDPOINT} cannot be reached ({error}): check the network, and the proxy "
            "or HF_ENDPOINT if you set one."
        )
    if _is(error, "NetworkError") or _is(error, "RemoteProtocolError"):
        return f"the connection broke while {what} was downloaded: run the command again."
    if _is(error, "UnsupportedProtocol") or _is(error, "InvalidURL"):
        return f"HF_ENDPOINT is {constants.ENDPOINT}, which is no address such as https://host."
    return None


def _xet(error: BaseException, what: str) -> str | None:
    """For the library that fetches large files in chunks, whose errors have no class of theirs."""
    said = str(error).lower()
    if type(error).__module__.startswith("hf_xet") or "data processing error" in said:
        if "no space left" in said:
            return _full_disk()
        return (
            f"the download of {what} failed ({error}): run the command again, with "
            "HF_HUB_DISABLE_XET=1 if it happens twice."
        )
    return None
