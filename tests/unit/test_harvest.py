"""The harvest benchmark: its random text, equal work for both arms, and it runs through."""

import json
from itertools import islice
from pathlib import Path

import pytest
import torch

from benchmarks import harvest
from training.text import Cursor


def test_random_text_is_full_rows_and_seekable() -> None:
    text = harvest.RandomText(
        corpus=(), tokenizer=None, context_size=8, rows=3, seed=0, vocabulary=50
    )
    first, second, third = islice(text.stream(Cursor()), 3)
    assert first.input_ids.shape == (3, 8)
    assert bool((first.input_ids[:, 0] == 2).all())
    assert 3 <= int(first.input_ids[:, 1:].min()) <= int(first.input_ids.max()) < 50
    counted = torch.zeros(24, dtype=torch.bool)
    counted[first.counted] = True
    assert torch.equal(counted.view(3, 8), first.input_ids != 2)
    assert not torch.equal(first.input_ids, second.input_ids)
    again = next(text.stream(third.cursor))
    assert torch.equal(again.input_ids, third.input_ids)


def test_every_part_runs(
    tmp_path: Path, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"
    result = harvest.main(["--tiny", "--out", str(out), "--corpus", str(tiny_corpus)])
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text()) == result
    assert result["tokenising"]["tokens_per_s"] > 0
    for layer in ("layer_0", "layer_1"):
        measured = result[layer]
        assert measured["l0"] == pytest.approx(8, rel=0.3)
        assert set(measured["tokens_per_s"]) == {"model", "pipeline", "step"}
        assert set(measured["tokens_per_s_text"]) == {"model_text", "pipeline_text"}
        assert measured["pipeline_over_model"]["p50"] > 0
        assert measured["pipeline_over_model_text"]["n"] >= 3


def test_the_forwards_alone_harvest_as_much_as_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    text = harvest.RandomText(
        corpus=(), tokenizer=None, context_size=11, rows=4, seed=0, vocabulary=50
    )
    monkeypatch.setattr(harvest, "activations", lambda _model, ids, _sites: rows.append(len(ids)))
    bench = harvest.Bench.__new__(harvest.Bench)
    bench.model = None
    bench.run = harvest.Run(torch.device("cpu"), torch.float32, 0.0, 0.0, None)
    bench._forwards(text, harvest.Site("resid_post", 0), 100)()
    assert rows == [4, 4, 2]  # ten counted tokens a row
