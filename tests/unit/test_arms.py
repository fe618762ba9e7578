"""Many edits of one text over what they share, each against a plain forward with plain hooks."""

import dataclasses
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_core import attention
from sae_core.arms import Arms
from sae_core.config import Site
from sae_core.edits import MODES, Edit
from sae_core.sae import SAE
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text
from tests import tiny, tiny_chat
from tests.arms_reference import WINDOW, by_arm, logits_of, slow_acts, slow_logits, windowed_mistral
from tests.tiny import ALWAYS, DEAD, make_sae

TEXT = "The river remembers two letters in the winter of 1912. My neighbour returns it at noon."
SITES = [
    "resid_pre/0",
    "resid_pre/2",
    "resid_post/0",
    "resid_post/1",
    "resid_post/2",
    "mlp_in/1",
    "mlp_out/0",
    "mlp_out/2",
    "attn_out/0",
    "attn_out/1",
    "attn_add/1",
]


@pytest.fixture(scope="module")
def ids(tiny_tokenizer: Any) -> list[int]:
    return encode_text(tiny_tokenizer, TEXT)


@pytest.fixture(scope="module")
def lm(tiny_model: Any, tiny_tokenizer: Any) -> SplicedLM:
    saes = {site: make_sae(tiny_model, tiny_tokenizer, Site.parse(site)) for site in SITES}
    return SplicedLM(tiny_model, tiny_tokenizer, saes)


def edits_of_all_kinds(sae: SAE, x: Tensor, name: str, ids: list[int]) -> list[list[Edit]]:
    """Every mode at single tokens, several, all of them and none."""
    largest = float(slow_acts(sae, x)[1:, ALWAYS].max())
    values = {"set": 2 * largest, "scale": -1.5, "add": largest, "ablate": 0.0, "cap": largest / 3}
    last = len(ids) - 1
    places: list[Any] = [(last,), (5,), (last - WINDOW - 1,), (3, 11, last - 2), (0, 1), "all"]
    return [
        [Edit(feature=ALWAYS, mode=mode, value=values[mode], positions=place, sae=name)]
        for mode in MODES
        for place in places
    ]


@pytest.mark.parametrize("site", SITES)
def test_every_mode_and_position_equals_a_forward_with_hooks(
    lm: SplicedLM, ids: list[int], site: str
) -> None:
    arms = Arms(lm, ids, [site])
    sae = lm.sae(site)
    edits = edits_of_all_kinds(sae, arms.base.sites[Site.parse(site)][0], site, ids)
    assert len(ids) > 3 * WINDOW
    read = [len(ids) - 1, 4, 7, len(ids) - 3]
    expected = torch.stack(
        [slow_logits(lm.model, ids, [(sae, e) for e in arm])[read] for arm in edits]
    )
    moved = (expected - slow_logits(lm.model, ids, [])[read]).abs().amax((1, 2))
    assert int((moved > 1e-3).sum()) > len(edits) / 5, "edits that move nothing test nothing"
    actual = logits_of(arms.run(edits, read=read))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    last = logits_of(arms.run(edits))
    torch.testing.assert_close(last, expected[:, :1], atol=1e-5, rtol=1e-5)


def test_two_saes_and_several_edits_at_once(lm: SplicedLM, ids: list[int]) -> None:
    """A later site sees what an earlier one changed; edits of one feature follow their order."""
    pairs = [("attn_out/0", "resid_post/1"), ("mlp_out/2", "resid_pre/2"), ("mlp_in/1",) * 2]
    edits = [
        [
            Edit(feature=ALWAYS, mode="add", value=3.0, positions=(9, 14), sae=first),
            Edit(feature=7, mode="set", value=2.0, positions="all", sae=second),
            Edit(feature=ALWAYS, mode="scale", value=0.5, positions=(14, 20), sae=first),
            Edit(feature=7, mode="cap", value=1.0, positions=(12,), sae=second),
        ]
        for first, second in pairs
    ]
    edits += [[edit for edit in arm if edit.positions != "all"] for arm in edits]
    expected = torch.stack(
        [slow_logits(lm.model, ids, [(lm.sae(e.sae), e) for e in arm])[-1:] for arm in edits]
    )
    actual = logits_of(Arms(lm, ids).run(edits))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_the_size_of_batches_changes_no_number(
    lm: SplicedLM, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    edits = [
        [Edit(feature=f, mode="set", value=2.0, positions=(t,), sae=site)]
        for site in ("resid_post/1", "attn_out/0")
        for t in (1, 4, 5, 20, 21, len(ids) - 1)
        for f in (ALWAYS, 9, 12)
    ]
    arms = Arms(lm, ids)
    read = [6, len(ids) - 1]
    one_by_one = by_arm(arms.run(edits, read=read, memory=1))
    assert {len(batch.arms) for batch, _ in one_by_one.values()} == {1}
    sizes = []
    for memory, free in ((300_000, 32), (10**9, 0), (10**9, 10**6)):
        monkeypatch.setattr("sae_core.arms.FORWARD_TOKENS_ELSEWHERE", free)
        batches = list(arms.run(edits, read=read, memory=memory))
        sizes.append(len(batches))
        rows = by_arm(batches)
        for arm, (batch, row) in rows.items():
            other, there = one_by_one[arm]
            torch.testing.assert_close(batch.logits[row], other.logits[there], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(batch.kl()[row], other.kl()[there], atol=1e-6, rtol=1e-4)
            assert batch.tokens_changed[row] == other.tokens_changed[there] == 1
            assert torch.equal(batch.changed[row], other.changed[there])
    few, far, joined = sizes
    assert joined == 2, "one batch after each block"
    assert far == 12, "one for each first token"
    assert few > 2


@pytest.mark.parametrize(
    "edits",
    [
        [],
        [Edit(feature=5, mode="scale", value=1.0, sae="resid_post/1")],
        [Edit(feature=5, mode="cap", value=1e9, sae="attn_out/0")],
        [Edit(feature=DEAD, mode="ablate", sae="mlp_out/0")],
        [Edit(feature=5, mode="set", value=9.0, positions=(0,), sae="resid_post/1")],
        [Edit(feature=5, mode="set", value=9.0, positions="generated", sae="resid_post/1")],
        [Edit(feature=5, mode="set", value=9.0, positions=(500,), sae="resid_post/1")],
    ],
    ids=["none", "scale by 1", "cap above", "ablate a dead feature", "BOS", "generated", "beyond"],
)
def test_an_arm_that_changes_nothing_is_the_model_bit_for_bit(
    lm: SplicedLM, ids: list[int], edits: list[Edit]
) -> None:
    other = [Edit(feature=ALWAYS, mode="set", value=9.0, positions=(25,), sae="resid_post/1")]
    rows = by_arm(Arms(lm, ids).run([other, edits]))
    (changing, first), (batch, row) = rows[0], rows[1]
    with torch.no_grad():
        plain = lm.model(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits
    assert torch.equal(batch.logits[row], plain[0])
    assert int(batch.tokens_changed[row]) == 0
    assert float(batch.kl()[row]) == 0
    assert int(changing.tokens_changed[first]) == 1
    assert float(changing.kl()[first]) > 1e-4


def test_predictions_before_an_edit_are_the_models_bit_for_bit(
    lm: SplicedLM, ids: list[int]
) -> None:
    read = list(range(len(ids)))
    edits = [
        [Edit(feature=ALWAYS, mode="add", value=9.0, positions=(t, 20), sae="resid_post/0")]
        for t in (6, 13)
    ]
    arms = Arms(lm, ids)
    base = arms.logits(read)
    for arm, (batch, row) in by_arm(arms.run(edits, read=read)).items():
        first = (6, 13)[arm]
        assert torch.equal(batch.logits[row, :first], base[:first])
        assert batch.changed[row].tolist() == [int(t >= first) for t in read]
        assert bool((batch.kl()[row, first:] > 0).all())
        assert int(batch.tokens_changed[row]) == 2
        torch.testing.assert_close(batch.unedited, base, atol=1e-5, rtol=1e-5)


def test_kl_is_that_of_its_definition(lm: SplicedLM, ids: list[int]) -> None:
    edit = Edit(feature=ALWAYS, mode="set", value=9.0, positions=(7,), sae="resid_post/0")
    (batch,) = Arms(lm, ids).run([[edit]])
    p = slow_logits(lm.model, ids, [])[-1].double().softmax(-1)
    q = slow_logits(lm.model, ids, [(lm.sae(edit.sae), edit)])[-1].double().softmax(-1)
    assert float(batch.kl()) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-4)


def test_nothing_runs_twice(lm: SplicedLM, ids: list[int]) -> None:
    """Blocks that are shared see no token again, the others only those from the first edit on."""
    arms = Arms(lm, ids)
    seen: list[tuple[int, tuple[int, ...]]] = []
    edits = [
        [Edit(feature=f, mode="set", value=2.0, positions=(t,), sae="resid_post/1")]
        for f, t in ((3, 20), (4, 22), (5, 21))
    ]
    with ExitStack() as stack:
        for number, block in enumerate(lm.model.model.layers):
            handle = block.mlp.register_forward_pre_hook(
                lambda _m, args, number=number: seen.append((number, tuple(args[0].shape[:2])))
            )
            stack.callback(handle.remove)
        list(arms.run(edits))
    assert seen == [(2, (4, len(ids) - 20))]


@pytest.mark.parametrize("kind", ["eager", attention.CHUNKED, "sdpa"])
def test_every_attention_sees_the_same_window(
    tiny_tokenizer: Any, ids: list[int], kind: str
) -> None:
    """Of edits in the first layer, seen from far beyond the window of those after it."""
    model = windowed_mistral() if kind == "sdpa" else tiny.make_model()
    if kind == attention.CHUNKED:
        attention.register()
        model.set_attn_implementation(kind)
    sae = make_sae(model, tiny_tokenizer, Site("resid_pre", 0))
    lm = SplicedLM(model, tiny_tokenizer, {"sae": sae})
    edits = [
        [Edit(feature=ALWAYS, mode="set", value=5.0, positions=(t,))]
        for t in (2, len(ids) - 12, len(ids) - 2)
    ]
    expected = torch.stack([slow_logits(model, ids, [(sae, e) for e in arm])[-1:] for arm in edits])
    actual = logits_of(Arms(lm, ids).run(edits))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    base = slow_logits(model, ids, [])[-1]
    assert [bool((each - base).abs().max() > 1e-3) for each in actual[1:]] == [True, True]


def test_a_transcoder_reads_before_it_writes(
    tiny_model: Any, tiny_tokenizer: Any, ids: list[int]
) -> None:
    reader = make_sae(tiny_model, tiny_tokenizer, Site("mlp_in", 1))
    sae = SAE.build(dataclasses.replace(reader.cfg, site_out=Site("mlp_out", 1)))
    sae.load_state_dict(reader.state_dict())
    lm = SplicedLM(tiny_model, tiny_tokenizer, {"tc": sae})
    block = tiny_model.model.layers[1]
    read: list[Tensor] = []

    def write(_module: Any, _args: Any, y: Tensor) -> Tensor:
        acts = slow_acts(sae, read[-1][0])
        new = y.clone()
        new[0, 9] += (2.5 - acts[9, ALWAYS]) * sae.W_dec[ALWAYS]
        return new

    handles = [
        block.mlp.register_forward_pre_hook(lambda _m, args: read.append(args[0])),
        block.post_feedforward_layernorm.register_forward_hook(write),
    ]
    try:
        with torch.no_grad():
            expected = tiny_model(input_ids=torch.tensor([ids])).logits[0, -1:]
    finally:
        for handle in handles:
            handle.remove()
    edit = Edit(feature=ALWAYS, mode="set", value=2.5, positions=(9,))
    actual = logits_of(Arms(lm, ids).run([[edit]]))
    torch.testing.assert_close(actual[0], expected, atol=1e-5, rtol=1e-5)


def test_a_conversations_markers_keep_their_activation() -> None:
    tokenizer = tiny_chat.make_tokenizer()
    model = tiny_chat.make_model(tokenizer)
    sae = make_sae(model, tokenizer, Site("resid_post", 0))
    lm = SplicedLM(model, tokenizer, {"sae": sae})
    messages = [{"role": "user", "content": "The ship follows two letters at noon."}]
    ids: Any = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    special = (0, 1, 2, tiny.VOCAB_SIZE, tiny.VOCAB_SIZE + 1)  # the markers' ids come last
    assert sum(i in special for i in ids) >= 4
    prompt = len(ids) - 3
    edits = [
        [Edit(feature=ALWAYS, mode="add", value=2.0, positions=where)]
        for where in ("all", "prompt", "generated")
    ]
    expected = [slow_logits(model, ids, [(sae, e) for e in arm], prompt, special) for arm in edits]
    actual = logits_of(Arms(lm, ids).run(edits, prompt_length=prompt))
    torch.testing.assert_close(actual, torch.stack(expected)[:, -1:], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(actual[0], actual[1], atol=1e-3)


def test_a_topk_sae_is_edited_by_its_own_activations(
    lm: SplicedLM, ids: list[int], tiny_model: Any, tiny_tokenizer: Any
) -> None:
    plain = lm.sae("resid_post/1")
    topk = SAE.build(
        dataclasses.replace(plain.cfg, architecture="topk", k=6, site=Site("resid_post", 1))
    )
    topk.load_state_dict({n: p for n, p in plain.state_dict().items() if n != "threshold"})
    other = SplicedLM(tiny_model, tiny_tokenizer, {"topk": topk})
    x = Arms(other, ids).base.sites[Site("resid_post", 1)][0]
    pre = (x @ topk.W_enc + topk.b_enc).relu()
    feature = int(pre[9].argmax())
    edits = [[Edit(feature=feature, mode="ablate", positions=(9,))]]
    actual = logits_of(Arms(other, ids).run(edits))

    def change(_m: Any, _a: Any, out: Tensor) -> Tensor:
        new = out.clone()
        new[0, 9] -= pre[9, feature] * topk.W_dec[feature]
        return new

    handle = tiny_model.model.layers[1].register_forward_hook(change)
    try:
        with torch.no_grad():
            expected = tiny_model(input_ids=torch.tensor([ids])).logits[0, -1:]
    finally:
        handle.remove()
    torch.testing.assert_close(actual[0], expected, atol=1e-5, rtol=1e-5)


def test_bfloat16_is_compared_with_products_of_the_same_shape(
    tiny_tokenizer: Any, ids: list[int]
) -> None:
    wide = tiny.make_model()
    sae = make_sae(wide, tiny_tokenizer, Site("resid_post", 0))
    model = tiny.make_model().bfloat16()
    lm = SplicedLM(model, tiny_tokenizer, {"sae": sae})
    edits = [
        [Edit(feature=ALWAYS, mode="set", value=v, positions=(len(ids) - 3,))] for v in (9.0, 30.0)
    ]
    edits.append([Edit(feature=DEAD, mode="ablate")])
    rows = by_arm(Arms(lm, ids).run(edits))
    kl = [float(rows[a][0].kl()[rows[a][1]]) for a in range(3)]
    assert kl[2] == 0
    for arm in range(2):
        batch, row = rows[arm]
        assert batch.logits.dtype == torch.bfloat16
        expected = slow_logits(model, ids, [(sae, e) for e in edits[arm]])[-1]
        torch.testing.assert_close(batch.logits[row, 0], expected, atol=0.25, rtol=0.05)
        exact = by_arm(Arms(SplicedLM(wide, tiny_tokenizer, {"sae": sae}), ids).run(edits))
        batch, row = exact[arm]
        assert kl[arm] == pytest.approx(float(batch.kl()[row]), rel=0.2, abs=2e-4)


def test_the_model_is_as_it_was_whatever_happens(lm: SplicedLM, ids: list[int]) -> None:
    arms = Arms(lm, ids)
    edit = Edit(feature=ALWAYS, mode="ablate", positions=(9,), sae="resid_post/1")

    def broken(_module: Any, _args: Any) -> None:
        raise RuntimeError("out of memory")

    handle = lm.model.model.norm.register_forward_pre_hook(broken)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            list(arms.run([[edit]]))
    finally:
        handle.remove()
    assert not any("forward" in block.__dict__ for block in lm.model.model.layers)
    with torch.no_grad():
        plain = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    assert torch.equal(plain, slow_logits(lm.model, ids, []))


def test_a_blocks_own_forward_is_put_back(lm: SplicedLM, ids: list[int]) -> None:
    """As accelerate leaves one on each block of a model that it spreads over devices."""
    block = lm.model.model.layers[0]
    own = block.forward
    block.__dict__["forward"] = own
    try:
        edit = Edit(feature=ALWAYS, mode="ablate", positions=(9,), sae="resid_post/1")
        list(Arms(lm, ids).run([[edit]]))
        assert block.__dict__["forward"] is own
    finally:
        del block.__dict__["forward"]


@pytest.mark.usefixtures("unchecked_types")
def test_mistakes_are_named_before_anything_runs(lm: SplicedLM, ids: list[int]) -> None:
    arms = Arms(lm, ids, ["resid_post/1"])
    with pytest.raises(ValueError, match="feature 64 does not exist"):
        arms.run([[Edit(feature=64, mode="ablate", sae="resid_post/1")]])
    with pytest.raises(ValueError, match="does not say which SAE"):
        arms.run([[Edit(feature=1, mode="ablate")]])
    with pytest.raises(ValueError, match="attn_out/0 is not among"):
        arms.run([[Edit(feature=1, mode="ablate", sae="attn_out/0")]])
    with pytest.raises(ValueError, match="0 to"):
        arms.run([], read=[len(ids)])
    with pytest.raises(ValueError, match="without tokens"):
        Arms(lm, [])
    with pytest.raises(ValueError, match="unknown SAE"):
        Arms(lm, ids, ["other"])
    assert list(arms.run([])) == []


@pytest.mark.parametrize("kind", ["linear_attention", "dummy"])
def test_a_model_without_keys_of_every_layer_is_refused(
    lm: SplicedLM, ids: list[int], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(lm.model.config, "layer_types", ["full_attention", "full_attention", kind])
    with pytest.raises(ValueError, match="does not keep keys and values of every layer"):
        Arms(lm, ids)
