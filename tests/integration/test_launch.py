"""The app from Python: where it listens, who may come in, how it ends."""

import logging
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client

import app
from app.server import RunningApp, free_port, serve
from app.settings import Settings
from sae_core.bundle import Bundle

ROOT = Path(__file__).parents[2]
OFF: dict[str, Any] = {"threads": 1, "device": "cpu", "check_tokens": 0, "block": False}
AUTH = {"Authorization": "Basic YWRhOmxvdmVsYWNl"}  # ada:lovelace


def launched(bundle: Bundle, **settings: Any) -> RunningApp:
    given: dict[str, Any] = OFF | {"port": 0} | settings
    return app.launch(str(bundle.path), **given)


def test_it_shows_itself_in_a_notebook_and_closes(tiny_bundle: Bundle) -> None:
    running = launched(tiny_bundle)
    try:
        assert httpx.get(f"{running.url}/state", timeout=60).status_code == 200
        assert f'<iframe src="{running.url}/"' in running._repr_html_()
    finally:
        running.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.url}/state", timeout=60)
    # The port is free again at once.
    port = int(running.url.rpartition(":")[2])
    again = launched(tiny_bundle, port=port)
    try:
        assert again.url == running.url
    finally:
        again.close()


def test_two_apps_in_one_process_do_not_meet(tiny_bundle: Bundle, chat_bundle: Bundle) -> None:
    first, second = launched(tiny_bundle), launched(chat_bundle)
    try:
        for running, bundle in ((first, tiny_bundle), (second, chat_bundle)):
            client = Client(running.url, verbose=False)
            answer = client.predict("The river.", api_name="/prompt_features")
            assert answer["sae"] == bundle.sae_names[0]
            client.close()
        first.close()
        assert httpx.get(f"{second.url}/state", timeout=60).status_code == 200
    finally:
        first.close()
        second.close()


def test_a_taken_port_names_our_setting(tiny_bundle: Bundle) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ValueError, match="--port") as caught:
            launched(tiny_bundle, port=taken.getsockname()[1])
    assert "JUMPSCOPE_PORT" in str(caught.value)
    assert "GRADIO" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"nonsense": 1}, "no setting nonsense"),
        ({"host": "203.0.113.7"}, "cannot listen"),
        ({"auth": "ada"}, "user:password"),
    ],
)
def test_what_cannot_be_had_is_said(
    tiny_bundle: Bundle, wrong: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        launched(tiny_bundle, **wrong)


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = "import app, sys; sys.exit(bool({'gradio', 'torch', 'duckdb'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("host", ["::1", "::"])
def test_addresses_of_ipv6_are_served(tiny_bundle: Bundle, host: str) -> None:
    running = launched(tiny_bundle, host=host)
    try:
        assert running.url.startswith("http://[::1]:")
        assert httpx.get(f"{running.url}/state", timeout=60).status_code == 200
        client = Client(running.url, verbose=False)
        assert client.predict(5, api_name="/feature")["feature"] == 5
        client.close()
        refused = httpx.get(f"{running.url}/state", headers={"host": "evil.example"}, timeout=60)
        assert refused.status_code == 400
    finally:
        running.close()


def test_a_password_is_asked_for_on_every_route_and_gradios_client_can_give_it(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    file = tmp_path / "users"
    file.write_text("ada:lovelace\n")
    running = launched(tiny_bundle, auth=str(file))
    try:
        paths = ("/", "/state", "/static/x/css/base.css", "/config", "/gradio_api/info", "/nowhere")
        for path in paths:
            assert httpx.get(running.url + path, timeout=60).status_code == 401
        assert httpx.get(f"{running.url}/state", headers=AUTH, timeout=60).status_code == 200
        client = Client(running.url, headers=AUTH, verbose=False)
        assert client.predict(5, api_name="/feature")["feature"] == 5
        last: Any = None
        *_, last = client.submit("The river", [{"feature": 5}], max_new_tokens=3, api_name="/steer")
        assert 0 < len(last["steered"]) <= 3
        client.close()
    finally:
        running.close()


def test_an_app_that_is_open_to_other_machines_says_so(
    tiny_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    for settings, warned in (
        ({"host": "0.0.0.0"}, True),
        ({"host": "0.0.0.0", "auth": "ada:lovelace"}, False),
        ({}, False),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            launched(tiny_bundle, **settings).close()
        assert ("--auth" in caplog.text) == warned


def test_port_0_is_a_free_one() -> None:
    port = free_port(Settings(port=0))
    assert 1024 <= port <= 65535
    assert free_port(Settings(port=port)) == port


def test_forwarded_headers_change_no_address_without_a_proxy(tiny_bundle: Bundle) -> None:
    forwarded = {"x-forwarded-host": "evil.example", "x-forwarded-proto": "https"}
    plain = serve(Settings(port=0, open_browser=False, device="cpu", threads=1), tiny_bundle)
    try:
        root = httpx.get(f"{plain.url}/config", headers=forwarded, timeout=60).json()["root"]
        assert root == plain.url
    finally:
        plain.close()
