"""What errors mean that the tests' hub cannot bring about."""

import errno

import httpx
import httpx2
import pytest
from hf_xet import XetAuthenticationError  # pyright: ignore[reportAttributeAccessIssue]
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from sae_core.hub import explained
from sae_core.hub.failures import unreachable

CACHE = constants.HF_HUB_CACHE


def wrapped(inner: Exception) -> OSError:
    """`inner` as transformers raises it: named only as the cause of another error."""
    try:
        try:
            raise inner
        except Exception as error:
            raise OSError("Can't load the configuration.") from error
    except OSError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), f"no space left on the disk of {CACHE}"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no space left on the disk of"),
        (PermissionError(errno.EACCES, "Permission denied", f"{CACHE}/x"), "/x cannot be written"),
        (OSError(errno.EROFS, "Read-only file system", f"{CACHE}/x"), "set HF_HOME to a folder"),
        (httpx.ProxyError("403 Forbidden"), "the proxy does not work (403 Forbidden): check HTTPS"),
        (httpx2.ProxyError("407"), "the proxy does not work (407): check HTTPS_PROXY"),
        (httpx.ReadTimeout(""), "did not answer in time"),
        (httpx2.ConnectTimeout(""), "did not answer in time"),
        (httpx2.ReadError(""), "the connection broke while owner/name was downloaded"),
        (httpx2.RemoteProtocolError(""), "the connection broke while owner/name was downloaded"),
        (
            RuntimeError("Data processing error: CAS service error"),
            "the download of owner/name failed (Data processing error: CAS service error): run "
            "the command again, with HF_HUB_DISABLE_XET=1 if it happens twice.",
        ),
        (
            RuntimeError("Data processing error: IO Error: No space left on device (os error 28)"),
            "no space left on the disk of",
        ),
        (XetAuthenticationError("expired"), "the download of owner/name failed (expired)"),
        (
            LocalEntryNotFoundError("nothing in the cache"),
            "owner/name is not among the files downloaded before: go online to get it.",
        ),
    ],
)
def test_the_cause_is_found_however_it_is_wrapped(error, sentence):
    for raised in (error, wrapped(error), wrapped(wrapped(error))):
        result = explained(raised, "owner/name")
        assert isinstance(result, ValueError)
        assert sentence in str(result)
        assert str(result).endswith(".")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("config.json is not valid JSON"),
        OSError("no file named config.json"),
        PermissionError(errno.EACCES, "Permission denied", "/elsewhere"),
        FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere"),
        RuntimeError("size mismatch"),
        KeyError("gemma9"),
    ],
)
def test_other_errors_are_left_to_others(error):
    assert explained(wrapped(error), "owner/name") is None


def test_a_circle_of_causes_ends():
    first, second = OSError("a"), OSError("b")
    first.__cause__, second.__cause__ = second, first
    assert explained(first, "owner/name") is None


def test_a_wrong_proxy_is_not_taken_for_a_hub_that_is_down():
    assert unreachable(wrapped(httpx2.ConnectError("refused")))
    assert not unreachable(httpx2.ProxyError("refused"))
    assert not unreachable(ValueError("other"))
