"""Features of one text put into another, against plain forwards with plain hooks."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_core.compare import Comparison
from sae_core.config import Site
from sae_core.edits import Edit
from sae_core.patching import patch
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text
from tests.arms_reference import MODULES, WINDOW, slow_acts, slow_logits
from tests.tiny import make_sae

A = "The river remembers two letters in the winter of 1912. My neighbour returns it at noon."
B = "The river follows an old ship in the winter of 1912. My neighbour ignores it."
SITES = ["resid_post/1", "mlp_out/0", "attn_out/1"]


@pytest.fixture(scope="module")
def lm(tiny_model: Any, tiny_tokenizer: Any) -> SplicedLM:
    saes = {site: make_sae(tiny_model, tiny_tokenizer, Site.parse(site)) for site in SITES}
    return SplicedLM(tiny_model, tiny_tokenizer, saes)


@pytest.fixture(scope="module")
def texts(lm: SplicedLM, tiny_tokenizer: Any) -> Comparison:
    return Comparison(lm, *(encode_text(tiny_tokenizer, text) for text in (A, B)))


def slow_activations(lm: SplicedLM, name: str, ids: list[int]) -> Tensor:
    """`[pos, d_sae]` by a hook of a few lines."""
    sae = lm.sae(name)
    assert sae.cfg.site is not None
    path, side = MODULES[sae.cfg.site.kind]
    module = lm.model.get_submodule(path.format(sae.cfg.site.layer))
    seen: list[Tensor] = []

    def keep(x: Any) -> None:
        seen.append((x[0] if isinstance(x, tuple) else x)[0])

    if side == "input":
        handle = module.register_forward_pre_hook(lambda _m, args: keep(args))
    else:
        handle = module.register_forward_hook(lambda _m, _a, out: keep(out))
    with torch.no_grad():
        lm.model(input_ids=torch.tensor([ids]), use_cache=False)
    handle.remove()
    return slow_acts(sae, seen[0].float())


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("everywhere", [False, True], ids=["one token", "all aligned tokens"])
def test_a_patch_is_a_forward_with_the_other_text_s_activations(
    lm: SplicedLM, texts: Comparison, site: str, everywhere: bool
) -> None:
    acts_a, acts_b = (slow_activations(lm, site, ids) for ids in (texts.a, texts.b))
    counted = [(pair.a, pair.b) for pair in texts.pairs[1:] if not pair.same or pair.a != pair.b]
    assert len(counted) > WINDOW
    gaps = torch.stack([(acts_a[a] - acts_b[b]).abs() for a, b in counted])
    at = int(gaps[:-WINDOW].amax(1).argmax())
    pairs = counted if everywhere else [counted[at]]
    chosen = (gaps if everywhere else gaps[at : at + 1]).sum(0).topk(4).indices.tolist()
    last = (len(texts.a) - 1, len(texts.b) - 1)
    read = [pairs[0], last]
    result = patch(texts, site, chosen, pairs, read=read)

    def edits(feature: int) -> list[Any]:
        return [
            (
                lm.sae(site),
                Edit(feature=feature, mode="set", value=float(acts_a[a, feature]), positions=(b,)),
            )
            for a, b in pairs
        ]

    arms = [*(edits(f) for f in chosen), [edit for f in chosen for edit in edits(f)]]
    base = slow_logits(lm.model, texts.b, []).double().log_softmax(-1)
    other = slow_logits(lm.model, texts.a, []).double().log_softmax(-1)
    rows_a, rows_b = ([pair[side] for pair in read] for side in (0, 1))
    for arm, given in enumerate(arms):
        patched = slow_logits(lm.model, texts.b, given).double().log_softmax(-1)
        moved = kl(base[rows_b], patched[rows_b])
        away = kl(other[rows_a], patched[rows_b])
        np.testing.assert_allclose(result.kl[arm], moved, atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(result.kl_from_a[arm], away, atol=1e-5, rtol=1e-5)
    # A single token of long ago may be out of sight of the last one's windows.
    reached = result.kl[-1] if everywhere else result.kl[-1, :1]
    assert reached.min() > 1e-3, "a patch that moves nothing tests nothing"
    before = kl(other[rows_a], base[rows_b])
    np.testing.assert_allclose(result.kl_before, before, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.log_probs_patched, patched[rows_b], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.log_probs_b, base[rows_b], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.log_probs_a, other[rows_a], atol=1e-5, rtol=1e-5)
    for row, (a, b) in enumerate(pairs):
        np.testing.assert_allclose(result.a[row], acts_a[a, chosen], atol=1e-5)
        np.testing.assert_allclose(result.b[row], acts_b[b, chosen], atol=1e-5)


def test_with_the_whole_reconstruction_b_s_token_becomes_a_s_but_for_its_error(
    lm: SplicedLM, texts: Comparison
) -> None:
    """All features at once: nothing of B's token but its error is left."""
    name = SITES[0]
    pair = (len(texts.a) - 1, len(texts.b) - 1)
    result = patch(texts, name, range(lm.sae(name).cfg.d_sae), [pair])
    acts_a, acts_b = (slow_activations(lm, name, ids) for ids in (texts.a, texts.b))
    change = (acts_a[pair[0]] - acts_b[pair[1]]) @ lm.sae(name).W_dec

    def move(_module: Any, _args: Any, output: Any) -> Any:
        x = (output[0] if isinstance(output, tuple) else output).clone()
        x[0, pair[1]] += change
        return (x, *output[1:]) if isinstance(output, tuple) else x

    handle = lm.model.get_submodule("model.layers.1").register_forward_hook(move)
    expected = slow_logits(lm.model, texts.b, [])[-1].double().log_softmax(-1)
    handle.remove()
    torch.testing.assert_close(result.log_probs_patched[0], expected, atol=1e-5, rtol=1e-5)


def test_where_both_texts_are_the_same_nothing_changes(texts: Comparison) -> None:
    at = texts.common - 1
    result = patch(texts, SITES[0], [0, 1, 2], [(at, at)])
    assert not result.kl.any()
    assert torch.equal(result.log_probs_patched, result.log_probs_b)
    assert result.kl_from_a.tolist() == [result.kl_before.tolist()] * 4


def test_the_size_of_batches_changes_no_number(texts: Comparison) -> None:
    pair = (len(texts.a) - 3, len(texts.b) - 3)
    whole, single = (
        patch(texts, SITES[0], range(12), [pair], memory=memory) for memory in (None, 1)
    )
    np.testing.assert_allclose(whole.kl, single.kl, atol=1e-6, rtol=1e-4)
    np.testing.assert_allclose(whole.kl_from_a, single.kl_from_a, atol=1e-6, rtol=1e-4)


def test_mistakes_are_named(texts: Comparison) -> None:
    name, pair = SITES[0], (5, 5)
    for features, pairs, words in (
        ([], [pair], "needs a feature"),
        ([1], [], "needs a feature, a pair"),
        ([1], [(0, 0)], "token 0 is a special token"),
        ([1], [(5, 500)], "token 500 is not of the text"),
        ([99_999], [pair], "feature 99999 does not exist"),
    ):
        with pytest.raises(ValueError, match=words):
            patch(texts, name, features, pairs)
    with pytest.raises(ValueError, match="unknown SAE"):
        patch(texts, "other", [1], [pair])
