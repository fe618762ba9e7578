"""The study of feature frequencies: counts, histograms, and intervals over blocks and seeds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.paper import frequencies
from benchmarks.paper.__main__ import main
from benchmarks.paper.frequencies import (
    EDGES,
    Measured,
    frequency_of,
    histogram,
    measure,
    resampled,
    share_above,
    summary,
)
from benchmarks.paper.results import read
from sae_core.corpus import documents, token_rows
from sae_core.evaluation import evaluate, take_tokens
from sae_core.sae import SAE
from sae_core.splice import SplicedLM
from tests import tiny
from training.loop import train
from training.train_config import short_run


def made(active: list[list[float]], tokens: list[float], **changes: Any) -> Measured:
    base = Measured(
        site="resid_post/1",
        architecture="jumprelu",
        target=2.0,
        seed=0,
        active=torch.tensor(active, dtype=torch.float64),
        tokens=torch.tensor(tokens, dtype=torch.float64),
        fvu=0.1,
    )
    return replace(base, **changes)


def test_shares_are_of_all_features_and_weigh_blocks_by_their_tokens() -> None:
    measured = made([[100, 1, 0, 11], [300, 0, 0, 28]], [100, 300])
    assert frequency_of(measured).tolist() == [1.0, 0.0025, 0.0, 0.0975]
    assert share_above(measured, 0.01) == 0.5
    assert share_above(measured, 0.1) == 0.25
    assert share_above(measured, 1.0) == 0.0  # strictly above


def test_the_histogram_holds_every_feature_that_is_ever_active() -> None:
    frequency = torch.tensor([0, 1e-9, 1e-6, 0.5, 1.0, 10**-2.1, 10**-1.9], dtype=torch.float64)
    counts = histogram(frequency)
    assert len(counts) == len(EDGES) - 1
    assert sum(counts) == 6
    assert counts[0] == 2
    at = {round(EDGES[i], 2): n for i, n in enumerate(counts) if n}
    assert at == {-6.0: 2, -2.25: 1, -2.0: 1, -0.5: 1, -0.25: 1}


def test_an_interval_is_that_of_draws_of_blocks() -> None:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.full((60,), 50.0, dtype=torch.float64)
    # Features around the bound: whether one is above it depends on the text.
    rate = torch.linspace(0.05, 0.15, 40, dtype=torch.float64)
    active = torch.binomial(
        tokens[:, None].expand(60, 40), rate.expand(60, 40), generator=generator
    )
    measured = replace(made([[0.0]], [1.0]), active=active, tokens=tokens)
    drawn = resampled([measured])["over_10_percent"]
    slow = []
    for _ in range(1500):
        chosen = torch.randint(60, (60,), generator=generator)
        slow.append(float((active[chosen].sum(0) / tokens[chosen].sum() > 0.1).double().mean()))
    expected = torch.tensor(slow, dtype=torch.float64)
    assert float(drawn.std()) == pytest.approx(float(expected.std()), rel=0.15)
    assert float(drawn.mean()) == pytest.approx(float(expected.mean()), abs=0.01)
    (row,) = summary([measured])["rows"]
    above = row["over_10_percent"]
    assert above["low"] <= above["value"] == share_above(measured, 0.1) <= above["high"]
    assert above["low"] < above["high"]


def test_text_without_differences_leaves_the_seeds_alone() -> None:
    """Blocks that are all alike: a draw of them changes nothing, a draw of seeds does."""
    alike = [made([[20, 0]] * 5, [100] * 5), made([[20, 20]] * 5, [100] * 5, seed=1)]
    assert set(resampled(alike[:1])["over_10_percent"].tolist()) == {0.5}
    assert set(resampled(alike)["over_10_percent"].tolist()) == {0.5, 0.75, 1.0}


def test_differences_are_paired_by_text() -> None:
    """A feature whose frequency depends on the text, alike in both: their difference does not."""
    active = [[float(20 * (block % 2)), 0.0] for block in range(10)]
    both = [made(active, [100] * 10), made(active, [100] * 10, architecture="topk")]
    result = summary(both)
    assert result["rows"][0]["over_10_percent"]["low"] < 0.5
    (difference,) = result["minus_jumprelu"]
    assert difference["architecture"] == "topk"
    assert difference["over_10_percent"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert [row["matched"] for row in result["rows"]] == [False, False]
    with pytest.raises(ValueError, match="topk is there twice with one seed"):
        summary([*both, both[1]])


def test_counts_are_those_of_the_evaluation(
    tiny_model: Any,
    tiny_tokenizer: Any,
    tiny_sae: SAE,
    tiny_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frequencies, "BLOCKS", 7)
    cfg = tiny_sae.cfg
    metadata = {"training": {"l0_target": 6.0, "settings": {"seed": 4}}}
    sae = SAE.build(replace(cfg, metadata=metadata))
    sae.load_state_dict(tiny_sae.state_dict())
    rows = take_tokens(token_rows(documents([str(tiny_corpus)]), tiny_tokenizer, 24), 600)
    (measured,) = measure(tiny_model, tiny_tokenizer, [sae], rows)
    expected = evaluate(SplicedLM(tiny_model, tiny_tokenizer, {"tiny": sae}), "tiny", rows)
    assert len(measured.tokens) == 7
    assert int(measured.tokens.sum()) == expected.tokens
    assert float(frequency_of(measured).sum()) == pytest.approx(expected.l0)
    assert float((frequency_of(measured) == 0).double().mean()) == expected.dead
    assert measured.fvu == pytest.approx(expected.fvu)
    assert (measured.seed, measured.target, measured.site) == (4, 6.0, str(cfg.site))


def test_the_study_runs_on_what_training_leaves(
    tiny_model: Any, tiny_tokenizer: Any, tiny_corpus: Path, tmp_path: Path
) -> None:
    for save in (tiny_model.save_pretrained, tiny_tokenizer.save_pretrained):
        save(tmp_path / "lm")
    runs = []
    for seed in (0, 1):
        runs.append(tmp_path / f"seed{seed}")
        train(
            short_run(
                model=str(tmp_path / "lm"),
                corpus=(str(tiny_corpus),),
                sites=(str(tiny.SITE),),
                d_sae=32,
                out=str(runs[-1]),
                architectures=("jumprelu", "topk"),
                l0_targets=(6,),
                batch=128,
                tokens=20 * 128,
                context_size=32,
                buffer_tokens=1_024,
                lrs=(5e-3,),
                seed=seed,
            )
        )
    argv = ["frequencies", "--runs", *map(str, runs), "--validation", str(tiny_corpus)]
    assert main([*argv, "--measured-tokens", "500", "--out", str(tmp_path / "results")]) == 0
    written = read("frequencies", tmp_path / "results")
    assert [row["architecture"] for row in written["rows"]] == ["jumprelu", "topk"]
    for row in written["rows"]:
        assert row["seeds"] == [0, 1]
        for counts, dead in zip(row["histogram"], row["dead"], strict=True):
            assert sum(counts) == pytest.approx(32 * (1 - dead), abs=0.02)
        assert len(row["over_1_percent"]["of_seeds"]) == 2
    assert [row["architecture"] for row in written["minus_jumprelu"]] == ["topk"]
    assert written["settings"]["validation"] == [tiny_corpus.stem]
    assert written["edges"] == EDGES
    with pytest.raises(ValueError, match="give --runs, folders of jumpscope train"):
        main(["frequencies"])
