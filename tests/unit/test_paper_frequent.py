"""The study of very frequent features: sets, arms, gradients and classifier against slow ones."""

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.paper import (
    ablations,
    frequent,
    frequent_saes,
    lexical,
)
from benchmarks.paper.ablations import Portions, ablated, drawn_sets, fvu_without, portions
from benchmarks.paper.demo import Demo
from benchmarks.paper.frequent import attributed, quartiles, some, told_by
from benchmarks.paper.frequent_saes import config, kind_of, seed_of, target_of
from benchmarks.paper.held_out import Drawn, HeldOut, interval
from sae_core.arms import Arms
from sae_core.bundle import Bundle, write_bundle
from sae_core.corpus import TokenRow, documents, token_rows
from sae_core.edits import Edit
from sae_core.evaluation import evaluate, take_tokens, uniformity
from sae_core.formats.saelens import save_sae
from sae_core.sae import SAE
from sae_core.splice import SplicedLM
from tests import tiny


@pytest.fixture
def demo(tiny_model: Any, tiny_tokenizer: Any) -> Demo:
    return Demo(Path("-"), tiny_model, tiny_tokenizer, torch.device("cpu"))


@pytest.fixture
def rows(tiny_corpus: Path, tiny_tokenizer: Any) -> list[TokenRow]:
    return take_tokens(token_rows(documents([str(tiny_corpus)]), tiny_tokenizer, 24), 900)


@pytest.fixture
def sae(tiny_sae: SAE) -> SAE:
    metadata = {"training": {"l0_target": 6.0, "settings": {"seed": 1, "loss": {}}}}
    made = SAE.build(replace(tiny_sae.cfg, metadata=metadata))
    made.load_state_dict(tiny_sae.state_dict())
    return made


def test_an_interval_is_that_of_a_bootstrap_and_of_sums_over_sums() -> None:
    generator = torch.Generator().manual_seed(5)
    top = torch.randn(400, generator=generator, dtype=torch.float64) + 3
    bottom = torch.rand(400, generator=generator, dtype=torch.float64) + 1
    value, low, high = interval(top, bottom)
    assert value == pytest.approx(float(top.sum() / bottom.sum()))
    slow = []
    for _ in range(2_000):
        chosen = torch.randint(400, (400,), generator=generator)
        slow.append(float(top[chosen].sum() / bottom[chosen].sum()))
    expected = torch.tensor(slow).quantile(torch.tensor([0.025, 0.975])).tolist()
    assert [low, high] == pytest.approx(expected, abs=0.15 * (expected[1] - expected[0]))
    assert interval(torch.full((7,), 2.5)) == [2.5, 2.5, 2.5]
    assert interval(top) == pytest.approx(interval(top, torch.ones(400)))


def test_draws_are_of_the_group_alone_and_come_as_near_to_the_budget_as_their_order_allows() -> (
    None
):
    weight = torch.arange(1.0, 41) / 10
    among = torch.arange(40) % 2 == 0
    for budget in (0.05, 5.0, 1e9):
        sets = drawn_sets(weight, among, budget, torch.Generator().manual_seed(0))
        assert len(sets) == ablations.DRAWS
        for each in sets:
            assert bool(among[each].all())
            assert len(set(each.tolist())) == len(each) > 0
            sums = weight[each].cumsum(0)
            nearest = min(abs(float(s) - budget) for s in sums)
            assert abs(float(sums[-1]) - budget) == pytest.approx(nearest)
    assert len(sets[0]) == 20  # more than there is: all of them
    assert sets[0].tolist() != sets[1].tolist()
    none = torch.zeros(40, dtype=torch.bool)
    assert drawn_sets(weight, none, 1.0, torch.Generator()) == []


def test_what_a_group_tells_is_a_share_of_variance_on_other_tokens() -> None:
    generator = torch.Generator().manual_seed(1)
    groups = torch.randint(0, 6, (3_000,), generator=generator)
    noise = torch.randn(3_000, 2, generator=generator)
    level = torch.tensor([0.0, 1, 2, 3, 4, 5])[groups][:, None]
    values = torch.cat([level, level + noise[:, :1], noise[:, 1:]], 1)
    first = torch.arange(3_000) < 1_500
    told = told_by(groups, values, first)
    slow = []
    for column in values.T:
        means = {g: float(column[first & (groups == g)].mean()) for g in range(6)}
        rest, of = column[~first], groups[~first]
        error = sum((float(v) - means[int(g)]) ** 2 for v, g in zip(rest, of, strict=True))
        slow.append(1 - error / float((rest - rest.mean()).square().sum()))
    assert told.tolist() == pytest.approx(slow, abs=1e-4)
    assert told[0] == pytest.approx(1.0, abs=1e-5)
    assert 0.65 < float(told[1]) < 0.82  # variance 35/12 of the levels and 1 of the noise: 0.74
    assert abs(float(told[2])) < 0.02
    # A group that the first half never had is told by the mean of all.
    new = told_by(
        torch.tensor([0, 0, 1, 1]), torch.tensor([[0.0], [2], [1], [3]]), first[:4] ^ True
    )
    assert new.isnan().all() or new.isinf().all()
    mixed = torch.tensor([True, True, False, False])
    assert told_by(torch.tensor([0, 0, 1, 1]), torch.tensor([[0.0], [2], [0], [2]]), mixed) == 0


def test_quartiles_leave_out_what_is_not_finite() -> None:
    assert quartiles(torch.tensor([float("nan"), 1, 2, 3, float("-inf")])) == [1.5, 2.0, 2.5]
    assert all(v != v for v in quartiles(torch.tensor([])))
    chosen = some(torch.arange(50) % 5 == 0, torch.Generator().manual_seed(0), 4)
    assert len(chosen) == 4
    assert (chosen % 5 == 0).all()
    assert chosen.tolist() == sorted(chosen.tolist())


def test_held_out_tokens_know_what_is_around_them(demo: Demo, rows: list[TokenRow]) -> None:
    held = HeldOut.read(demo, rows, str(tiny.SITE))
    special = {0, 1, 2}
    expected = [
        (int(each), int(row.ids[at - 1]), at, number)
        for number, row in enumerate(rows)
        for at, each in enumerate(row.ids)
        if int(each) not in special
    ]
    found = zip(
        *(c.tolist() for c in (held.ids, held.previous, held.position, held.row)), strict=True
    )
    assert list(found) == expected
    assert len(held.x) == len(expected)


def test_portions_are_those_of_the_evaluation(
    demo: Demo, rows: list[TokenRow], sae: SAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.paper.held_out.CHUNK", 128)
    held = HeldOut.read(demo, rows, str(tiny.SITE))
    part = portions(sae, held)
    expected = evaluate(SplicedLM(demo.model, demo.tokenizer, {"t": sae}), "t", rows)
    assert float(part.frequency.sum()) == pytest.approx(expected.l0, rel=1e-5)
    assert part.fvu == pytest.approx(expected.fvu, rel=1e-5)
    acts = sae.encode(held.x.float())
    assert torch.allclose(part.mean, acts.mean(0), atol=1e-5)
    assert torch.allclose(part.mass, acts.mean(0) * sae.W_dec.norm(dim=1), atol=1e-5)
    assert int(part.very[tiny.ALWAYS]) == 1
    assert not bool((part.very & part.ordinary).any())
    # Nothing held changes nothing; everything held at its mean leaves a constant.
    nothing = torch.zeros(tiny.D_SAE, dtype=torch.bool)
    assert fvu_without(sae, held, nothing, part.mean) == pytest.approx(part.fvu)
    one = nothing.clone()
    one[tiny.ALWAYS] = True
    acts[:, tiny.ALWAYS] = 0.25
    error = (held.x.float() - sae.decode(acts)).square().sum()
    spread = (held.x.float() - held.x.float().mean(0)).square().sum()
    at = torch.full((tiny.D_SAE,), 0.25)
    assert fvu_without(sae, held, one, at) == pytest.approx(float(error / spread), rel=1e-4)


def test_an_arm_at_zero_is_that_of_the_ablation_edit(
    demo: Demo, rows: list[TokenRow], sae: SAE
) -> None:
    lm = SplicedLM(demo.model, demo.tokenizer, {"t": sae})
    held = HeldOut.read(demo, rows, str(tiny.SITE))
    often = portions(sae, held).frequency.argsort(descending=True)
    sets = [often[:1], often[1:4]]
    three = rows[:3]
    found = ablated(demo, sae, three, [(each, None) for each in sets])
    for number, row in enumerate(three):
        ids = row.ids.tolist()
        arms = Arms(lm, ids, ["t"])
        edits = [
            [Edit(feature=int(f), mode="ablate", positions="all", sae="t") for f in each]
            for each in sets
        ]
        last = len(ids) - 1
        counted = [t for t in range(1, last) if not arms.special[t] and not arms.special[t + 1]]
        for batch in arms.run(edits, read=list(range(last + 1))):
            log_q, log_p = batch.log_probs
            for place, arm in enumerate(batch.arms):
                kl = float(batch.kl()[place][counted].sum())
                change = sum(
                    float(log_p[t, ids[t + 1]] - log_q[place, t, ids[t + 1]]) for t in counted
                )
                assert float(found.kl[arm, number]) == pytest.approx(kl, rel=1e-3, abs=1e-5)
                assert float(found.loss[arm, number]) == pytest.approx(change, rel=1e-3, abs=1e-4)
        assert int(found.predictions[number]) == len(counted)
    quality = evaluate(lm, "t", three)
    assert found.of([2])["loss"][0] == pytest.approx(quality.delta_lm_loss, rel=1e-3)
    assert found.of([2])["kl"][0] == pytest.approx(quality.kl, rel=1e-3)
    single = (found.kl.sum(1) / found.predictions.sum()).tolist()
    ends = {"kl_least": min(single[:2]), "kl_most": max(single[:2])}
    assert found.ends([0, 1]) == pytest.approx(ends)
    each = found.of([0, 1])
    mean = found.kl[:2].mean(0).sum() / found.predictions.sum()
    assert each["kl"][0] == pytest.approx(float(mean))


def test_holding_a_feature_at_its_own_value_changes_nothing(
    demo: Demo, rows: list[TokenRow], sae: SAE
) -> None:
    silent = torch.tensor([tiny.DEAD])
    found = ablated(demo, sae, rows[:2], [(silent, torch.zeros(1)), (silent, torch.ones(1))])
    assert float(found.kl[0].abs().max()) < 1e-6
    assert float(found.kl[1].min()) > 1e-4


def test_gradients_of_drawn_tokens_give_the_uniformity_of_the_evaluation(
    demo: Demo, rows: list[TokenRow], sae: SAE
) -> None:
    drawn = Drawn.read(demo, rows, str(tiny.SITE))
    lm = SplicedLM(demo.model, demo.tokenizer, {"t": sae})
    found = attributed(drawn, sae, torch.zeros(tiny.D_SAE, dtype=torch.bool))
    assert found["uniformity"][0] == pytest.approx(uniformity(lm, "t", rows), rel=1e-4)
    assert found["of_active"][0] == found["of_top_1"][0] == found["of_effect"][0] == 0


def test_the_part_in_effects_is_counted(sae: SAE) -> None:
    """Two features whose activations and gradients are known."""
    d = sae.cfg.d_model
    small = SAE.build(replace(sae.cfg, d_sae=4))
    for k, (to, size) in enumerate(((0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0))):
        small.W_enc.data[to, k] = size
        small.W_dec.data[k, to] = 1.0
    x = torch.zeros(3, d)
    x[:, :4] = torch.tensor([[1.0, 2, 0, 0], [4, 0, 0, 1], [0, 0, 0, 0]])
    gradient = torch.zeros(3, d)
    gradient[:, :4] = torch.tensor([[3.0, 1, 9, 9], [1, 9, 9, 1], [1, 1, 1, 1]])
    drawn = Drawn(x, gradient, torch.arange(3), torch.zeros(3, dtype=torch.long))
    very = torch.tensor([True, False, False, False])
    part = attributed(drawn, small, very)
    # Effects (3, 2) and (4, 1): the first is the largest in both; nothing is active in the third.
    assert part["predictions"] == 2
    assert part["of_active"][0] == 0.5
    assert part["of_effect"][0] == pytest.approx((3 / 5 + 4 / 5) / 2)
    assert part["of_top_1"][0] == 1.0
    assert part["of_top_10"][0] == 0.5  # of the two that are active, not of ten


def _lexical_case() -> tuple[HeldOut, Tensor, Tensor]:
    """Tokens in rows; feature 0 is active on ids below 10, 1 after ids below 10, 2 at random."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 40, (60, 80), generator=generator)
    row, position = torch.ones_like(ids).nonzero(as_tuple=True)
    flat = ids.flatten()
    before = torch.cat([flat[:1] * 0 + 39, flat[:-1]])
    before[position == 0] = 39
    acts = torch.stack(
        [
            (flat < 10) * (1 + torch.rand(len(flat), generator=generator)),
            (before < 10) * (1 + torch.rand(len(flat), generator=generator)),
            (torch.rand(len(flat), generator=generator) < 0.25).float(),
            (flat >= 30) * (1 + torch.rand(len(flat), generator=generator)),
        ],
        1,
    )
    held = HeldOut(acts.float(), flat, before, position, row)
    table = torch.randn(40, 32, generator=generator)
    table[:10] += 1.0  # what the first words have in common
    return held, acts.float(), table


def test_the_classifier_finds_what_words_tell_and_not_what_they_do_not() -> None:
    held, acts, table = _lexical_case()
    model = torch.nn.Module()
    embedding = torch.nn.Embedding(40, 32, _weight=table)
    model.get_input_embeddings = lambda: embedding  # type: ignore[assignment]
    seen = lexical.embedded(model, held)
    # What it sees of a token is its own embedding and the mean of those before it, scaled.
    covariance = seen.T @ seen / len(seen)
    eigen = torch.linalg.eigvalsh(covariance)
    assert float(eigen.max()) < 1.01
    slow = []
    for k in range(len(held.ids)):
        back = [table[held.ids[j]] for j in range(max(0, k - 8), k) if held.row[j] == held.row[k]]
        mean = torch.stack(back).mean(0) if back else torch.zeros(32)
        slow.append(torch.cat([table[held.ids[k]], mean]))
    plain = torch.stack(slow)
    plain = plain - plain.mean(0)
    # The scaling is a linear map: least squares finds the one that makes `seen`.
    fitted = plain @ torch.linalg.lstsq(plain, seen).solution
    assert torch.allclose(fitted, seen, atol=2e-2)
    generator = torch.Generator().manual_seed(0)
    first = held.row % 2 == 0
    found = lexical._detection(acts > 0, first, seen, generator)
    assert float(found[0]) > 0.97
    assert 0.6 < float(found[1]) < 0.9  # one of the eight before: a bag of words tells it in part
    assert abs(float(found[2]) - 0.5) < 0.15
    never = torch.zeros(len(acts), 1, dtype=torch.bool)
    assert lexical._detection(never, first, seen, generator).isnan().all()
    odd = lexical._intruder(acts, seen, generator)
    assert float(odd[0]) > 0.4  # chance is 0.2
    assert float(odd[2]) < 0.4
    assert lexical._intruder(acts[:, :1], seen, generator).isnan().all()
    assert lexical.summary(torch.tensor([float("nan"), 0.5, 0.5])) == [0.5, 0.5, 0.5, 2]
    assert lexical.summary(torch.tensor([float("nan")])) is None


def test_kinds_are_told_from_what_they_were_trained_with(sae: SAE) -> None:
    assert (kind_of(sae), seed_of(sae), target_of(sae)) == ("jumprelu", 1, 6.0)
    options = Namespace(
        bundle=Path("b"), corpus=["c"], out=Path("o"), seed=3, d_sae=64, batch=8, steps=10,
        context_size=16,
    )  # fmt: skip
    for kind, (architecture, scale) in frequent_saes.KINDS.items():
        cfg = config(kind, options)
        assert cfg.loss.frequency_scale == scale
        assert {plan.architecture for plan in cfg.plans} == {architecture}
        assert (cfg.seed, cfg.tokens, cfg.out) == (3, 80, str(Path("o") / f"{kind}-3"))
        settings = {"loss": {"frequency_scale": scale}, "seed": 3}
        training = {"settings": settings, "l0_target": 32.0}
        k = 4 if architecture == "topk" else None
        metadata = {"training": training}
        named = replace(sae.cfg, architecture=architecture, k=k, metadata=metadata)
        assert kind_of(SAE.build(named)) == kind
    with pytest.raises(ValueError, match="there is no kind relu"):
        config("relu", options)


def test_a_row_of_the_study_holds_together(
    demo: Demo, rows: list[TokenRow], sae: SAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lexical, "SHOWN", 5)
    monkeypatch.setattr(lexical, "LEAST", 20)
    held = HeldOut.read(demo, rows, str(tiny.SITE))
    drawn = Drawn.read(demo, rows, str(tiny.SITE))
    seen = lexical.embedded(demo.model, held)
    row = frequent.measured(demo, replace_seed(sae, 0), held, seen, drawn, rows[:3], sae)
    json.dumps(row)
    part: Portions = portions(sae, held)
    assert row["very"] == int(part.very.sum()) > 0
    assert row["very_features"]["nearest"] == pytest.approx([1.0] * 3)  # the other seed is itself
    assert row["ordinary"] > 0
    assert row["fvu_zero"] >= row["fvu"]
    assert set(row["output"]) == {"very", "ordinary"}
    for name in ("activity", "mass"):
        very, ordinary = (row["draws"][f"{group}_by_{name}"] for group in ("very", "ordinary"))
        assert very["features"] <= ordinary["features"]
        assert min(each["kl"][0] for each in (very, ordinary)) >= 0
    assert 0 < row["of_l0"] < 1
    monkeypatch.setattr(ablations, "BOUND", 2.0)
    none = frequent.measured(demo, sae, held, seen, drawn, rows[:3], None)
    assert (none["very"], none["of_l0"], none["draws"]) == (0, 0.0, {})
    assert none["fvu_zero"] == pytest.approx(row["fvu"])
    assert none["all_zero"]["kl"] == pytest.approx([0.0] * 3, abs=1e-6)
    assert none["very_features"] == {"features": 0}
    assert none["spliced"] == row["spliced"]
    assert "output" not in none  # of the first seed alone


def replace_seed(sae: SAE, seed: int) -> SAE:
    metadata = {"training": {"l0_target": 6.0, "settings": {"seed": seed, "loss": {}}}}
    made = SAE.build(replace(sae.cfg, metadata=metadata))
    made.load_state_dict(sae.state_dict())
    return made


def test_a_bundle_for_the_blind_test_has_one_sae_of_each_run(
    demo: Demo, sae: SAE, tmp_path: Path
) -> None:
    for save in (demo.model.save_pretrained, demo.tokenizer.save_pretrained):
        save(tmp_path / "model")
    runs = []
    for kind in ("first", "second"):
        runs.append(tmp_path / kind)
        for target in (3.0, 9.0):
            metadata = {"training": {"l0_target": target, "settings": {"seed": 0, "run": kind}}}
            made = SAE.build(replace(sae.cfg, metadata=metadata))
            made.load_state_dict(sae.state_dict())
            save_sae(made, runs[-1] / "saes" / f"l0_{target:g}")
        names = ["l0_3", "l0_9"]
        write_bundle(runs[-1], name=kind, title=kind, model=str(tmp_path / "model"), saes=names)
    site = str(tiny.SITE)
    frequent_saes.blind(runs, tmp_path / "model", site, tmp_path / "blind")
    bundle = Bundle.open(tmp_path / "blind")
    assert list(bundle.sae_names) == ["a", "b"]
    saes = [bundle.load_sae(name) for name in bundle.sae_names]
    assert [target_of(each) for each in saes] == [9.0, 9.0]
    said = [each.cfg.metadata["training"]["settings"]["run"] for each in saes]
    assert said == ["first", "second"]
    with pytest.raises(ValueError, match="first has no SAE of mlp_out/1"):
        frequent_saes.blind(runs, tmp_path / "model", "mlp_out/1", tmp_path / "other")
