"""Proofs of very frequent features: which features, set to what, and what is kept of each."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.output_scores import proof_of
from benchmarks.paper import proofs
from benchmarks.paper.ablations import BOUND, ORDINARY
from benchmarks.paper.demo import Demo
from benchmarks.paper.held_out import HeldOut, activations_of
from benchmarks.paper.results import read
from benchmarks.paper.shown_proofs import separates
from sae_core.corpus import documents, token_rows
from sae_core.edits import Edit
from sae_core.evaluation import take_tokens
from sae_core.formats.saelens import save_sae
from sae_core.proof import Rate
from sae_core.sae import SAE
from sae_core.splice import SplicedLM
from tests import tiny


@pytest.fixture
def demo(tiny_model: Any, tiny_tokenizer: Any) -> Demo:
    return Demo(Path("-"), tiny_model, tiny_tokenizer, torch.device("cpu"))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SEEDS", 3), ("FEWER", 2), ("TOKENS", 4), ("FEATURES", 2)):
        monkeypatch.setattr(proofs, name, value)


def test_groups_are_very_frequent_features_those_next_to_them_and_others() -> None:
    frequency = torch.rand(400, generator=torch.Generator().manual_seed(1)).square()
    found = proofs.groups(frequency, 12)
    very, following, others = (found[name] for name in proofs.GROUPS)
    assert len(very) == len(following) == len(others) == 12
    assert bool((frequency[very] > BOUND).all())
    ordinary = [f for f in frequency.tolist() if ORDINARY[0] <= f <= BOUND]
    assert sorted(frequency[following].tolist()) == sorted(ordinary)[-12:]
    assert max(frequency[others]) < min(frequency[following])
    assert min(frequency[others]) >= ORDINARY[0]
    assert proofs.groups(frequency, 12) == found
    few = proofs.groups(torch.tensor([0.5, 0.05, 0.0, 0.0002]), 3)
    assert few == {"very": [0], "next": [1], "others": []}


def test_values_are_the_largest_activation_or_that_of_a_push(
    demo: Demo, tiny_corpus: Path, tiny_sae: SAE
) -> None:
    rows = take_tokens(token_rows(documents([str(tiny_corpus)]), demo.tokenizer, 24), 600)
    held = HeldOut.read(demo, rows, str(tiny.SITE))
    of = proofs.known(tiny_sae, held)
    acts = activations_of(tiny_sae, held, torch.arange(tiny_sae.cfg.d_sae))
    assert torch.allclose(of.frequency, (acts > 0).float().mean(0))
    assert torch.allclose(of.values["largest"], acts.amax(0))
    written = of.values["push"] * tiny_sae.W_dec.norm(dim=1)
    assert torch.allclose(written, proofs.PUSH * held.x.norm(dim=1).mean().expand_as(written))


@pytest.mark.usefixtures("short")
def test_what_is_kept_of_a_feature_is_its_proof_s(demo: Demo, tiny_sae: SAE) -> None:
    lm = SplicedLM(demo.model, demo.tokenizer, {"sae": tiny_sae})
    frequency = torch.linspace(0.5, 0.001, tiny_sae.cfg.d_sae)
    of = proofs.Known(frequency, {"largest": torch.full_like(frequency, 3.0)})
    row = proofs.proven(lm, of, 5, "largest")
    feature, often, value, size, passed, of_fewer, fires, nll = row
    assert (feature, often, value) == (5, pytest.approx(float(frequency[5])), 3.0)
    edit = Edit(feature=5, mode="set", value=3.0, positions="continuation", sae="sae")
    proof = proof_of(lm, edit, frequency.double().numpy(), 3, 4)
    arms = (proof.target, *proof.controls)
    assert passed == [proof.rate(arm).passed for arm in arms]
    assert of_fewer == [sum(proof.passes(arm)[:2]) for arm in arms]
    assert fires == pytest.approx([np.mean([run.share for run in arm.runs]) for arm in proof.arms])
    assert nll[0] == pytest.approx(np.mean([run.nll for run in proof.without.runs]))
    every = [run.nll for arm in proof.controls for run in arm.runs]
    assert nll[2] == pytest.approx(np.mean(every))
    assert size > 0


def test_separating_is_that_of_a_proof() -> None:
    for passed in ([12, 6, 0], [12, 7, 1], [5, 0, 0], [4, 0, 0], [0, 0, 0]):
        target, *controls = (Rate(passed=each, runs=12) for each in passed)
        highest = max(rate.interval[1] for rate in controls)
        assert separates(passed, 12) == (target.interval[0] > highest)


@pytest.mark.usefixtures("short")
def test_a_study_proves_all_groups_in_turn(
    demo: Demo,
    tiny_sae: SAE,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metadata = {"training": {"l0_target": 6.0, "settings": {"seed": 0, "loss": {}}}}
    sae = SAE.build(replace(tiny_sae.cfg, metadata=metadata))
    sae.load_state_dict(tiny_sae.state_dict())
    save_sae(sae, tmp_path / "sae")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"x")
    monkeypatch.setattr(Demo, "load", lambda _: demo)
    options = Namespace(
        minutes=10.0, bundle=tmp_path, validation=[str(tiny_corpus)], context_size=24,
        measured_tokens=600, site=str(tiny.SITE), runs=[tmp_path / "sae"], out=tmp_path,
    )  # fmt: skip
    proofs.study(options)
    data = read("proofs", tmp_path)
    (row,) = data["rows"]
    assert (row["kind"], row["target"], row["seed"]) == ("jumprelu", 6.0, 0)
    assert row["very"] > 2
    for rule in proofs.RULES:
        very = row[rule]["very"]
        assert len(very) == 2
        assert all(len(each) == len(proofs.COLUMNS) for each in very)
        assert all(each[1] > BOUND for each in very)
    assert data["settings"]["validation"] == [tiny_corpus.name]
    options.minutes = 0.0
    options.out = tmp_path / "none"
    proofs.study(options)
    assert not (tmp_path / "none").exists()  # nothing was proven in time
