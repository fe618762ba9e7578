"""Whole training runs on a tiny model: what they write, and that they learn."""

import json
import os
import signal
import sys
import threading
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast

from sae_core.bundle import Bundle
from sae_core.corpus import documents, token_rows
from sae_core.evaluation import evaluate, take_tokens
from sae_core.formats.saelens import load_sae
from sae_core.splice import SplicedLM
from tests import tiny
from training import results, train_run
from training.loop import Interrupted, train
from training.train_config import LossOptions, RunOptions, TrainConfig, short_run

SITES = ("resid_post/1", "mlp_out/2")
RESIDUAL, MLP = "resid_post-layer_1-l0_6", "mlp_out-layer_2-l0_6"


@pytest.fixture(scope="module")
def base(
    tiny_model: Gemma2ForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
) -> TrainConfig:
    """A run of 60 steps over a corpus of 20,000 tokens."""
    folder = tmp_path_factory.mktemp("train")
    tiny_model.save_pretrained(folder / "lm")
    tiny_tokenizer.save_pretrained(folder / "lm")
    return short_run(
        model=str(folder / "lm"),
        corpus=(str(tiny.make_corpus(folder / "text.parquet", count=300, seed=1)),),
        eval_corpus=(str(tiny.make_corpus(folder / "held-out.parquet", count=20, seed=2)),),
        eval_tokens=600,
        sites=SITES,
        d_sae=64,
        out=str(folder / "not-used"),
        l0_targets=(6,),
        loss=LossOptions(target_coefficient=10.0),
        batch=128,
        tokens=60 * 128,
        context_size=32,
        buffer_tokens=1_024,
        lrs=(5e-3,),
        lr_warmup=10,
    )


def weights(cfg: TrainConfig, name: str = RESIDUAL) -> dict[str, torch.Tensor]:
    """The tensors of a saved SAE."""
    return load_file(Path(cfg.out) / "saes" / name / "sae_weights.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two SAEs are the same, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _lines(cfg: TrainConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(cfg.out) / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(base: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run that trained 1,200 steps at two sites; long enough to have learned."""
    cfg = replace(base, out=str(tmp_path_factory.mktemp("run")), tokens=1_200 * 128)
    assert [result.name for result in train(cfg)] == [RESIDUAL, MLP]
    return cfg


def test_it_learns_at_the_target_sparsity(finished: TrainConfig) -> None:
    for name in (RESIDUAL, MLP):
        measured = load_sae(Path(finished.out) / "saes" / name).cfg.metadata["measured"]
        assert measured["l0"] == pytest.approx(6, rel=0.15)
        assert measured["fvu"] < 0.45
    last = _lines(finished)[-2:]
    for line in last:
        assert line["l0"] == pytest.approx(6, rel=0.1)


def test_saved_sae_says_where_it_comes_from(finished: TrainConfig) -> None:
    cfg = load_sae(Path(finished.out) / "saes" / RESIDUAL).cfg
    assert (cfg.architecture, cfg.d_model, cfg.d_sae) == ("jumprelu", tiny.D_MODEL, 64)
    assert (str(cfg.site), cfg.model_name, cfg.context_size) == ("resid_post/1", "lm", 32)
    training = cfg.metadata["training"]
    assert training["settings"]["corpus"] == ["text.parquet"]
    assert training["settings"]["lrs"] == [5e-3]
    assert training["settings"]["seed"] == 0
    assert training["l0_target"] == 6
    assert (training["steps"], training["tokens"]) == (1_200, 1_200 * 128)
    assert training["seconds"] > 0
    assert training["versions"]["torch"] == torch.__version__
    assert training["device"]
    assert training["scale_tokens"] == 960  # 7 batches of 128 are 896; two thirds of 1024 are 640
    text = json.dumps(cfg.metadata)
    assert str(Path(finished.out).parent) not in text
    assert str(Path(finished.corpus[0]).parent) not in text


def test_measured_numbers_are_those_of_the_files(
    finished: TrainConfig, tiny_model: Gemma2ForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    sae = load_sae(Path(finished.out) / "saes" / MLP)
    lm = SplicedLM(tiny_model, tiny_tokenizer, {"x": sae})
    rows = take_tokens(token_rows(documents(finished.eval_corpus), tiny_tokenizer, 32), 600)
    expected = evaluate(lm, "x", rows).as_dict()
    measured = sae.cfg.metadata["measured"]
    for name, value in expected.items():
        assert measured[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name
    assert measured["text"] == ["held-out.parquet"]


@pytest.mark.parametrize("beside", [2**31, 0])
def test_saes_measured_together_get_their_own_numbers(
    base: TrainConfig,
    tiny_model: Gemma2ForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    beside: int,
) -> None:
    """Two SAEs of a site in one pass over the text, or one after the other for lack of memory."""
    monkeypatch.setattr(results, "MOST_BESIDE", beside)
    cfg = replace(base, out=str(tmp_path), l0_targets=(3, 9))
    rows = take_tokens(token_rows(documents(cfg.eval_corpus), tiny_tokenizer, 32), 600)
    for result in train(cfg):
        lm = SplicedLM(tiny_model, tiny_tokenizer, {"x": load_sae(result.folder)})
        assert result.measured is not None
        assert result.measured["l0"] == pytest.approx(evaluate(lm, "x", rows).l0)
        assert load_sae(result.folder).cfg.metadata["measured"] == result.measured


def test_metrics_file(finished: TrainConfig) -> None:
    lines = _lines(finished)
    assert [line["step"] for line in lines[:4]] == [12, 12, 24, 24]
    assert len(lines) == 2 * 100
    assert {line["sae"] for line in lines} == {RESIDUAL, MLP}
    expected = {
        "step", "sae", "tokens", "loss", "fvu", "l0", "dead", "high_frequency", "frequencies",
        "multiplier", "in_window", "threshold_p05", "threshold_p25", "threshold_p50",
        "threshold_p75", "threshold_p95", "norm_p50", "norm_max", "lr", "sparsity_coefficient",
        "tokens_per_second", "seconds", "findings",
    }  # fmt: skip
    assert all(line.keys() == expected for line in lines)
    assert lines[-1]["sparsity_coefficient"] == 10
    assert lines[0]["sparsity_coefficient"] < 1
    assert lines[-1]["fvu"] < lines[0]["fvu"]


def test_same_seed_same_weights_another_seed_others(base: TrainConfig, tmp_path: Path) -> None:
    runs = [replace(base, out=str(tmp_path / name)) for name in ("a", "b", "c")]
    runs[2] = replace(runs[2], seed=1)
    for cfg in runs:
        train(cfg)
    assert equal(weights(runs[0]), weights(runs[1]))
    assert not equal(weights(runs[0]), weights(runs[2]))


def test_several_saes_in_one_pass_equal_each_alone(base: TrainConfig, tmp_path: Path) -> None:
    together = replace(base, out=str(tmp_path / "together"), l0_targets=(6, 12))
    train(together)
    alone = replace(base, out=str(tmp_path / "alone"), sites=SITES[1:], l0_targets=(12,))
    train(alone)
    name = "mlp_out-layer_2-l0_12"
    assert equal(weights(together, name), weights(alone, name))
    assert not equal(weights(together, MLP), weights(together, name))


def test_architectures_side_by_side(base: TrainConfig, tmp_path: Path) -> None:
    cfg = replace(
        base,
        out=str(tmp_path / "all"),
        sites=SITES[:1],
        architectures=("jumprelu", "gated", "topk", "standard"),
        tokens=900 * 128,
    )
    actual = train(cfg)
    for result, plan, line in zip(actual, cfg.plans, _lines(cfg)[-4:], strict=True):
        assert line["sae"] == result.name == plan.name
        assert line["l0"] == pytest.approx(6, rel=0.05)  # of nine steps
        sae = load_sae(result.folder)
        assert sae.cfg.architecture == plan.architecture
        assert sae.cfg.k == (6 if plan.architecture == "topk" else None)
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64), atol=1e-5, rtol=0)
        assert result.measured is not None
        assert result.measured["l0"] == pytest.approx(6, rel=0.15)
        assert result.measured["fvu"] < 0.6
        assert ("in_window" in line) == (plan.architecture == "jumprelu")
    alone = replace(cfg, out=str(tmp_path / "alone"), architectures=("gated",))
    train(alone)
    (plan,) = alone.plans
    assert equal(weights(cfg, plan.name), weights(alone, plan.name))


def test_several_learning_rates_in_one_pass(base: TrainConfig, tmp_path: Path) -> None:
    both = replace(base, out=str(tmp_path / "both"), sites=SITES[:1], lrs=(5e-3, 1e-3))
    train(both)
    alone = replace(both, out=str(tmp_path / "alone"), lrs=(1e-3,))
    train(alone)
    high, low = (plan.name for plan in both.plans)
    assert low == "resid_post-layer_1-l0_6-lr_0.001"
    assert equal(weights(both, low), weights(alone, RESIDUAL))
    assert not equal(weights(both, low), weights(both, high))
    assert [line["lr"] / 5e-3 for line in _lines(both)[::2]] == pytest.approx(
        [line["lr"] / 1e-3 for line in _lines(both)[1::2]]
    )


def test_linear_penalty_and_bfloat16(base: TrainConfig, tmp_path: Path) -> None:
    cfg = replace(
        base,
        out=str(tmp_path),
        l0_targets=(),
        lambdas=(0.01,),
        precision="bfloat16",
        save_dtype="bfloat16",
        eval_corpus=(),
        loss=LossOptions(kernel="triangular"),
    )
    (result, _) = train(cfg)
    assert (result.name, result.measured) == ("resid_post-layer_1-lambda_0.01", None)
    saved = weights(cfg, result.name)
    assert saved["W_enc"].dtype == saved["W_dec"].dtype == torch.bfloat16
    assert saved["threshold"].dtype == torch.float32
    assert float(saved["threshold"].min()) > 0


def test_throughput_after_an_interruption_counts_its_own_steps(
    base: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A line every 3 steps, stopped between two lines; each step takes one second.
    cfg = replace(base, out=str(tmp_path), tokens=300 * 128, sites=SITES[1:], eval_corpus=())
    step = train_run.SAETrainer.step
    steps = 0

    def count(self: Any, *args: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 100:
            os.kill(os.getpid(), signal.SIGINT)
        step(self, *args)

    monkeypatch.setattr(train_run.SAETrainer, "step", count)
    monkeypatch.setattr(train_run, "time", types.SimpleNamespace(monotonic=lambda: float(steps)))
    with pytest.raises(Interrupted, match="at step 100 of 300"):
        train(cfg)
    train(cfg)
    lines = _lines(cfg)
    assert [line["step"] for line in lines] == list(range(3, 301, 3))
    assert {line["tokens_per_second"] for line in lines} == {128}
    assert [line["seconds"] for line in lines] == [line["step"] for line in lines]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": ("nowhere/*.parquet",)}, "no corpus file matches nowhere"),
        ({"eval_corpus": ("nowhere.parquet",)}, "no corpus file matches nowhere"),
        ({"model": "/nowhere/model"}, "the language model /nowhere/model cannot be loaded"),
        ({"sites": ("resid_post/9",)}, "site resid_post/9 is beyond the model's 3 layers"),
        ({"context_size": 1_000}, "context_size is 1000 but the model reads 256"),
        ({"run": RunOptions(device="cuda")}, "PyTorch finds no CUDA device"),
        ({"run": RunOptions(compile="cuda-graph", device="cpu")}, "the run is not on CUDA"),
    ],
)
def test_mistakes_get_one_sentence(
    base: TrainConfig, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if changes.get("run") == RunOptions(device="cuda") and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ValueError, match=message) as caught:
        train(replace(base, out=str(tmp_path / "run"), **changes))
    assert "\n" not in str(caught.value)
    assert not any(thread.name == "tokens" for thread in threading.enumerate())


def test_a_mistake_leaves_the_out_folder_free(base: TrainConfig, tmp_path: Path) -> None:
    cfg = replace(base, out=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="beyond the model's 3 layers"):
        train(replace(cfg, sites=("resid_post/3",)))
    with pytest.raises(ValueError, match="no longer finite"):
        train(replace(cfg, lrs=(1e30,)))
    train(cfg)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["lrs"] == list(cfg.lrs)
    assert len(_lines(cfg)) == 2 * 60


def test_out_that_is_a_file(base: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError, match="which is a file: name a folder"):
        train(replace(base, out=str(tmp_path / "taken")))


def test_full_device_memory_is_one_sentence(
    base: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nmore lines")

    monkeypatch.setattr(train_run.SAETrainer, "step", full)
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    with pytest.raises(ValueError, match="memory is full: use a smaller buffer_tokens"):
        train(replace(base, out=str(tmp_path)))
    assert matmul.allow_bf16_reduced_precision_reduction == before
    assert not any(thread.name == "tokens" for thread in threading.enumerate())


def test_tensorboard_gets_the_metrics(
    base: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, list[tuple[str, int]]] = {}

    class Writer:
        def __init__(self, folder: str) -> None:
            self.lines = written.setdefault(folder, [])

        def add_scalar(self, name: str, _value: float, step: int) -> None:
            self.lines.append((name, step))

        def close(self) -> None:
            self.lines.append(("closed", 0))

    # A stand-in: the package is an extra that tests do without.
    module = types.ModuleType("torch.utils.tensorboard")
    module.__dict__["SummaryWriter"] = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    train(replace(base, out=str(tmp_path), run=RunOptions(tensorboard=True)))
    assert set(written) == {str(tmp_path / "tensorboard" / name) for name in (RESIDUAL, MLP)}
    lines = written[str(tmp_path / "tensorboard" / MLP)]
    assert ("fvu", 60) in lines
    assert lines[-1] == ("closed", 0)


def test_loss_that_is_not_finite_stops_the_run(base: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"loss of .* is no longer finite at step"):
        train(replace(base, out=str(tmp_path), lrs=(1e30,)))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_stop_signal_saves_and_the_same_command_continues(
    base: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals
) -> None:
    whole = replace(base, out=str(tmp_path / "whole"))
    train(whole)
    cfg = replace(base, out=str(tmp_path / "stopped"))
    step = train_run.SAETrainer.step
    steps = 0

    def count(self: Any, *args: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 2 * 25:
            os.kill(os.getpid(), sent)
        step(self, *args)

    monkeypatch.setattr(train_run.SAETrainer, "step", count)
    before = signal.getsignal(sent)
    with pytest.raises(Interrupted, match="interrupted at step 25 of 60, saved: give the same"):
        train(cfg)
    assert signal.getsignal(sent) is before
    train(cfg)
    assert steps == 2 * 60
    for name in (RESIDUAL, MLP):
        assert equal(weights(cfg, name), weights(whole, name))
    # The metrics are those of one run, too.
    timing = ("seconds", "tokens_per_second")
    stripped = [
        [{k: v for k, v in line.items() if k not in timing} for line in _lines(run)]
        for run in (cfg, whole)
    ]
    assert stripped[0] == stripped[1]


def test_the_out_folder_is_a_bundle(finished):
    bundle = Bundle.open(finished.out)
    assert list(bundle.sae_names) == [RESIDUAL, MLP]
    lm = bundle.load()
    assert lm.sae_names == [RESIDUAL, MLP]
