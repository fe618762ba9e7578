"""Several SAEs off, spliced or edited, against plain forwards with plain hooks."""

import itertools
import math
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_core.config import Site
from sae_core.edits import Condition, Edit
from sae_core.splice import SplicedLM
from sae_core.splice_switch import State, splice_costs
from sae_core.tokens import encode_text
from tests import tiny_sink
from tests.arms_reference import MODULES, WINDOW, slow_acts, slow_edited
from tests.tiny import ALWAYS, make_sae

TEXT = "The river remembers two letters in the winter of 1912. My neighbour returns it at noon."
SITES = ["resid_post/0", "mlp_out/1", "attn_out/1", "resid_post/2"]


@pytest.fixture(scope="module")
def ids(tiny_tokenizer: Any) -> list[int]:
    ids = encode_text(tiny_tokenizer, TEXT)
    # A special token within the text keeps its activation, and counts in no statistic.
    ids.insert(12, 1)
    assert len(ids) > 3 * WINDOW
    return ids


@pytest.fixture(scope="module")
def lm(tiny_model: Any, tiny_tokenizer: Any) -> SplicedLM:
    saes = {site: make_sae(tiny_model, tiny_tokenizer, Site.parse(site)) for site in SITES}
    return SplicedLM(tiny_model, tiny_tokenizer, saes)


def slow_log_probs(
    lm: SplicedLM, ids: list[int], states: dict[str, State], edits: list[Edit]
) -> Tensor:
    """`[pos, vocab]` with a hook of a few lines at each SAE that is not off."""
    kept = torch.tensor([token in (0, 1, 2) for token in ids])[:, None]

    def change(name: str, state: State, x: Tensor) -> Tensor:
        sae = lm.sae(name)
        acts = slow_acts(sae, x[0])
        if state == "spliced":
            return torch.where(kept, x[0], acts @ sae.W_dec + sae.b_dec)[None]
        edited = acts.clone()
        for edit in edits:
            if edit.sae == name:
                edited[:, edit.feature] = slow_edited(edited[:, edit.feature], edit)
        return torch.where(kept, x[0], x[0] + (edited - acts) @ sae.W_dec)[None]

    with torch.no_grad(), ExitStack() as stack:
        for name, state in states.items():
            if state == "off":
                continue
            site = Site.parse(name)
            path, side = MODULES[site.kind]
            module = lm.model.get_submodule(path.format(site.layer))

            def on_input(_m: Any, args: Any, name: str = name, state: State = state) -> Any:
                return (change(name, state, args[0]), *args[1:])

            def on_output(
                _m: Any, _a: Any, out: Any, name: str = name, state: State = state
            ) -> Any:
                if isinstance(out, tuple):
                    return (change(name, state, out[0]), *out[1:])
                return change(name, state, out)

            if side == "input":
                handle = module.register_forward_pre_hook(on_input)
            else:
                handle = module.register_forward_hook(on_output)
            stack.callback(handle.remove)
        logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits.double().log_softmax(-1)


def slow_cost(lm: SplicedLM, ids: list[int], states: Any, edits: list[Edit]) -> list[float]:
    """Loss, loss of the combination and KL: means over predictions with a counted token before."""
    log_p, log_q = slow_log_probs(lm, ids, {}, []), slow_log_probs(lm, ids, states, edits)
    rows = []
    for t in range(1, len(ids)):
        before = [token for token in ids[:t] if token not in (0, 1, 2)]
        if ids[t] in (0, 1, 2) or not before:
            continue
        p, q = log_p[t - 1], log_q[t - 1]
        rows.append([float(-p[ids[t]]), float(-q[ids[t]]), float((p.exp() * (p - q)).sum())])
    return np.mean(rows, axis=0).tolist()


EDITS = [
    Edit(feature=ALWAYS, mode="scale", value=-2.0, sae=SITES[1]),
    Edit(feature=7, mode="set", value=4.0, sae=SITES[1]),
    Edit(feature=ALWAYS, mode="ablate", sae=SITES[0]),
]
COMBINATIONS: list[dict[str, State]] = [
    dict.fromkeys(SITES, "spliced"),
    {SITES[0]: "spliced", SITES[1]: "edited", SITES[2]: "off", SITES[3]: "spliced"},
    {SITES[0]: "edited", SITES[1]: "edited"},
    {SITES[2]: "spliced", SITES[1]: "spliced"},
]


@pytest.mark.parametrize("states", COMBINATIONS, ids=lambda states: ",".join(states.values()))
def test_each_and_all_are_plain_forwards_with_hooks(
    lm: SplicedLM, ids: list[int], states: dict[str, State]
) -> None:
    edits = [edit for edit in EDITS if states.get(edit.sae) == "edited"]
    costs = splice_costs(lm, ids, states, edits)
    on = [name for name, state in states.items() if state != "off"]
    assert [cost.saes for cost in costs.each] == [(name,) for name in on]
    assert costs.together.saes == tuple(on)
    for cost in (*costs.each, costs.together):
        own = {name: states[name] for name in cost.saes}
        base, loss, kl = slow_cost(lm, ids, own, edits)
        assert cost.base_loss == pytest.approx(base, abs=1e-5)
        assert cost.loss == pytest.approx(loss, abs=1e-5)
        assert cost.kl == pytest.approx(kl, abs=1e-5)
        assert cost.delta == pytest.approx(loss - base, abs=1e-5)
        assert cost.kl > 1e-3
    alone = [slow_cost(lm, ids, {name: states[name]}, edits) for name in on]
    base, loss, kl = slow_cost(lm, ids, {name: states[name] for name in on}, edits)
    assert costs.delta_beyond == pytest.approx(
        loss - base - sum(each[1] - each[0] for each in alone), abs=3e-5
    )
    assert costs.kl_beyond == pytest.approx(kl - sum(each[2] for each in alone), abs=3e-5)
    assert abs(costs.kl_beyond) > 1e-4


@pytest.mark.parametrize("site", SITES)
def test_one_sae_spliced_has_the_numbers_of_an_analysis_bit_for_bit(
    lm: SplicedLM, ids: list[int], site: str
) -> None:
    totals = lm.analyse(ids, site).totals
    costs = splice_costs(lm, ids, dict.fromkeys(SITES, "spliced"))
    (alone,) = (cost for cost in costs.each if cost.saes == (site,))
    (single,) = splice_costs(lm, ids, {site: "spliced"}).each
    for cost in (alone, single):
        assert (cost.base_loss, cost.loss) == (totals["ce_base"], totals["ce_spliced"])
        assert (cost.delta, cost.kl) == (totals["delta_lm_loss"], totals["kl"])


def test_an_attention_sink_is_left_alone_as_an_analysis_does() -> None:
    tokenizer, model = tiny_sink.make_tokenizer(), tiny_sink.make_model(length=60.0)
    sae = tiny_sink.make_sae(model, tokenizer)
    lm = SplicedLM(model, tokenizer, {"sink": sae})
    ids = encode_text(tokenizer, "The river remembers two letters in the winter of 1912.")
    analysis = lm.analyse(ids, "sink")
    assert analysis.special[0]
    cost = splice_costs(lm, ids, {"sink": "spliced"}).together
    assert (cost.delta, cost.kl) == (analysis.totals["delta_lm_loss"], analysis.totals["kl"])


def test_none_is_the_model(lm: SplicedLM, ids: list[int]) -> None:
    costs = splice_costs(lm, ids, dict.fromkeys(SITES, "off"))
    assert costs.each == ()
    none = costs.together
    assert none.saes == ()
    assert none.base_loss == none.loss == lm.analyse(ids, SITES[0]).totals["ce_base"]
    assert (none.delta, none.kl, costs.delta_beyond) == (0, 0, 0)


def test_edits_that_change_nothing_cost_nothing(lm: SplicedLM, ids: list[int]) -> None:
    edit = Edit(feature=3, mode="scale", value=1.0, sae=SITES[1])
    cost = splice_costs(lm, ids, {SITES[1]: "edited"}, [edit]).together
    assert (cost.delta, cost.kl) == (0, 0)


def test_conditions_are_read_from_the_model_as_it_is(lm: SplicedLM, ids: list[int]) -> None:
    """An edit under a condition is the edit of the tokens where that feature fires."""
    name, other = SITES[1], SITES[3]
    condition = Condition(feature=ALWAYS, sae=other)
    edit = Edit(feature=7, mode="set", value=9.0, sae=name, condition=condition)
    _, acts = lm.pre_activations(ids, other, [ALWAYS])
    fires = tuple(t for t, a in enumerate(acts[:, 0]) if a > 0 and ids[t] not in (0, 1, 2))
    assert 3 < len(fires) < len(ids) - 3
    listed = Edit(feature=7, mode="set", value=9.0, sae=name, positions=fires)
    states: dict[str, State] = {SITES[0]: "spliced", name: "edited"}
    conditional, plain = (splice_costs(lm, ids, states, [each]) for each in (edit, listed))
    assert conditional == plain
    assert conditional.each[1].kl > 1e-3


def test_one_token_has_nothing_to_predict(lm: SplicedLM, ids: list[int]) -> None:
    cost = splice_costs(lm, ids[:1], {SITES[0]: "spliced"}).together
    assert cost.predictions == 0
    assert all(math.isnan(number) for number in (cost.base_loss, cost.loss, cost.delta, cost.kl))


def test_hooks_are_removed_even_after_a_mistake(
    lm: SplicedLM, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("sae_core.splice_switch._reconstruction", fail)
    with pytest.raises(RuntimeError, match="no"):
        splice_costs(lm, ids, {SITES[0]: "spliced", SITES[3]: "spliced"})
    modules = itertools.chain(lm.model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)


def test_mistakes_are_named(lm: SplicedLM, ids: list[int]) -> None:
    edit = Edit(feature=3, mode="ablate", sae=SITES[0])
    mistakes: tuple[tuple[dict[str, State], list[Edit], str], ...] = (
        ({SITES[0]: "edited"}, [], "there is no edit of it"),
        ({SITES[0]: "spliced"}, [edit], "which is spliced"),
        ({SITES[1]: "spliced"}, [edit], "which is off"),
        ({"other": "spliced"}, [], "unknown SAE 'other'"),
    )
    for states, edits, words in mistakes:
        with pytest.raises(ValueError, match=words):
            splice_costs(lm, ids, states, edits)
    with pytest.raises(ValueError, match="without tokens"):
        splice_costs(lm, [], {SITES[0]: "spliced"})
