"""The runs of a proof, each against a slow one of its own: plain hooks, no cache, no batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_core.config import Site
from sae_core.edits import Edit, Steering
from sae_core.generation import generate
from sae_core.proof import Proof
from sae_core.proving import Proving
from sae_core.pushes import PushedSteering
from sae_core.sae import SAE
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text
from tests.arms_reference import MODULES, slow_acts, slow_edited
from tests.tiny import ALWAYS, make_sae

TARGET, CONTROLS, SEEDS, NEW = 5, [9, 12], [3, 4, 11], 9
TEMPERATURE = 0.9


@pytest.fixture(scope="module")
def lm(tiny_model: Any, tiny_tokenizer: Any) -> SplicedLM:
    saes = {
        site: make_sae(tiny_model, tiny_tokenizer, Site.parse(site))
        for site in ("resid_post/1", "attn_out/0")
    }
    for sae in saes.values():
        # Of different lengths, so that a norm that is left out is seen.
        sae.W_dec.data *= torch.linspace(0.5, 2, len(sae.W_dec))[:, None]
    return SplicedLM(tiny_model, tiny_tokenizer, saes)


@pytest.fixture(scope="module")
def prompt(tiny_tokenizer: Any) -> list[int]:
    return encode_text(tiny_tokenizer, "The ship carries two letters in the winter")


def slow_text(
    lm: SplicedLM,
    prompt: Sequence[int],
    seed: int,
    sae: SAE,
    edit: Edit | None,
    direction: Tensor | None,
    pushes: list[Tensor],
) -> list[int]:
    """A continuation drawn token by token; `pushes` gets the last forward's changes `[pos, d]`."""
    assert sae.cfg.site is not None
    name, side = MODULES[sae.cfg.site.kind]
    module = lm.model.get_submodule(name.format(sae.cfg.site.layer))
    ids = list(prompt)
    numbers = torch.Generator().manual_seed(seed)

    def is_due(place: Any, t: int) -> bool:
        if isinstance(place, str):
            first = {"all": 0, "generated": len(prompt), "continuation": len(prompt) - 1}[place]
            return t >= first
        return t in place

    def change(x: Tensor) -> Tensor:
        push = torch.zeros_like(x[0])
        acts = slow_acts(sae, x[0])
        for t, token in enumerate(ids):
            if edit is None or token in (0, 1, 2) or not is_due(edit.positions, t):
                continue
            a = acts[t, edit.feature]
            row = sae.W_dec[edit.feature]
            own = row if direction is None else row.norm() * direction
            push[t] = (slow_edited(a, edit) - a) * own
        pushes[:] = [push]
        return x + push

    def pre(_m: Any, args: Any) -> Any:
        return (change(args[0]), *args[1:])

    def post(_m: Any, _a: Any, out: Any) -> Any:
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    handle = (
        module.register_forward_pre_hook(pre)
        if side == "input"
        else module.register_forward_hook(post)
    )
    try:
        for _ in range(NEW):
            with torch.no_grad():
                logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            wide = logits.double()
            rates = ((wide - wide.max()) / TEMPERATURE).exp()
            waits = torch.empty_like(rates).exponential_(generator=numbers)
            token = int((rates / waits).argmax())
            if token == lm.tokenizer.eos_token_id:
                break
            ids.append(token)
    finally:
        handle.remove()
    return ids[len(prompt) :]


def run_proof(lm: SplicedLM, prompt: list[int], edits: list[Edit], target: int = 0) -> Proof:
    proving = Proving(
        lm,
        prompt,
        edits,
        target=target,
        controls=CONTROLS,
        seeds=SEEDS,
        max_new_tokens=NEW,
        temperature=TEMPERATURE,
    )
    assert list(proving.generated())[-1] <= NEW
    return proving.proof()


@pytest.mark.parametrize("site", ["resid_post/1", "attn_out/0"])
@pytest.mark.parametrize("positions", ["all", "generated", "continuation", (3, 9)])
def test_every_run_is_the_one_that_plain_hooks_make(
    lm: SplicedLM, prompt: list[int], site: str, positions: Any
) -> None:
    sae = lm.sae(site)
    edit = Edit(feature=TARGET, mode="set", value=6.0, positions=positions, sae=site)
    proof = run_proof(lm, prompt, [edit])
    own = sae.W_dec[TARGET] / sae.W_dec[TARGET].norm()
    drawn = torch.tensor(np.random.default_rng(SEEDS[0]).standard_normal(len(own))).float()
    directions: dict[tuple[str, int | None], Tensor | None] = {
        ("without", None): None,
        ("target", TARGET): None,
        ("feature", 9): sae.W_dec[9] / sae.W_dec[9].norm(),
        ("feature", 12): sae.W_dec[12] / sae.W_dec[12].norm(),
        ("random", None): drawn / drawn.norm(),
        ("opposite", TARGET): -own,
    }
    assert [(arm.kind, arm.feature) for arm in proof.arms] == list(directions)
    texts = set()
    norms: dict[int, list[Tensor]] = {}
    for arm in proof.arms:
        direction = directions[arm.kind, arm.feature]
        if direction is not None:
            assert arm.cosine == pytest.approx(float(direction @ own), abs=1e-6)
        for run, seed in zip(arm.runs, SEEDS, strict=True):
            pushes: list[Tensor] = []
            asked = None if arm.kind == "without" else edit
            expected = slow_text(lm, prompt, seed, sae, asked, direction, pushes)
            assert run.seed == seed
            assert list(run.ids) == expected
            texts.add(tuple(expected))
            if asked is None:
                assert run.size is None
            else:
                norms.setdefault(seed, []).append(pushes[0].norm(dim=-1)[: len(prompt)])
                assert run.size is not None
                assert run.size.tokens >= int((pushes[0].norm(dim=-1) > 0).sum())
    assert len(texts) > len(SEEDS), "an edit that changes no text tests nothing"
    for arms in norms.values():
        # In the prompt, which all share, all are pushed by the same norm at each token.
        for other in arms[1:]:
            torch.testing.assert_close(other, arms[0], atol=1e-5, rtol=1e-5)


def test_shares_are_those_of_the_unedited_model(lm: SplicedLM, prompt: list[int]) -> None:
    edit = Edit(feature=ALWAYS, mode="add", value=4.0, sae="resid_post/1")
    proof = run_proof(lm, prompt, [edit])
    sae, block = lm.sae("resid_post/1"), lm.model.model.layers[1]
    for arm in proof.arms:
        for run in arm.runs:
            kept: list[Tensor] = []
            handle = block.register_forward_hook(lambda _m, _a, out, k=kept: k.append(out))
            with torch.no_grad():
                logits = lm.model(input_ids=torch.tensor([prompt + list(run.ids)])).logits[0]
            handle.remove()
            x = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
            fires = slow_acts(sae, x.reshape(-1, x.shape[-1]))[len(prompt) :, ALWAYS] > 0
            counted = torch.tensor([token not in (0, 1, 2) for token in run.ids])
            assert run.share == pytest.approx(float(fires[counted].float().mean()))
            logp = logits.double().log_softmax(-1)[len(prompt) - 1 : -1]
            own = [float(logp[k, token]) for k, token in enumerate(run.ids)]
            assert run.nll == pytest.approx(-sum(own) / len(own), abs=1e-5)


def test_steered_runs_are_those_of_generate(lm: SplicedLM, prompt: list[int]) -> None:
    """With the other edits of a steering, in any SAE; these stay in every row."""
    edits = [
        Edit(feature=ALWAYS, mode="add", value=9.0, sae="attn_out/0"),
        Edit(feature=7, mode="set", value=9.0, sae="resid_post/1"),
        Edit(feature=TARGET, mode="set", value=6.0, positions="generated", sae="resid_post/1"),
    ]
    proof = run_proof(lm, prompt, edits, target=2)
    for seed, steered, without in zip(SEEDS, proof.target.runs, proof.without.runs, strict=True):
        steps = generate(
            lm,
            prompt,
            [edits[:2], edits],
            max_new_tokens=NEW,
            temperature=TEMPERATURE,
            seed=seed,
        )
        arms = zip(*(step.tokens for step in steps), strict=True)
        texts = [tuple(token.id for token in arm if token is not None) for arm in arms]
        assert [without.ids, steered.ids] == texts
        plain = list(generate(lm, prompt, [[]], max_new_tokens=NEW, temperature=0.9, seed=seed))
        assert texts[0] != tuple(step.tokens[0].id for step in plain if step.tokens[0])


def test_a_push_has_the_norm_of_the_edit_at_every_token(lm: SplicedLM) -> None:
    """On what it reads; edits of other features stay, and an arm without direction is the edit."""
    sae = lm.sae("resid_post/1")
    numbers = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(1, 12, sae.cfg.d_model, generator=numbers).expand(4, -1, -1)
    special = [[t == 0 for t in range(12)]] * 4
    u = torch.randn(sae.cfg.d_model, generator=numbers)
    u /= u.norm()
    own = sae.W_dec[TARGET] / sae.W_dec[TARGET].norm()
    for mode, value in (("set", 2.0), ("add", -1.5), ("scale", 3.0), ("ablate", 0.0), ("cap", 0.1)):
        other = Edit(feature=ALWAYS, mode="add", value=1.0)
        edit: Any = Edit(feature=TARGET, mode=mode, value=value)  # pyright: ignore[reportArgumentType]
        arms = [[other, edit]] * 3 + [[other]]
        pushed = PushedSteering(sae, arms, 12, TARGET, [None, u, -own, None])
        kept = Steering(sae, [[other]] * 4, 12)(x, x, 0, special)
        plain = Steering(sae, arms, 12)(x, x, 0, special)
        actual = pushed(x, x, 0, special)
        assert kept is not None
        assert plain is not None
        assert actual is not None
        torch.testing.assert_close(actual[0], plain[0], atol=0, rtol=0)
        torch.testing.assert_close(actual[3], plain[3], atol=0, rtol=0)
        change = plain[0] - kept[0]
        assert bool((change.norm(dim=-1) > 0.1).any())
        sizes = (actual - kept).norm(dim=-1)
        torch.testing.assert_close(sizes[1], change.norm(dim=-1), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(actual[2] - kept[2], -change, atol=1e-5, rtol=1e-5)
        # Along u, by the sign of the change of the activation.
        along = (change @ own)[:, None] * u
        torch.testing.assert_close(actual[1] - kept[1], along, atol=1e-5, rtol=1e-5)
        assert torch.equal(actual[:, 0], x[:, 0]), "a special token keeps its activation"


def test_the_same_settings_give_the_same_digits(lm: SplicedLM, prompt: list[int]) -> None:
    edit = Edit(feature=TARGET, mode="set", value=6.0, sae="resid_post/1")
    first, second = (run_proof(lm, prompt, [edit]) for _ in range(2))
    for one, other in zip(first.arms, second.arms, strict=True):
        for a, b in zip(one.runs, other.runs, strict=True):
            assert (a.ids, a.nll, a.share) == (b.ids, b.nll, b.share)


def test_who_stops_early_gets_the_texts_so_far(lm: SplicedLM, prompt: list[int]) -> None:
    edit = Edit(feature=TARGET, mode="set", value=6.0, sae="resid_post/1")
    whole = run_proof(lm, prompt, [edit])
    proving = Proving(
        lm,
        prompt,
        [edit],
        controls=CONTROLS,
        seeds=SEEDS,
        max_new_tokens=NEW,
        temperature=TEMPERATURE,
    )
    for tokens in proving.generated():
        if tokens == 4:
            break
    for arm, longer in zip(proving.proof().arms, whole.arms, strict=True):
        assert [run.ids for run in arm.runs] == [run.ids[:4] for run in longer.runs]


@pytest.mark.parametrize(
    ("mode", "value", "raises"),
    [
        ("set", 2.0, True),
        ("set", -2.0, False),
        ("add", 1.0, True),
        ("scale", 2.0, True),
        ("scale", 0.5, False),
        ("ablate", 0.0, False),
        ("cap", 1.0, False),
    ],
)
def test_what_an_edit_should_do(
    lm: SplicedLM, prompt: list[int], mode: Any, value: float, raises: bool
) -> None:
    edit = Edit(feature=TARGET, mode=mode, value=value, sae="resid_post/1")
    proving = Proving(
        lm, prompt, [edit], controls=[9], seeds=[0], max_new_tokens=1, temperature=1.0
    )
    assert proving.raises is raises


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"temperature": 0.0}, "temperature above 0"),
        ({"seeds": []}, "needs seeds"),
        ({"seeds": [1, 1]}, "each of them once"),
        ({"target": 2}, "no edit 2"),
        ({"controls": [9999]}, "feature 9999 does not exist"),
        (
            {"edits": [Edit(feature=TARGET, mode="ablate", sae="resid_post/1")] * 2},
            "edited twice",
        ),
    ],
)
def test_mistakes_are_one_sentence(
    lm: SplicedLM, prompt: list[int], changed: dict[str, Any], sentence: str
) -> None:
    usual: dict[str, Any] = {
        "edits": [Edit(feature=TARGET, mode="set", value=6.0, sae="resid_post/1")],
        "controls": CONTROLS,
        "seeds": SEEDS,
        "max_new_tokens": NEW,
        "temperature": TEMPERATURE,
    }
    given = usual | changed
    with pytest.raises(ValueError, match=sentence):
        Proving(lm, prompt, given.pop("edits"), **given)
