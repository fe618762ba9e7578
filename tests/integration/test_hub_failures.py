"""Whatever goes wrong with the hub is one sentence that says what to do."""

import errno
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch

from app.cli import main
from sae_core.hub import fetch, parse_id
from sae_core.language_model import load_language_model
from tests.hub import Hub
from tests.hub_client import Client
from tests.hub_protocol import OTHER_TOKEN
from tests.hub_repos import MODEL

FOLDER = "layer_1/width_16k/average_l0_71"
ID = f"gemma-scope-2b-pt-res/{FOLDER}"
GATED = "example/gated"

Trouble = Callable[[Hub, Client], AbstractContextManager[None] | None]


@pytest.fixture(scope="module", autouse=True)
def gated(hub: Hub, tiny_sae_folder: Path) -> None:
    """A gated repository with an SAE."""
    hub.publish(GATED, tiny_sae_folder, gated=True)


def sentence_of(source: str) -> str:
    """The one sentence that fetching `source` ends with."""
    sae_id = parse_id(source)
    assert sae_id is not None
    with pytest.raises(ValueError, match=r"^[^\n]+\.$") as failure:
        fetch(sae_id)
    return str(failure.value)


def full_disk(client: Client) -> None:
    def http_get(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    client.patch.setattr("huggingface_hub.file_download.http_get", http_get)


CASES: dict[str, tuple[str, Trouble, str]] = {
    "unknown repository": (
        "example/nothing/at/all",
        lambda hub, client: None,
        r"the hub has no repository example/nothing: check the name, or the path if a folder",
    ),
    "unknown repository, logged in": (
        "example/nothing",
        lambda hub, client: client.token(OTHER_TOKEN),
        r"the hub has no repository example/nothing",
    ),
    "misspelled Gemma Scope": (
        "gemma-scope-2b-res/layer_20/width_16k/canonical",
        lambda hub, client: None,
        r"no repository google/gemma-scope-2b-res: Gemma Scope's are google/gemma-scope-2b-pt-res",
    ),
    "unknown revision": (
        f"{ID}@v9",
        lambda hub, client: None,
        r"no such revision of google/gemma-scope-2b-pt-res@v9: name a branch, a tag or a full",
    ),
    "unknown commit": (
        f"{ID}@{'0' * 40}",
        lambda hub, client: None,
        r"no such revision of google/gemma-scope-2b-pt-res@0000",
    ),
    "unknown folder": (
        "gemma-scope-2b-pt-res/layer_1/width_16k/average_l0_70",
        lambda hub, client: None,
        r"has no average_l0_70, but e\.g\. average_l0_71, ",
    ),
    "gated, no login": (
        GATED,
        lambda hub, client: None,
        r"example/gated is gated: accept its terms on http://127\.0\.0\.1:\d+/example/gated, then "
        r"run hf auth login, or set HF_TOKEN\.",
    ),
    "gated, no access": (
        GATED,
        lambda hub, client: client.token(OTHER_TOKEN),
        r"example/gated is gated and this login has no access to it: accept its terms on ",
    ),
    "bad token": (
        ID,
        lambda hub, client: client.token("hf_expired"),
        r"the hub refuses the token in use: run hf auth login again, or set HF_TOKEN",
    ),
    "hub down": (
        ID,
        lambda hub, client: hub.trouble("status", value=503),
        r"the hub is in trouble \(status 503\) and did not send google/gemma-scope-2b-pt-res: try",
    ),
    "store down": (
        ID,
        lambda hub, client: hub.trouble("status", "/cdn/", 500),
        r"the hub is in trouble \(status 500\) and did not send gemma-scope-2b-pt-res/layer_1/",
    ),
    "too many requests": (
        ID,
        lambda hub, client: hub.trouble("status", value=429),
        r"the hub wants fewer requests: wait a few minutes",
    ),
    "forbidden": (
        ID,
        lambda hub, client: hub.trouble("status", "params.npz", 403),
        r"the hub refuses to send gemma-scope-2b-pt-res/\S+ \(status 403: the hub is in trouble\)",
    ),
    "silence": (
        ID,
        lambda hub, client: client.impatient() or hub.trouble("stall"),
        r"http://127\.0\.0\.1:\d+ did not answer in time: run the command again, or set HF_HUB",
    ),
    "silence in the middle": (
        ID,
        lambda hub, client: client.impatient() or hub.trouble("stall", "/cdn/"),
        r"did not answer in time",
    ),
    "a login page": (
        ID,
        lambda hub, client: hub.trouble("page"),
        r"what answers at http://127\.0\.0\.1:\d+ is not a hub: check HF_ENDPOINT, the proxy, and",
    ),
    "a login page for files": (
        ID,
        lambda hub, client: hub.trouble("page", "/resolve/"),
        r"is not a hub: check HF_ENDPOINT",
    ),
    "a login page for large files": (
        ID,
        lambda hub, client: hub.trouble("page", "/cdn/"),
        r"the download of gemma-scope-2b-pt-res/\S+ was cut short: run the command again",
    ),
    "a short file": (
        ID,
        lambda hub, client: hub.trouble("short", "/cdn/", 50_000),
        r"the download of gemma-scope-2b-pt-res/\S+ was cut short: run the command again",
    ),
    "cut again and again": (
        ID,
        lambda hub, client: hub.trouble("cut", "/cdn/", 0),
        r"the connection broke while gemma-scope-2b-pt-res/\S+ was downloaded: run the command",
    ),
    "no network": (
        ID,
        lambda hub, client: client.endpoint("http://127.0.0.1:9"),
        r"http://127\.0\.0\.1:9 cannot be reached \(.*refused.*\): check the network, and the",
    ),
    "a wrong address": (
        ID,
        lambda hub, client: client.endpoint("hub.example"),
        r"HF_ENDPOINT is hub\.example, which is no address such as https://host",
    ),
    "offline": (
        ID,
        lambda hub, client: client.offline(),
        r"is not among the files downloaded before, and HF_HUB_OFFLINE is set: unset it to downl",
    ),
    "a full disk": (
        ID,
        lambda hub, client: full_disk(client),
        r"no space left on the disk of \S+/hub: free some, or set HF_HOME to a folder on another",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_failures_of_fetching(case, hub, client):
    source, begin, expected = CASES[case]
    with begin(hub, client) or nullcontext():
        assert re.match(f".*{expected}", sentence_of(source))


def test_after_a_failure_nothing_half_is_left(hub, client):
    with hub.trouble("cut", "/cdn/", 1000):
        sentence_of(ID)
    sae_id = parse_id(ID)
    assert sae_id is not None
    folder, _ = fetch(sae_id)
    content = hub.repositories[f"google/{ID.partition('/')[0]}"].revisions["main"].files
    assert (folder / "params.npz").read_bytes() == content[f"{FOLDER}/params.npz"]
    assert not list(client.cache.rglob("*.incomplete"))


def test_the_command_prints_the_sentence_alone(hub, client, capsys):
    assert main(["list", "example/nothing"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jumpscope list: the hub has no repository example/nothing: ")
    assert err.count("\n") == 1


MODEL_CASES: dict[str, tuple[str, Trouble, str]] = {
    "gated, no login": (
        MODEL,
        lambda hub, client: None,
        r"google/gemma-2-2b is gated: accept its terms on http://127\.0\.0\.1:\d+/google/gemma-2-2b,"
        r" then run hf auth login, or set HF_TOKEN\.",
    ),
    "gated, no access": (
        MODEL,
        lambda hub, client: client.token(OTHER_TOKEN),
        r"google/gemma-2-2b is gated and this login has no access",
    ),
    "bad token": (
        MODEL,
        lambda hub, client: client.token("hf_expired"),
        r"the hub refuses the token in use",
    ),
    "unknown": (
        "google/gemma-2-2",
        lambda hub, client: None,
        r"the hub has no repository google/gemma-2-2: check the name",
    ),
    "unknown revision": (
        f"{MODEL}@v9",
        lambda hub, client: None,
        r"the hub has no such revision of google/gemma-2-2b@v9",
    ),
    "hub down": (
        MODEL,
        lambda hub, client: hub.trouble("status", value=503),
        r"the hub is in trouble \(status 503\)",
    ),
    "no network": (
        MODEL,
        lambda hub, client: client.endpoint("http://127.0.0.1:9"),
        r"http://127\.0\.0\.1:9 cannot be reached",
    ),
    "offline": (
        MODEL,
        lambda hub, client: client.offline(),
        r"google/gemma-2-2b is not among the files downloaded before",
    ),
}


@pytest.mark.parametrize("case", MODEL_CASES)
def test_failures_of_loading_a_model(case, hub, client):
    name, begin, expected = MODEL_CASES[case]
    with (
        begin(hub, client) or nullcontext(),
        pytest.raises(ValueError, match=r"^[^\n]+\.$") as failure,
    ):
        load_language_model(name, torch.float32)
    assert re.match(f".*{expected}", str(failure.value)), failure.value
