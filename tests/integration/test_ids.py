"""Commands on models and SAEs named by hub id, each a process, against the tests' own hub."""

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client

from tests.hub import Hub
from tests.hub_protocol import MEMBER_TOKEN
from tests.ports import kept_port, listens
from tests.waiting import STARTING, wait_until

MODEL = "google/gemma-2-2b"
RES = "gemma-scope-2b-pt-res/layer_1/width_16k"
FIRST, SECOND = f"{RES}/average_l0_22", f"{RES}/canonical"
NAME = "gemma-scope-2b-pt-res-layer_1-width_16k-l0_22"
TOKEN = MEMBER_TOKEN


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands keep between them: downloads and workspaces."""
    return tmp_path_factory.mktemp("home")


SEVERAL = """
import contextlib, io, json, sys
from app.cli import main
done = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    done.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(done))
"""


def run(hub: Hub, cache: Path, *commands: list[str], **options: Any) -> list[list[Any]]:
    """Status, stdout and stderr of commands, one after another in a process of their own."""
    words = json.dumps(commands)
    done = hub.python("-c", SEVERAL, words, cache=cache, token=TOKEN, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def serving(
    hub: Hub, cache: Path, said: Path, *words: str, token: str | None = TOKEN
) -> Iterator[str]:
    """The address of `jumpscope serve` with these words, until the block ends."""
    argv = [sys.executable, "-m", "app.cli", "serve", *words, "--device", "cpu", "--threads", "1"]
    with kept_port() as port, said.open("wb") as stderr:
        process = subprocess.Popen(
            [*argv, "--port", str(port)],
            env=hub.environment(cache, token=token),
            cwd=Path(__file__).parents[2],
            stderr=stderr,
            # A test run that is itself in the background may have Ctrl-C's signal ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            wait_until(lambda: process.poll() is not None or listens(port), STARTING)
            assert process.poll() is None, said.read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def test_without_an_index_then_with_one(
    hub: Hub, cache: Path, tmp_path: Path, tiny_corpus: Path
) -> None:
    """What the app says is missing builds the index, which the app then finds."""
    text = "The river follows it."
    sample = ["--tokens", "2000", "--context-size", "64", "--dtype", "float32", "--json"]
    words = ("--model", MODEL, "--sae", SECOND, FIRST)
    with serving(hub, cache, tmp_path / "said", *words) as address:
        client = Client(address, verbose=False)
        result = client.predict(text, NAME, api_name="/prompt_features")
        assert result["totals"]["fvu"] < 1
        # The first SAE is the first that was named.
        first = client.predict(api_name="/search_features")
        assert first["sae"].endswith("canonical")
        assert first["total"] == 512
        edits = [{"feature": result["features"][0]["feature"], "value": 3.0}]
        steered = client.predict("The river", edits, NAME, 4, 0, api_name="/steer")
        assert len(steered["steered"]) == 4

        command = result["missing"]["command"]
        assert command.endswith("--corpus 'texts/*.parquet'")
        typed = shlex.split(command.replace("texts/*.parquet", str(tiny_corpus)))
        [[status, built, err]] = run(hub, cache, [*typed[1:], *sample])
        assert status == 0, err
        [entry] = json.loads(built)["indexes"]
        assert entry["sae"] == NAME
        assert Path(entry["path"]).is_relative_to(cache)
        assert entry["l0"] == pytest.approx(22, rel=0.3)

        result = client.predict(text, NAME, api_name="/prompt_features")
        assert result["missing"] is None
        assert result["features"][0]["max_act"] > 0
        other = client.predict(text, api_name="/prompt_features")
        assert other["missing"]["command"].startswith("jumpscope index")


def test_eval_by_id(hub: Hub, cache: Path, tiny_corpus: Path) -> None:
    words = ["--tokens", "500", "--context-size", "64", "--json"]
    what = ["--model", MODEL, "--sae", FIRST, "--text", str(tiny_corpus)]
    [[status, out, err]] = run(hub, cache, ["eval", *what, *words])
    assert status == 0, err
    result = json.loads(out)
    assert result["sae"] == NAME
    assert result["l0"] == pytest.approx(22, rel=0.3)
    assert 0 < result["fvu"] < 1


INSPECTED: dict[str, dict[str, Any]] = {
    FIRST: {"format": "gemma_scope", "reads": "resid_post/1", "declared_l0": 22.0},
    "gemma-scope-2b-pt-transcoders/layer_1/width_16k/average_l0_22": {
        "reads": "mlp_in_unit/1",
        "writes": "mlp_out/1",
    },
    "google/gemma-scope-2-1b-pt/attn_out_all/layer_1_width_16k_l0_small": {
        "format": "gemma_scope_2",
        "reads": "attn_out/1",
    },
    "example/saelens/blocks.1.hook_resid_post": {"format": "saelens", "d_sae": 64},
}


def test_inspect_by_id_and_offline_afterwards(hub: Hub, cache: Path) -> None:
    done = run(hub, cache, *(["inspect", what, "--json"] for what in INSPECTED))
    for (status, out, err), expected in zip(done, INSPECTED.values(), strict=True):
        assert status == 0, err
        result = json.loads(out)
        assert {key: result[key] for key in expected} == expected
        assert len(result["revision"]) == 40
        assert len(result["content_hash"]) == 64
        assert Path(result["file"]).stat().st_size == result["bytes"]
    with hub.watch() as asked:
        again = run(hub, cache, *(["inspect", what] for what in INSPECTED), offline=True)
    assert not asked
    for (_, first, _), (status, out, err) in zip(done, again, strict=True):
        assert status == 0, err
        assert json.loads(first)["content_hash"] in out


def test_a_mistake_is_one_line(hub: Hub, cache: Path) -> None:
    mistakes = (
        (["serve", "--model", MODEL, "--sae", f"{RES}/average_l0_23"], "average_l0_22"),
        (["serve", "--model", "gemma", "--sae", FIRST], "neither a model's folder nor a hub id"),
        (["inspect", "nobody/nothing"], "nobody/nothing"),
    )
    done = run(hub, cache, *(words for words, _ in mistakes))
    for (status, out, err), (_, sentence) in zip(done, mistakes, strict=True):
        assert (status, out) == (2, "")
        assert sentence in err
        assert err.count("\n") == 1
    # A name with a mistake in it leaves no trace.
    kept = {folder.name for folder in cache.glob("data/jumpscope/bundles/*")}
    assert kept <= {"google--gemma-2-2b"}


def test_a_model_that_cannot_be_had_leaves_the_rest(hub: Hub, tmp_path: Path) -> None:
    """Gated, and nobody is logged in: SAEs are there all the same, and the reason is said."""
    said = tmp_path / "said"
    words = ("--model", MODEL, "--sae", FIRST)
    with serving(hub, tmp_path, said, *words, token=None) as address:
        client = Client(address, verbose=False)
        with pytest.raises(Exception, match=MODEL):
            client.predict("The river", api_name="/prompt_features")
    assert MODEL in said.read_text()
    assert "Traceback" not in said.read_text()
