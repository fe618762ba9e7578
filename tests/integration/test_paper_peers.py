"""Other libraries' training side by side, against their own trainers, step by step."""

import importlib.util
from typing import Any

import pytest
import torch

from benchmarks.paper.kinds import Kind, Length, begin, moments_of, take_step, train
from benchmarks.paper.peer_kinds import Peer, as_ours
from benchmarks.pareto_peers import DictionaryLearningPeer, Member, SAELensPeer
from benchmarks.train_step_peers import stubs
from sae_core.config import SAEConfig, Site
from tests.unit.test_paper_arms import activations
from training.losses.base import AutogradLoss
from training.trained_form import folded

SITE = "resid_post/0"
LENGTH = Length(d_sae=24, batch=32, steps=40)
RAW = {SITE: activations(1280)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # theirs
@pytest.mark.parametrize("peer", ["saelens", "dictionary_learning"])
def test_peers_take_their_own_steps(peer: Peer) -> None:
    if importlib.util.find_spec("sae_lens" if peer == "saelens" else peer) is None:
        pytest.skip(f"{peer} is needed for benchmarks alone, and not installed")
    with stubs():
        _compare(peer)


def _compare(peer: Peer) -> None:
    kinds = [
        Kind(architecture=peer, site=SITE, target=t, lr=lr, seed=seed, epsilon=0.1)
        for t, lr, seed in ((4, 0.01, 3), (6, 0.02, 5))
    ]
    coefficients: list[torch.Tensor] = []

    def step(*arguments: Any, **settings: Any) -> None:
        c, moving, control = arguments[3], arguments[4], arguments[6]
        before = moving["multiplier"].clone()
        take_step(*arguments, **settings)
        strength = ((control[2] - 1) / c["warmup"]).clamp(max=1)
        most = AutogradLoss.limits.most
        e = (moving["l0"] / c["target"] - 1).clamp(-most, most)
        coefficients.append(c["coefficient"] * strength * (e + before).exp())

    trained = train(kinds, LENGTH, RAW, step)
    start = begin(kinds, LENGTH, moments_of(RAW))
    kind = {"saelens": SAELensPeer, "dictionary_learning": DictionaryLearningPeer}[peer]
    for k, each in enumerate(kinds):
        member = Member(
            site=Site.parse(SITE), target=each.target, lr=each.lr, window="wide", coefficient=1e-3
        )
        theirs: Any = kind(member, [RAW[SITE]], LENGTH.d_sae, LENGTH.times)
        sae = theirs._sae if peer == "saelens" else theirs._trainer.ae
        width = float(start.constant["epsilon"][k])
        if peer == "saelens":
            sae.bandwidth = width
        else:
            theirs._trainer.bandwidth = width
        with torch.no_grad():
            for name, p in start.parameters.items():
                if name in ("W_dec", "W_enc"):
                    rows = p[k] if name == "W_dec" else p[k].T
                    own = sae.get_parameter("W_dec")
                    assert torch.allclose(rows.norm(dim=1), own.norm(dim=1), rtol=1e-4)
                sae.get_parameter(name).copy_(p[k])
        order = torch.randperm(1280, generator=torch.Generator().manual_seed(each.seed))
        for at, tokens in enumerate(order.split(LENGTH.batch)):
            if peer == "saelens":
                scheduler = theirs._trainer.coefficient_schedulers["l0"]
                scheduler.current_value = float(coefficients[at][k])
            theirs.step(RAW[SITE][tokens])
        for name, mine in trained.parameters.items():
            own = sae.get_parameter(name)
            assert torch.allclose(mine[k], own, rtol=2e-3, atol=5e-5), (k, name)
            if name != "threshold":
                assert not torch.allclose(mine[k], start.parameters[name][k], atol=1e-2)
        parameters = as_ours(peer, {name: p[k] for name, p in trained.parameters.items()})
        cfg = SAEConfig(architecture="jumprelu", d_model=8, d_sae=24, site=Site.parse(SITE))
        mine = folded(parameters, trained.scales[k], cfg)
        own = theirs.sae()
        x = RAW[SITE][:100]
        assert torch.equal(mine.encode(x) > 0, own.encode(x) > 0)
        assert torch.allclose(mine.decode(mine.encode(x)), own.decode(own.encode(x)), atol=1e-2)
