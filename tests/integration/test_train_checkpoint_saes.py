"""The SAEs of a run's checkpoints: whole or absent, and without a trace in what the run learns."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch
from safetensors.torch import load_file
from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast

from sae_core.bundle import Bundle
from sae_core.index import Index, so_far
from tests import tiny
from training import checkpoint_saes
from training.checkpoint_saes import STAGE, CheckpointSAEs
from training.loop import train
from training.run_folder import read_run
from training.sae_trainer import SAETrainer
from training.train_config import RunOptions, TrainConfig, short_run

STEPS, EVERY, TOKENS = 60, 20, 200
NAME = "resid_post-layer_1-l0_4"

Seen = list[tuple[int, int, str]]


@pytest.fixture
def cfg(
    tiny_model: Gemma2ForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> TrainConfig:
    """Sixty steps with a checkpoint every twenty, each of which is worth an index."""
    monkeypatch.setattr(so_far.Spacing, "due", lambda _self: True)
    tiny_model.save_pretrained(tmp_path / "lm")
    tiny_tokenizer.save_pretrained(tmp_path / "lm")
    return short_run(
        model=str(tmp_path / "lm"),
        corpus=(str(tiny.make_corpus(tmp_path / "text.parquet")),),
        sites=("resid_post/1",),
        architectures=("jumprelu", "topk"),
        d_sae=24,
        out=str(tmp_path / "with"),
        l0_targets=(4,),
        batch=64,
        tokens=STEPS * 64,
        context_size=64,
        buffer_tokens=512,
        run=RunOptions(device="cpu", checkpoint_every=EVERY, index_tokens=TOKENS),
    )


def watched(monkeypatch: pytest.MonkeyPatch, out: Path) -> Seen:
    """After each checkpoint: the step and tokens that the bundle's files say, and what is amiss."""
    seen: Seen = []
    write = CheckpointSAEs.write

    def looked(self: CheckpointSAEs, trainers: Sequence[SAETrainer], facts: dict[str, Any]) -> None:
        write(self, trainers, facts)
        bundle = Bundle.open(out)
        said = bundle.sae_config(NAME).metadata
        index = Index.open(bundle.index_path(NAME))
        amiss = "" if index.meta["sae_hash"] == said["content_hash"] else "of other weights"
        seen.append((said["training"]["steps"], index.meta["tokens"], amiss))

    monkeypatch.setattr(CheckpointSAEs, "write", looked)
    return seen


def test_each_checkpoint_takes_the_place_of_the_one_before(
    cfg: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(cfg.out)
    # What a run that was killed has left.
    (out / STAGE / NAME).mkdir(parents=True)
    (out / STAGE / NAME / "index.duckdb").write_bytes(b"half")
    seen = watched(monkeypatch, out)
    results = train(cfg)
    assert [step for step, _, _ in seen] == [20, 40]
    assert all(tokens >= TOKENS and not amiss for _, tokens, amiss in seen)
    assert not (out / STAGE).exists()
    # The indexes that the run ends with are of its final weights.
    bundle = Bundle.open(out)
    assert bundle.sae_names == tuple(result.name for result in results)
    for name in bundle.sae_names:
        said = bundle.sae_config(name).metadata
        assert said["training"]["steps"] == STEPS
        assert Index.open(bundle.index_path(name)).meta["sae_hash"] == said["content_hash"]
    assert read_run(out).state == "finished"


def test_the_weights_are_those_of_a_run_without_them(cfg: TrainConfig, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with_them = train(cfg)
        options = replace(cfg.run, index_tokens=0)
        without = train(replace(cfg, out=str(tmp_path / "without"), run=options))
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(with_them, without, strict=True):
        first, second = (load_file(r.folder / "sae_weights.safetensors") for r in (one, other))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert not list((tmp_path / "without").glob("saes/*/index.duckdb"))


@pytest.mark.parametrize(
    "kind", [ValueError, OSError, duckdb.IOException, RuntimeError, torch.OutOfMemoryError]
)
def test_what_goes_wrong_with_them_does_not_end_the_run(
    kind: type[Exception],
    cfg: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    build, calls = checkpoint_saes.build_indexes, []

    def failing_after_the_first(*args: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise kind("no space left")
        return build(*args, **named)

    monkeypatch.setattr(checkpoint_saes, "build_indexes", failing_after_the_first)
    seen = watched(monkeypatch, Path(cfg.out))
    with caplog.at_level(logging.WARNING):
        assert len(train(cfg)) == 2
    # The first checkpoint's stay, weights and index.
    assert [(step, amiss) for step, _, amiss in seen] == [(20, ""), (20, "")]
    for what in ("going on without the features of this checkpoint", "the indexes of the last"):
        assert any(what in line and "no space left" in line for line in caplog.messages)
    assert not (Path(cfg.out) / STAGE).exists()


def test_a_stop_among_them_ends_the_run(cfg: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_saes, "build_indexes", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(cfg)
