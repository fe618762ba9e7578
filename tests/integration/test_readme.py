"""What the documentation tells people to type works as it stands.

Every line after `$ ` in a console block of the README, CONTRIBUTING.md and docs/ is of a kind that
is checked here: run as it is, run at a small size, or at least parsed by the command it is meant
for. The README's Python runs too.
"""

import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client

from app import cli
from app.commands.shared import open_bundle
from app.endpoints import Api
from app.engine.workbench import Workbench
from sae_core.formats import read_sae
from tests.hub_protocol import MEMBER_TOKEN
from tests.ports import kept_port

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
JUMPSCOPE = [sys.executable, "-m", "app.cli"]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

NOT_RUN = ("docker", "pip", "python3", "ssh")
"""Programs that would install something, reach another machine, or need an engine of their own."""


def commands(page: Path) -> list[str]:
    """Lines after `$ ` in the console blocks of a page."""
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    # Variables may stand before a command, and under torchrun it goes by its module's name.
    lines = [re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line) for line in lines]
    return [re.sub(r"^torchrun .*? -m app\.cli ", "jumpscope ", line) for line in lines]


ALL = [(page.name, command) for page in PAGES for command in commands(page)]
OURS = sorted({command for _, command in ALL if command.startswith("jumpscope ")})
README = commands(ROOT / "README.md")


def starting(*words: str) -> list[str]:
    """The README's commands that start with these words."""
    result = [c for c in README if tuple(shlex.split(c)[: len(words)]) == words]
    assert result, f"the README shows no '{' '.join(words)}'"
    return result


def options(command: str) -> Any:
    """A `jumpscope` command's dataclass, filled in; ValueError if a flag or value does not fit."""
    name, *args = shlex.split(command)[1:]
    return cli.parse(name, args)


def run(command: str, folder: Path, env: dict[str, str] = ENV) -> str:
    """What a `jumpscope` command prints on stdout when it is typed in `folder`."""
    argv = [*JUMPSCOPE, *shlex.split(command)[1:]]
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_shown_command_is_of_a_known_kind():
    assert len(README) > 5
    for page, command in ALL:
        assert command.split()[0] in ("jumpscope", "make", *NOT_RUN), f"{page}: {command}"


@pytest.mark.parametrize("command", OURS)
def test_every_flag_exists(command):
    assert dataclasses.is_dataclass(options(command))


@pytest.mark.parametrize("command", sorted({c for _, c in ALL if c.startswith("make")}))
def test_every_make_target_exists(command):
    done = subprocess.run(
        [*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", starting("jumpscope", "inspect"))
def test_inspect(command, tmp_path):
    out = run(command, tmp_path)
    if "--json" not in command:
        assert "delta LM loss" in out
        return
    result = json.loads(out)
    assert result["model"]["parameters"] > 1_000_000
    for sae in result["saes"]:
        assert sae["d_sae"] > 0
        assert sae["l0"] > 0
        assert 0 < sae["fvu"] < 1
        assert sae["delta_lm_loss"] > 0
        assert Path(sae["index"]["file"]).is_file()
        assert sae["index"]["tokens"] > 0


@pytest.mark.parametrize("command", starting("jumpscope", "eval"))
def test_eval_on_few_tokens(command, tmp_path, tiny_corpus):
    (tmp_path / "validation.parquet").symlink_to(tiny_corpus)
    result = json.loads(run(re.sub(r"--tokens \d+", "--tokens 300", command), tmp_path))
    assert result["tokens"] >= 300
    assert result["l0"] > 0
    assert set(result["definitions"]) <= set(result)


@pytest.mark.parametrize("command", starting("jumpscope", "effects"))
def test_effects(command, tmp_path):
    out = run(command, tmp_path)
    assert re.search(r"^\d+ +#\d+ ", out, re.MULTILINE)
    assert "' were'" in out


def test_a_proof_and_the_same_again(tmp_path):
    first, again = starting("jumpscope", "prove")
    out = run(f"{first} --seeds 4 --max-new-tokens 8", tmp_path)
    (feature,) = re.findall(r"--feature (\d+)", first)
    assert re.search(rf"^Steering #{feature} passes \d of 4 runs", out)
    assert "digit for digit" in run(again, tmp_path)


def test_train_index_and_open_at_a_small_size(tmp_path, tiny_bundle, tiny_corpus, monkeypatch):
    """The road from a model and text to the app, with smaller numbers than the README's."""
    monkeypatch.chdir(tmp_path)
    (train,) = map(options, starting("jumpscope", "train"))
    sites = [re.sub(r"\d+$", "1", site) for site in train.sites]
    small = dataclasses.replace(
        train,
        model=str(tiny_bundle.path / "model"),
        corpus=(str(tiny_corpus),),
        eval_corpus=(str(tiny_corpus),),
        eval_tokens=200,
        sites=tuple(sites),
        d_sae=64,
        l0_targets=tuple(target / 8 for target in train.l0_targets),
        tokens=2_000,
        batch=100,
        buffer_tokens=500,
        context_size=32,
    )
    said = small.execute()
    (report,) = map(options, starting("jumpscope", "report"))
    assert report.run == train.out
    assert "FVU" in Path(report.execute()).read_text()
    (index,) = (c for c in map(options, starting("jumpscope", "index")) if not c.model)
    assert index.bundle == train.out
    dataclasses.replace(index, corpus=(str(tiny_corpus),), tokens=2_000).execute()
    # It is served while it is trained, and once more with its index.
    served = {c.bundle: c for c in map(options, starting("jumpscope", "serve"))}
    (serve,) = (c for bundle, c in served.items() if bundle not in ("", "demo"))
    api = Api(Workbench(serve.settings, open_bundle(serve.bundle)))
    listed = api.workbench.saes()
    assert len(listed) == len(sites) * len(train.l0_targets)
    for sae in listed:
        assert sae["name"] in said
        assert api.search_features(sae=sae["name"])["features"]


def wait_for_page(port: int, process: subprocess.Popen[bytes], said: Path) -> None:
    """Return once the first page answers; fails with what the process said if it ends instead."""
    for _ in range(600):
        assert process.poll() is None, said.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the first page does not answer:\n{said.read_text()}")


@contextmanager
def typed(command: str, folder: Path, env: dict[str, str] = ENV) -> Iterator[str]:
    """The address of the app that a command opens, which Ctrl-C ends without a complaint."""
    said = folder / "stderr"
    with kept_port() as port, said.open("wb") as stderr:
        argv = [*JUMPSCOPE, *shlex.split(re.sub(r"--port \d+", f"--port {port}", command))[1:]]
        process = subprocess.Popen(
            argv,
            cwd=folder,
            env={**env, "JUMPSCOPE_PORT": str(port), "JUMPSCOPE_OPEN_BROWSER": "0"},
            stderr=stderr,
            # A test run that is itself in the background may have Ctrl-C's signal ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            wait_for_page(port, process, said)
            yield f"http://127.0.0.1:{port}"
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 130
        finally:
            process.kill()
            process.wait()
    assert said.read_text().splitlines()[-1].endswith("interrupted.")
    assert "Traceback" not in said.read_text()


@pytest.mark.parametrize(
    "command", [*starting("jumpscope", "demo"), *starting("jumpscope", "serve", "demo")]
)
def test_the_app_serves_and_ctrl_c_ends_it(command, tmp_path):
    with typed(command, tmp_path):
        pass


def test_gemma_2_from_a_hub(hub, tmp_path, tiny_corpus):
    """The three commands, on a hub of the tests' own whose models have three layers."""

    def here(command: str) -> str:
        return command.replace("layer_20", "layer_1").replace("--layer 20", "--layer 1")

    (listing,) = starting("jumpscope", "list")
    (serve,) = starting("jumpscope", "serve", "--model")
    (index,) = (c for c in starting("jumpscope", "index") if "--model" in c)
    env = {**ENV, **hub.environment(tmp_path / "home", token=MEMBER_TOKEN)}
    assert "resid_post/1" in run(here(listing), tmp_path, env)
    for convert in starting("jumpscope", "convert"):
        run(here(convert), tmp_path, env)
        sae = read_sae(tmp_path / options(convert).target)
        assert sae.cfg.architecture == "jumprelu"
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "tiny.parquet").symlink_to(tiny_corpus)
    small = re.sub(r"--tokens \d+", "--tokens 500 --context-size 32", here(index))
    with typed(here(serve), tmp_path, env) as address:
        client = Client(address, verbose=False)
        result = client.predict("The river", api_name="/prompt_features")
        # What the app says to type is what the README shows, but for how much is read.
        assert result["missing"]["command"] == re.sub(r" --tokens \d+", "", here(index))
        assert "index" in run(small, tmp_path, env)
        assert client.predict("The river", api_name="/prompt_features")["missing"] is None


def test_the_readmes_python(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGES[0].read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    said = ""
    for code in blocks:
        argv = [sys.executable, "-c", code]
        done = subprocess.run(
            argv, cwd=tmp_path, env=ENV, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        said += done.stdout
    assert "delta_lm_loss" in said


def test_links_lead_to_files_that_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
