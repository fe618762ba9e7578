"""From text to numbers on a model without BOS whose first position is an attention sink."""

import json
import math
from pathlib import Path

import pytest
import torch

from app.cli import main
from sae_core.corpus import documents, token_rows
from sae_core.formats.saelens import load_sae
from sae_core.language_model import load_language_model
from sae_core.sites import activations
from tests import tiny, tiny_sink
from tests.tiny_sink import CONTEXT, SITE

SAE = f"resid_post-layer_{SITE.layer}-l0_6"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training run on such a model, with the held-out text beside it."""
    folder = tmp_path_factory.mktemp("sink")
    model = tiny_sink.save_model(folder / "lm", 60.0)
    corpus = tiny.make_corpus(folder / "text.parquet", count=200, seed=1)
    held_out = tiny.make_corpus(folder / "held-out.parquet", count=30, seed=2)
    command = (
        f"train --preset short_run --model {model} --corpus {corpus} --eval-corpus {held_out} "
        f"--eval-tokens 800 --sites {SITE} --d-sae 64 --l0-targets 6 --target-coefficient 10 "
        f"--batch 128 --tokens {600 * 128} --context-size {CONTEXT} --buffer-tokens 1024 "
        f"--lrs 5e-3 --lr-warmup 10 --device cpu --out {folder / 'run'}"
    )
    assert main(command.split()) == 0
    return folder / "run"


def test_training_leaves_it_out(run: Path) -> None:
    """The scale and the mean are those of all other tokens, and so is what was learned."""
    metadata = load_sae(run / "saes" / SAE).cfg.metadata
    assert metadata["training"]["attention_sink"] is True
    model, tokenizer = load_language_model(str(run.parent / "lm"), torch.float32)
    rows = token_rows(documents([str(run.parent / "text.parquet")]), tokenizer, CONTEXT)
    norms, first = [], []
    for row in rows:
        x = activations(model, torch.tensor(row.ids[None], dtype=torch.long), [SITE])[SITE][0]
        norms.append(x[1:].norm(dim=-1))
        first.append(x[0].norm())
    usual = float(torch.cat(norms).square().mean().sqrt())
    assert metadata["training"]["scale"] == pytest.approx(usual, rel=0.05)
    assert float(torch.stack(first).median()) > 30 * usual
    assert metadata["measured"]["sink_tokens"] > 20
    assert 0.05 < metadata["measured"]["fvu"] < 0.8


def test_the_commands_agree(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training's measurement, eval, index and check on one text: none counts the sink."""
    text = str(run.parent / "held-out.parquet")
    common = ["--bundle", str(run), "--sae", SAE, "--device", "cpu", "--json"]

    def answer(*args: str) -> dict:
        capsys.readouterr()
        assert main([*args]) == 0
        return json.loads(capsys.readouterr().out)

    evaluated = answer("eval", *common, "--text", text, "--tokens", "800")
    measured = load_sae(run / "saes" / SAE).cfg.metadata["measured"]
    for name in ("tokens", "sink_tokens", "l0", "fvu", "delta_lm_loss", "kl"):
        assert evaluated[name] == pytest.approx(measured[name], rel=1e-4, abs=1e-6), name
    (index,) = answer("index", *common, "--corpus", text, "--tokens", "800")["indexes"]
    assert index["fvu"] == pytest.approx(evaluated["fvu"], rel=0.05)
    assert index["l0"] == pytest.approx(evaluated["l0"], rel=0.05)
    check = ["inspect", str(run), "--sae", SAE, "--check", "--text", text, "--tokens", "800"]
    checked = answer(*check, "--device", "cpu", "--json")[SAE]
    assert checked["fvu"] == pytest.approx(evaluated["fvu"], rel=0.05)
    assert not math.isnan(checked["l0"])
