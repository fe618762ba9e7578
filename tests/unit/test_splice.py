"""The splice, edits and generation, against independent computations and runs without them."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sae_core.config import Site, SiteKind
from sae_core.edits import MODES, Edit, Steering
from sae_core.generation import generate
from sae_core.sae import SAE
from sae_core.sites import activations, replace
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text
from tests.tiny import ALWAYS, SITE, make_sae

TEXT = "The river remembers two letters in the winter of 1912. My neighbour returns it at noon."


@pytest.fixture
def lm(tiny_model: Any, tiny_tokenizer: Any, tiny_sae: SAE) -> SplicedLM:
    return SplicedLM(tiny_model, tiny_tokenizer, {"tiny": tiny_sae})


@pytest.fixture
def ids(tiny_tokenizer: Any) -> list[int]:
    return encode_text(tiny_tokenizer, TEXT)


def plain_logits(lm: SplicedLM, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def strongest(lm: SplicedLM, ids: list[int]) -> tuple[int, float]:
    """The feature with the largest activation on a text, and that activation."""
    analysis = lm.analyse(ids, "tiny")
    best = int(analysis.activation.argmax())
    return int(analysis.feature[best]), float(analysis.activation[best])


def test_analysis_equals_a_slow_float64_computation(lm: SplicedLM, ids: list[int]) -> None:
    sae = lm.sae("tiny")
    x = activations(lm.model, torch.tensor([ids]), [SITE])[SITE][0].double().numpy()
    w_enc, b_enc, w_dec, b_dec, threshold = (
        getattr(sae, n).detach().double().numpy()
        for n in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    )
    pre = x @ w_enc + b_enc
    acts = np.where(pre > threshold, pre, 0.0)
    recon = acts @ w_dec + b_dec
    real = np.arange(1, len(ids))  # all but BOS
    mean = x[real].mean(0)
    fvu = ((x - recon)[real] ** 2).sum() / ((x[real] - mean) ** 2).sum()

    spliced_x = x.copy()
    spliced_x[real] = recon[real]
    with replace(lm.model, SITE, lambda _x: torch.tensor(spliced_x)[None].float()):
        spliced = plain_logits(lm, ids).double().numpy()
    base = plain_logits(lm, ids).double().numpy()

    def log_softmax(z: np.ndarray) -> np.ndarray:
        z = z - z.max(-1, keepdims=True)
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    p, q = log_softmax(base), log_softmax(spliced)
    base_loss = [-p[t - 1, ids[t]] for t in real]
    spliced_loss = [-q[t - 1, ids[t]] for t in real]
    kl = [(np.exp(p[t - 1]) * (p[t - 1] - q[t - 1])).sum() for t in real]

    result = lm.analyse(ids, "tiny")
    np.testing.assert_allclose(result.base_loss[1:], base_loss, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.spliced_loss[1:], spliced_loss, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.kl[1:], kl, rtol=1e-3, atol=1e-5)
    assert np.isnan([result.base_loss[0], result.spliced_loss[0], result.kl[0]]).all()
    dense = np.zeros_like(acts)
    dense[result.token, result.feature] = result.activation
    acts[0] = 0
    np.testing.assert_allclose(dense, acts, rtol=1e-4, atol=1e-4)
    expected = {
        "tokens": len(real),
        "l0": (acts[real] != 0).sum() / len(real),
        "fvu": fvu,
        # The first token after BOS is predicted from BOS alone, which is never spliced.
        "ce_base": np.mean(base_loss[1:]),
        "ce_spliced": np.mean(spliced_loss[1:]),
        "delta_lm_loss": np.mean(spliced_loss[1:]) - np.mean(base_loss[1:]),
        "kl": np.mean(kl[1:]),
    }
    assert result.totals == pytest.approx(expected, rel=1e-4, abs=1e-5)
    # Tokens in order, activations falling within each.
    key = list(zip(result.token, -result.activation, strict=True))
    assert key == sorted(key)


REPLACEABLE = [k for k in get_args(SiteKind) if k not in ("resid_mid", "mlp_in_unit")]


@pytest.mark.parametrize("kind", REPLACEABLE)
def test_analysis_at_every_site_equals_two_forwards(
    tiny_model: Any, tiny_tokenizer: Any, ids: list[int], kind: SiteKind
) -> None:
    site = Site(kind, 1)
    sae = make_sae(tiny_model, tiny_tokenizer, site)
    lm = SplicedLM(tiny_model, tiny_tokenizer, {"tiny": sae})
    special = torch.tensor(lm.is_special(ids))[None, :, None]
    with replace(lm.model, site, lambda x: torch.where(special, x, sae(x))):
        spliced = plain_logits(lm, ids)
    result, targets = lm.analyse(ids, "tiny"), torch.tensor(ids[1:])
    for losses, logits in (
        (result.base_loss, plain_logits(lm, ids)),
        (result.spliced_loss, spliced),
    ):
        expected = torch.nn.functional.cross_entropy(logits[:-1], targets, reduction="none")
        np.testing.assert_allclose(losses[1:], expected, rtol=1e-5, atol=1e-5)


def test_special_tokens_keep_their_activation(lm: SplicedLM, ids: list[int]) -> None:
    with_eos = [*ids[:6], lm.tokenizer.eos_token_id, *ids[6:]]
    result = lm.analyse(with_eos, "tiny")
    assert not np.isin([0, 6], result.token).any()
    assert result.sq_error[0] == result.sq_error[6] == 0
    assert result.totals["tokens"] == len(with_eos) - 2
    # Of the tokens before EOS only BOS has a different predictor, so their losses are unchanged.
    np.testing.assert_allclose(
        result.spliced_loss[1:6], lm.analyse(ids, "tiny").spliced_loss[1:6], rtol=1e-4, atol=1e-5
    )


def test_a_given_mean_changes_only_the_deviation(lm: SplicedLM, ids: list[int]) -> None:
    own, other = lm.analyse(ids, "tiny"), lm.analyse(ids, "tiny", mean=torch.zeros(32))
    x = activations(lm.model, torch.tensor([ids]), [SITE])[SITE][0, 1:]
    assert other.sq_deviation.sum() == pytest.approx(float(x.square().sum()), rel=1e-5)
    assert other.sq_error.tolist() == own.sq_error.tolist()


def test_a_lone_bos_has_no_numbers(lm: SplicedLM) -> None:
    totals = lm.analyse([lm.tokenizer.bos_token_id], "tiny").totals
    assert totals["tokens"] == 0
    assert np.isnan([totals[n] for n in ("l0", "fvu", "ce_base", "delta_lm_loss", "kl")]).all()


@pytest.mark.parametrize("mode", MODES)
def test_edits_by_hand(lm: SplicedLM, ids: list[int], mode: Any) -> None:
    """x' - x is the change of the one activation times the feature's decoder row."""
    sae = lm.sae("tiny")
    x = activations(lm.model, torch.tensor([ids]), [SITE])[SITE][0]
    acts = sae.encode(x)[:, ALWAYS]
    value = 0.4 * float(acts.max())
    factor = 3.0 if mode == "scale" else value
    expected = {
        "set": torch.full_like(acts, value),
        "scale": acts * 3,
        "add": acts + value,
        "ablate": torch.zeros_like(acts),
        "cap": acts.clamp(max=value),
    }[mode]
    expected[0] = acts[0]
    special = [lm.is_special(ids)]
    edit = Edit(feature=ALWAYS, mode=mode, value=factor)
    new = Steering(sae, [[edit]], len(ids))(x[None], x[None], 0, special)
    assert new is not None
    change = (expected - acts)[:, None] * sae.W_dec[ALWAYS]
    torch.testing.assert_close(new[0], x + change)
    untouched = change.eq(0).all(-1)
    assert torch.equal(new[0, untouched], x[untouched])
    assert untouched[0]


@pytest.mark.parametrize(
    "edits",
    [
        [],
        [Edit(feature=5, mode="scale", value=1.0)],
        [Edit(feature=5, mode="add", value=0.0)],
        [Edit(feature=5, mode="cap", value=1e9)],
        [Edit(feature=63, mode="ablate")],
    ],
    ids=["none", "scale by 1", "add 0", "cap above", "ablate a dead feature"],
)
def test_an_edit_of_nothing_is_bit_identical(
    lm: SplicedLM, ids: list[int], edits: list[Edit]
) -> None:
    special = [lm.is_special(ids)]

    def edit(x: torch.Tensor) -> torch.Tensor | None:
        return Steering(lm.sae("tiny"), [edits], len(ids))(x, x, 0, special)

    before = plain_logits(lm, ids)
    with replace(lm.model, SITE, edit):
        assert torch.equal(plain_logits(lm, ids), before)


def test_an_edit_changes_no_earlier_position(lm: SplicedLM, ids: list[int]) -> None:
    edit = Edit(feature=ALWAYS, mode="add", value=50.0, positions=(7, 11))
    special = [lm.is_special(ids)]

    def apply(x: torch.Tensor) -> torch.Tensor | None:
        new = Steering(lm.sae("tiny"), [[edit]], len(ids))(x, x, 0, special)
        assert new is not None
        changed = new[0].ne(x[0]).any(-1).nonzero()[:, 0].tolist()
        assert changed == [7, 11]
        return new

    before = plain_logits(lm, ids)
    with replace(lm.model, SITE, apply):
        after = plain_logits(lm, ids)
    assert torch.equal(after[:7], before[:7])
    assert not torch.equal(after[7], before[7])


def test_edits_apply_in_order_and_where_they_say() -> None:
    at = {
        "all": [1, 1, 1, 1],
        "prompt": [1, 1, 0, 0],
        "generated": [0, 0, 1, 1],
        (3, 9): [0, 1, 0, 0],
    }
    for positions, expected in at.items():
        edit = Edit(feature=0, mode="ablate", positions=positions)  # pyright: ignore
        assert edit.where(start=2, length=4, prompt_length=4) == [bool(e) for e in expected]


def texts(lm: SplicedLM, ids: list[int], arms: Any, **options: Any) -> list[list[int]]:
    steps = list(generate(lm, ids, arms, **options))
    return [[t.id for s in steps if (t := s.tokens[a])] for a in range(len(arms))]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("positions", ["all", "prompt", "generated", (4, 30)])
def test_the_cache_changes_nothing(
    lm: SplicedLM, ids: list[int], temperature: float, positions: Any
) -> None:
    feature, largest = strongest(lm, ids)
    edit = Edit(feature=feature, mode="set", value=2 * largest, positions=positions)
    options = {
        "max_new_tokens": 25,
        "temperature": temperature,
        "seed": 4,
        "watch": [("tiny", feature)],
    }
    cached = list(generate(lm, ids[:12], [[], [edit]], **options))
    whole = list(generate(lm, ids[:12], [[], [edit]], use_cache=False, **options))
    assert len(cached) == 25
    for a, b in zip(cached, whole, strict=True):
        for x, y in zip(a.tokens, b.tokens, strict=True):
            assert (x is None) == (y is None)
            if x is not None and y is not None:
                assert x.id == y.id
                assert x.own == pytest.approx(y.own, abs=1e-3)
                assert x.after == pytest.approx(y.after, abs=1e-3)


def test_greedy_generation_is_the_models_own(lm: SplicedLM, ids: list[int]) -> None:
    [plain] = texts(lm, ids[:8], [[]], max_new_tokens=20)
    expected = list(ids[:8])
    for _ in range(20):
        expected.append(int(plain_logits(lm, expected)[-1].argmax()))
    assert plain == expected[8:]


def test_arms_share_the_seed_and_differ_by_the_edit_alone(lm: SplicedLM, ids: list[int]) -> None:
    feature, largest = strongest(lm, ids)
    edit = Edit(feature=feature, mode="set", value=20 * largest)
    options: dict[str, Any] = {"max_new_tokens": 20, "temperature": 1.0}
    same_a, same_b = texts(lm, ids, [[], []], seed=1, **options)
    assert same_a == same_b
    base, steered = texts(lm, ids, [[], [edit]], seed=1, **options)
    assert base == same_a
    assert steered != base
    assert texts(lm, ids, [[], []], seed=2, **options)[0] != same_a


class Waits(TorchDispatchMode):
    """Counts the operations whose result the program waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
            torch.ops.aten.lift_fresh.default,  # a list on its way to the device
        )
        return func(*args, **(kwargs or {}))


def test_steering_waits_for_the_device_no_more_than_plain_generation(
    lm: SplicedLM, ids: list[int]
) -> None:
    edits = [Edit(feature=1, mode="set", value=3.0), Edit(feature=1, mode="cap", value=2.0)]
    counts = []
    for arms in ([[], []], [[], edits], [edits, edits[:1]]):
        steps = generate(lm, ids, arms, max_new_tokens=3)
        next(steps)
        with Waits() as waits:
            next(steps)
        steps.close()
        counts.append(waits.count)
    assert counts[0] == counts[1] == counts[2]


def test_steering_does_nothing_where_no_edit_applies(lm: SplicedLM, ids: list[int]) -> None:
    sae, x = lm.sae("tiny"), torch.randn(2, 1, 32)
    edit = Edit(feature=1, mode="set", value=3.0, positions="prompt")
    steering = Steering(sae, [[], [edit]], prompt_length=5)
    assert steering(x, x, 5, [[False], [False]]) is None
    assert steering(x, x, 4, [[False], [True]]) is None
    new = steering(x, x, 4, [[False], [False]])
    assert new is not None
    assert torch.equal(new[0], x[0])
    assert not torch.equal(new[1], x[1])


def test_watched_activations_tell_own_from_after(lm: SplicedLM, ids: list[int]) -> None:
    sae = lm.sae("tiny")
    edit = Edit(feature=ALWAYS, mode="add", value=3.0, positions="generated")
    [*steps] = generate(lm, ids, [[], [edit]], max_new_tokens=6, watch=[("tiny", ALWAYS)])
    gain = 3.0 * float(sae.W_dec[ALWAYS] @ sae.W_enc[:, ALWAYS])
    for step in steps:
        base, steered = step.tokens
        assert base is not None
        assert steered is not None
        assert base.own == base.after
        before_threshold_moved = steered.own[0] + gain
        if steered.own[0] > 0:
            assert steered.after[0] == pytest.approx(before_threshold_moved, abs=1e-3)


def test_generation_leaves_no_hook_and_stops_when_closed(lm: SplicedLM, ids: list[int]) -> None:
    generator = generate(lm, ids, [[Edit(feature=1, mode="set", value=5.0)]], max_new_tokens=10**6)
    next(generator)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())
    generator.close()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(StopIteration):
        next(generator)


@pytest.mark.usefixtures("unchecked_types")
def test_mistakes_are_named(lm: SplicedLM, ids: list[int], tiny_sae: SAE) -> None:
    with pytest.raises(ValueError, match="feature 64 does not exist"):
        next(generate(lm, ids, [[Edit(feature=64, mode="ablate")]], max_new_tokens=1))
    with pytest.raises(ValueError, match="unknown SAE 'other'"):
        lm.analyse(ids, "other")
    with pytest.raises(ValueError, match="unknown edit mode 'boost'"):
        Edit(feature=1, mode="boost")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="not finite"):
        Edit(feature=1, mode="set", value=float("nan"))
    with pytest.raises(ValueError, match="larger than float32 holds"):
        Edit(feature=1, mode="set", value=1e39)
    with pytest.raises(ValueError, match="positions 'some'"):
        Edit(feature=1, mode="ablate", positions="some")  # pyright: ignore[reportArgumentType]
    lm.add("second", tiny_sae)
    with pytest.raises(ValueError, match="does not say which SAE"):
        next(generate(lm, ids, [[Edit(feature=1, mode="ablate")]], max_new_tokens=1))


def test_the_smallest_temperature_is_greedy(lm: SplicedLM, ids: list[int]) -> None:
    [greedy] = texts(lm, ids[:8], [[]], max_new_tokens=5)
    assert texts(lm, ids[:8], [[]], max_new_tokens=5, temperature=1e-40) == [greedy]


def test_a_padded_vocabulary_has_a_text_for_every_id(lm: SplicedLM, tiny_tokenizer: Any) -> None:
    lm.model.config.vocab_size += 7
    try:
        wider = SplicedLM(lm.model, tiny_tokenizer, {})
    finally:
        lm.model.config.vocab_size -= 7
    assert wider.vocabulary[:-7] == lm.vocabulary
    assert wider.vocabulary[-7:] == [b""] * 7
