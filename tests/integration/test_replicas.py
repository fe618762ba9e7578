"""Two processes behind nginx, with the configuration of docs/deployment.md."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from sae_core.bundle import Bundle
from tests.nginx import documented, serving
from tests.ports import kept_port, listens
from tests.serving import answer, assert_gradios_client_is_answered, join, listening
from tests.waiting import STARTING, wait_until

READERS = 12


@dataclass
class Site:
    """What is served, by whom, and what nginx has noted."""

    url: str
    replicas: dict[int, "subprocess.Popen[bytes]"]
    """By their ports."""
    log: Path

    def upstreams(self, readers: set[str]) -> dict[str, set[str]]:
        """By reader, the replicas that have answered."""
        seen: dict[str, set[str]] = {reader: set() for reader in readers}
        for line in self.log.read_text().splitlines():
            reader, address = line.split(maxsplit=1)
            if reader in seen:
                seen[reader].add(address)
        return seen


def reader_of(client: httpx.AsyncClient) -> str:
    """The name that the cookie has given to a client."""
    return client.cookies["jumpscope"]


@pytest.fixture(scope="module")
def site(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("replicas")
    environment = os.environ | {"JUMPSCOPE_CHECK_TOKENS": "0", "JUMPSCOPE_OPEN_BROWSER": "0"}
    replicas: dict[int, subprocess.Popen[bytes]] = {}
    http, log = documented("upstream jumpscope"), folder / "requests.log"
    with ExitStack() as ports:
        try:
            for documented_port in (7860, 7861):
                port = ports.enter_context(kept_port())
                http = http.replace(f":{documented_port};", f":{port};")
                command = [sys.executable, "-m", "app.cli", "serve", str(tiny_bundle.path)]
                command += ["--port", str(port), "--root-path", "/jumpscope", "--threads", "1"]
                with (folder / f"{port}.log").open("wb") as said:
                    replicas[port] = subprocess.Popen(command, env=environment, stderr=said)
            for port, process in replicas.items():
                wait_until(lambda p=process, n=port: p.poll() is not None or listens(n), STARTING)
                assert process.poll() is None, (folder / f"{port}.log").read_text()
                httpx.get(f"http://127.0.0.1:{port}/", timeout=120).raise_for_status()
            http = f'log_format reader "$reader $upstream_addr";\n{http}'
            location = f"access_log {log} reader;\n{documented('proxy_pass http://jumpscope/;')}"
            with serving(folder, location, http) as port:
                yield Site(f"http://127.0.0.1:{port}/jumpscope/", replicas, log)
        finally:
            for process in replicas.values():
                process.kill()
                process.wait()


def test_everybody_stays_with_one_replica_and_both_have_readers(site: Site) -> None:
    async def read(number: int) -> str:
        async with httpx.AsyncClient(base_url=site.url, timeout=120) as client:
            assert (await client.get("")).status_code == 200
            for page in ("features", "features?feature=5", "prompt", "steer"):
                assert (await client.get(page)).status_code == 200
            session = f"reader{number}"
            given = {"prompt": "The river", "edits": [{"feature": 5}], "max_new_tokens": 4}
            assert (await join(client, "steer", session, **given)).status_code == 200
            kinds = []
            async with listening(client, session) as messages:
                async for message in messages:
                    kinds.append(message["msg"])
                    if kinds[-1] == "process_completed":
                        assert message["success"]
                        break
            assert kinds.count("process_generating") > 1
            return reader_of(client)

    async def all_of_them(first: int) -> set[str]:
        numbers = range(first, first + READERS)
        return set(await asyncio.gather(*(read(number) for number in numbers)))

    readers = asyncio.run(all_of_them(0))
    assert len(readers) == READERS
    # Names are drawn: one time in 2,000 the first all belong to one replica.
    while len(set().union(*site.upstreams(readers).values())) == 1 and len(readers) < 5 * READERS:
        readers |= asyncio.run(all_of_them(len(readers)))
    seen = site.upstreams(readers)
    assert all(len(addresses) == 1 for addresses in seen.values()), seen
    assert {address for addresses in seen.values() for address in addresses} == {
        f"127.0.0.1:{port}" for port in site.replicas
    }


def test_gradios_client_is_answered(site: Site) -> None:
    assert_gradios_client_is_answered(site.url)


def test_readers_of_a_replica_that_ends_go_on_with_the_other(site: Site) -> None:
    async def go_on() -> None:
        clients = [httpx.AsyncClient(base_url=site.url, timeout=120) for _ in range(READERS)]
        for client in clients:
            assert (await client.get("features")).status_code == 200
        ended = next(iter(site.replicas.values()))
        ended.kill()
        ended.wait()
        for number, client in enumerate(clients):
            assert (await client.get("features?feature=5")).status_code == 200
            assert (await answer(client, "feature", f"after{number}", feature=5))["success"]
            await client.aclose()

    asyncio.run(go_on())
