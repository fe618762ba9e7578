"""Whether the app runs with the newest versions of what it needs, and with the lowest allowed ones.

    python -m tests.versions newest
    python -m tests.versions lowest

Each makes an environment of its own below build/versions (`--python` is its interpreter), without
the constraints file, starts the demo there, and gets every page and an answer of every endpoint.
Prints what was installed and JSON of what answered; exit status 1 where something did not. It
downloads some gigabytes, so it is no part of the tests: `make check-versions` runs both.
"""

import json
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import tyro
from packaging.requirements import Requirement

from app.endpoints import ENDPOINTS
from app.server import free_port
from app.settings import Settings
from app.web.pages import API_PAGE, PAGES

ROOT = Path(__file__).parents[1]
SEEN = ("", "features?feature=0", "prompt?text=The+ship+left.", "steer?prompt=The+ship")
"""Pages with something on them, beside each as it opens."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to install, and with which Python."""

    kind: Annotated[Literal["newest", "lowest"], tyro.conf.Positional]
    """Versions."""
    python: str = sys.executable
    """Interpreter."""
    reuse: bool = False
    """Keep the environment that is there."""


def lowest() -> list[str]:
    """The lowest version that pyproject.toml allows of each requirement of the app, exactly."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = [*project["dependencies"], *project["optional-dependencies"]["app"]]
    pins = []
    for need in map(Requirement, needs):
        (floor,) = (each.version for each in need.specifier if each.operator == ">=")
        pins.append(f"{need.name}=={floor}")
    return pins


def installed(options: Options) -> Path:
    """The environment's folder of programs."""
    folder = ROOT / "build" / "versions" / options.kind
    programs = folder / "bin"
    if options.reuse and (programs / "jumpscope").is_file():
        return programs
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([options.python, "-m", "venv", str(folder)], check=True)
    pip = [str(programs / "python"), "-m", "pip", "install", "--quiet"]
    pins = lowest() if options.kind == "lowest" else []
    subprocess.run([*pip, *pins, "--editable", f"{ROOT}[app]"], check=True)
    return programs


@contextmanager
def demo(programs: Path) -> Iterator[str]:
    """The address of the demo as it runs there, its model loaded."""
    port = free_port(Settings(port=0))
    command = [str(programs / "jumpscope"), "demo", "--no-browser", "--port", str(port)]
    address = f"http://127.0.0.1:{port}/"
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 300
        while True:
            assert process.poll() is None, "the app has ended"
            assert time.monotonic() < deadline, "the app does not answer"
            try:
                if not httpx.get(f"{address}state", timeout=60).json()["loading"]:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def answers(address: str) -> dict[str, str]:
    """What each page and each endpoint came to; `ok` where all is well."""
    told: dict[str, str] = {}
    with httpx.Client(base_url=address, timeout=300) as client:
        for path in (*(page.path.removeprefix("./") for page in (*PAGES, API_PAGE)), *SEEN):
            page = client.get(path, headers={"accept": "text/html"})
            whole = page.status_code == 200 and page.text.rstrip().endswith("</html>")
            told[f"/{path}"] = "ok" if whole else f"{page.status_code}: {page.text[:200]}"
        for endpoint in ENDPOINTS:
            told[endpoint.name] = answered(client, endpoint.name, dict(endpoint.example))
    return told


def answered(client: httpx.Client, name: str, arguments: dict[str, Any]) -> str:
    """What an endpoint's example came to."""
    joined = client.post(f"gradio_api/call/v2/{name}", json=arguments)
    if joined.is_error:
        return joined.text
    stream = client.get(f"gradio_api/call/{name}/{joined.json()['event_id']}").text
    return "ok" if "event: complete" in stream else stream[-300:]


def main(options: Options) -> int:
    """Install, start, ask; the exit status."""
    programs = installed(options)
    versions = subprocess.run(
        [str(programs / "python"), "-m", "pip", "list", "--format", "json"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    needed = {pin.partition("==")[0] for pin in lowest()}
    with demo(programs) as address:
        told = answers(address)
    python = subprocess.run(
        [str(programs / "python"), "--version"], check=True, capture_output=True, text=True
    ).stdout.strip()
    result = {
        "kind": options.kind,
        "python": python,
        "versions": {p["name"]: p["version"] for p in json.loads(versions) if p["name"] in needed},
        "answers": told,
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return int(any(each != "ok" for each in told.values()))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
