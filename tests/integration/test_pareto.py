"""The comparison of architectures from end to end on a tiny model: train, measure, go on."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast

from benchmarks import pareto, pareto_peers
from benchmarks.compact_json import untabled
from benchmarks.pareto_plan import Options
from benchmarks.train_step_peers import stubs
from sae_core.config import Site
from tests import tiny

MEASURED = {"l0", "fvu", "delta_lm_loss", "kl", "dead", "high_frequency", "uniformity"}


@pytest.fixture
def options(
    tiny_model: Gemma2ForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> Options:
    """Twenty steps at one L0."""
    tiny_model.save_pretrained(tmp_path / "lm")
    tiny_tokenizer.save_pretrained(tmp_path / "lm")
    return Options(
        corpus=(str(tiny.make_corpus(tmp_path / "text.parquet", count=100, seed=1)),),
        validation=(str(tiny.make_corpus(tmp_path / "held-out.parquet", count=5, seed=2)),),
        out=tmp_path / "found" / "pareto.json",
        work=tmp_path / "work",
        model=str(tmp_path / "lm"),
        tokens=20 * 64,
        sweep_tokens=10 * 64,
        d_sae=48,
        layers=(0, 1, 2),
        targets=(4, 8),
        point=8,
        lrs=(1e-3, 4e-3, 1.6e-2),
        seeds=(1,),
        curves=("jumprelu", "topk"),
        validation_tokens=200,
        uniformity_rows=8,
        batch=64,
        context_size=16,
        buffer_tokens=256,
    )


def test_a_comparison_is_gone_on_with(
    options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = pareto.main(replace(options, stages=("sweep",)))
    assert {g["stage"] for g in first["groups"].values()} == {"sweep"}
    run: Callable[..., dict[str, object]] = pareto.Bench.run
    again: list[str] = []

    def counted(bench: pareto.Bench, group: pareto.Group) -> dict[str, object]:
        again.append(group.name)
        return run(bench, group)

    monkeypatch.setattr(pareto.Bench, "run", counted)
    result = pareto.main(replace(options, stages=("sweep", "curve", "seeds")))
    assert again == [
        "jumprelu-resid_post/1",
        "topk-resid_post/1",
        "jumprelu-resid_post/1-seed_1",
        "topk-resid_post/1-seed_1",
        "jumprelu-resid_post/1-slower_rate",
        "topk-resid_post/1-slower_rate",
    ]
    assert untabled(json.loads(options.out.read_text())) == result
    rows = result["groups"]["topk-resid_post/1"]["rows"]
    assert [row["target"] for row in rows] == [4, 4, 8, 8]
    for row in rows:
        assert row.keys() >= MEASURED
        assert row["l0"] == pytest.approx(row["target"], rel=0.05)  # less where fewer are positive
        assert 0 < row["fvu"] < 1.2
    slower = result["groups"]["topk-resid_post/1-slower_rate"]["rows"]
    assert [row["target"] for row in slower] == [4, 8]
    lowest, low, high = sorted({row["lr"] for row in rows + slower})
    assert [lowest, low] == pytest.approx([high / 4, high / 2])
    capsys.readouterr()
    # With all of it there, nothing is trained; with other settings the file is left alone.
    assert pareto.main(replace(options, stages=("sweep", "curve", "seeds"))) == result
    assert "0 groups to train" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds results with another tokens: choose another out"):
        pareto.main(replace(options, tokens=64))
    monkeypatch.setattr(pareto, "LOSS", replace(pareto.LOSS, target_coefficient=7.0))
    with pytest.raises(ValueError, match="holds results with another ours: choose another out"):
        pareto.main(options)


def test_no_group_starts_that_would_not_end_in_time(options: Options) -> None:
    assert pareto.main(replace(options, minutes=0.3))["groups"] == {}
    assert not options.out.exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # theirs
@pytest.mark.parametrize("curve", ["saelens", "dictionary_learning"])
def test_peers_train_on_the_same_activations(options: Options, curve: str) -> None:
    if importlib.util.find_spec("sae_lens" if curve == "saelens" else curve) is None:
        pytest.skip(f"{curve} is needed for benchmarks alone, and not installed")
    result = pareto.main(
        replace(options, curves=(curve,), stages=("sweep", "curve"), peer_lrs=(1e-3,))
    )
    rows = [row for group in result["groups"].values() for row in group["rows"]]
    assert {row["window"] for row in rows} == {"own", "wide"}
    assert all(0 < row["fvu"] < 3 for row in rows)
    assert f"{curve}-resid_post/1" in result["groups"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # theirs
@pytest.mark.parametrize("curve", ["saelens", "dictionary_learning"])
def test_what_a_peer_trained_does_the_same_to_raw_activations(curve: str) -> None:
    if importlib.util.find_spec("sae_lens" if curve == "saelens" else curve) is None:
        pytest.skip(f"{curve} is needed for benchmarks alone, and not installed")
    site, length = Site("resid_post", 0), pareto_peers.Length(steps=30, batch=64)
    member = pareto_peers.Member(
        site=site,
        target=4,
        lr=3e-3,
        window="wide",
        coefficient=None if curve != "saelens" else 0.01,
    )
    generator = torch.Generator().manual_seed(0)
    x = [7 * torch.randn(64, 12, generator=generator) + 2 for _ in range(30)]
    with stubs():
        if curve == "saelens":
            peer = pareto_peers.SAELensPeer(member, x[:4], 40, length)
        else:
            peer = pareto_peers.DictionaryLearningPeer(member, x[:4], 40, length)
        for raw in x:
            peer.step(raw)
        with torch.no_grad():
            if isinstance(peer, pareto_peers.SAELensPeer):
                scaler = peer._trainer.activation_scaler
                expected = scaler.unscale(peer._sae(scaler.scale(x[0])))
            else:
                expected = peer._trainer.ae(x[0] / peer._scale) * peer._scale
    sae = peer.sae()
    torch.testing.assert_close(sae(x[0]), expected, rtol=1e-4, atol=1e-3)
    assert 0 < float(sae.encode(x[0]).ne(0).sum(1).float().mean()) < 40
    assert sae.cfg.site == site
