"""Short runs: what they are before they begin, and while the buffer fills."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast

from app.cli import main
from tests import tiny
from training.activations import ActivationBuffer
from training.dry_run import estimate
from training.loop import Interrupted, train
from training.train_checkpoint import list_saved
from training.train_config import RunOptions, TrainConfig, short_run


@pytest.fixture
def cfg(
    tiny_model: Gemma2ForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tiny_corpus: Path,
    tmp_path: Path,
) -> TrainConfig:
    """A run of 20 steps on 1,280 tokens, with a buffer that has room for 524,288."""
    tiny_model.save_pretrained(tmp_path / "lm")
    tiny_tokenizer.save_pretrained(tmp_path / "lm")
    return short_run(
        model=str(tmp_path / "lm"),
        corpus=(str(tiny_corpus),),
        sites=("resid_post/0", "mlp_out/1"),
        d_sae=48,
        out=str(tmp_path / "run"),
        l0_targets=(4,),
        batch=64,
        tokens=20 * 64,
        context_size=24,
        run=RunOptions(device="cpu", checkpoint_every=5),
    )


def options(cfg: TrainConfig) -> list[str]:
    return [
        "train", "--model", cfg.model, "--corpus", *cfg.corpus, "--sites", *cfg.sites,
        "--d-sae", "48", "--out", cfg.out, "--l0-targets", "4", "--batch", "64",
        "--tokens", "1280", "--context-size", "24", "--preset", "short_run", "--device", "cpu",
    ]  # fmt: skip


def test_a_short_run_fills_no_more_than_it_needs(
    cfg: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cfg.buffer_tokens == 2**19
    train(cfg)
    metadata = json.loads(
        (Path(cfg.out) / "saes" / "resid_post-layer_0-l0_4" / "cfg.json").read_text()
    )["metadata"]["jumpscope"]
    # Two thirds of 20 batches are 13, and half as much again is kept.
    assert metadata["training"]["scale_tokens"] == 13 * 64 + 13 * 64 // 2
    said = capsys.readouterr().err
    assert "filling the buffer:   0%" in said
    assert "filling the buffer: 100%" in said
    assert "token/s" in said


def test_ctrl_c_while_the_buffer_fills_says_that_nothing_is_saved(
    cfg: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = ActivationBuffer._fill

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ActivationBuffer, "_fill", stop)
    with pytest.raises(Interrupted, match="nothing is saved, since no step was taken: give the"):
        train(cfg)
    assert list_saved(Path(cfg.out) / "checkpoints") == []
    monkeypatch.setattr(ActivationBuffer, "_fill", fill)
    train(replace(cfg, run=replace(cfg.run, checkpoint_every=0)))
    # Of a run that goes on, what it had is there.
    folder = Path(cfg.out) / "checkpoints"
    [(_, last)] = list_saved(folder)
    last.unlink()
    monkeypatch.setattr("training.train_run.TrainRun._stops", lambda self, _: self.step == 7)
    with pytest.raises(Interrupted, match="interrupted at step 7 of 20, saved"):
        train(cfg)
    monkeypatch.setattr(ActivationBuffer, "_fill", stop)
    with pytest.raises(Interrupted, match="the run is saved as of step 7: give the same command"):
        train(cfg)
    assert [step for step, _ in list_saved(folder)] == [7, 5]


def test_a_dry_run_says_what_will_be_and_writes_nothing(
    cfg: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(p.name for p in tmp_path.iterdir())
    plan = estimate(cfg)
    assert plan.saes == ("resid_post-layer_0-l0_4", "mlp_out-layer_1-l0_4")
    assert (plan.steps, plan.tokens, plan.buffer_tokens) == (20, 1280, 1248)
    # 416 kept before the first of two rounds of 832.
    assert plan.harvested_tokens == 416 + 2 * 832
    assert plan.buffer_bytes == 1248 * 2 * tiny.D_MODEL * 4
    assert plan.harvest_rate > 0
    assert plan.step_seconds > 0
    assert plan.seconds == pytest.approx(
        plan.harvested_tokens / plan.harvest_rate + 20 * plan.step_seconds
    )
    assert plan.memory_bytes > plan.buffer_bytes
    # Weights and second moments of two SAEs in float32, three times.
    assert plan.checkpoint_bytes > 3 * 2 * 2 * 4 * (2 * 48 * tiny.D_MODEL)

    assert main([*options(cfg), "--dry-run", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed["estimate"]) == {"harvest_rate", "step_seconds", "seconds", "memory_bytes"}
    assert printed["tokens"] == 1280
    assert main([*options(cfg), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.count("(estimate") == 2
    assert "1,280 (2,080 read by the model)" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_dry_run_refuses_what_a_run_refuses(
    cfg: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(cfg.out).write_text("a file")
    for changes, sentence in (
        ([], "is a file: name a folder"),
        (["--corpus", "nowhere.parquet"], "no corpus file matches nowhere.parquet"),
    ):
        assert main([*options(cfg), "--dry-run", *changes]) == 2
        assert sentence in capsys.readouterr().err
