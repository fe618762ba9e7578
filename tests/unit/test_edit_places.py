"""Where edits apply, when, and how much: positions, conditions, fading, what they did."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_core.arms import Arms
from sae_core.config import Site
from sae_core.edits import Condition, Edit, Steering
from sae_core.generation import EditRecord, generate
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text
from tests.arms_reference import MODULES, WINDOW, logits_of, slow_acts, slow_edited
from tests.tiny import ALWAYS, DEAD, make_sae
from tests.unit.service_support import counted_forwards

TEXT = "The river remembers two letters in the winter of 1912. My neighbour returns it"
SITES = ["resid_post/1", "mlp_out/0", "mlp_out/2"]
"""The edited SAE's, one that is read before it, one after it."""
EDITED = SITES[0]
NEW = 14


@pytest.fixture(scope="module")
def ids(tiny_tokenizer: Any) -> list[int]:
    return encode_text(tiny_tokenizer, TEXT)


@pytest.fixture(scope="module")
def lm(tiny_model: Any, tiny_tokenizer: Any) -> SplicedLM:
    saes = {site: make_sae(tiny_model, tiny_tokenizer, Site.parse(site)) for site in SITES}
    return SplicedLM(tiny_model, tiny_tokenizer, saes)


def run_with(lm: SplicedLM, ids: list[int], name: str, fn: Any) -> Tensor:
    """Logits `[pos, vocab]` of the whole text, `fn(x)` in the place of x at an SAE's module."""
    site = lm.site(name)
    path, side = MODULES[site.kind]
    assert side == "output"
    module = lm.model.get_submodule(path.format(site.layer))

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        x = output[0] if isinstance(output, tuple) else output
        new = fn(x[0])[None]
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = module.register_forward_hook(hook)
    try:
        with torch.no_grad():
            return lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        handle.remove()


def slow_shares(lm: SplicedLM, ids: list[int], edit: Edit, prompt: int) -> list[float]:
    """How much of an edit each token gets, token by token."""
    fires = [True] * len(ids)
    if edit.condition is not None:
        seen: list[Tensor] = []

        def keep(x: Tensor) -> Tensor:
            seen.append(slow_acts(lm.sae(edit.condition.sae or edit.sae), x.float()))  # pyright: ignore[reportOptionalMemberAccess]
            return x

        run_with(lm, ids, edit.condition.sae or edit.sae, keep)
        fires = (seen[0][:, edit.condition.feature] > edit.condition.above).tolist()
    shares = []
    for t, token in enumerate(ids):
        first_new = t - prompt + 1  # 0 at the prompt's last token, which predicts the first new one
        named = {
            "all": True,
            "prompt": t < prompt,
            "generated": t >= prompt,
            "continuation": t >= prompt - 1,
        }
        due = named[edit.positions] if isinstance(edit.positions, str) else t in edit.positions
        left = 1.0
        if edit.fade is not None and first_new > 0:
            left = max(0.0, (edit.fade - first_new) / edit.fade)
        shares.append(left if due and fires[t] and token > 2 else 0.0)
    return shares


def slow_logits(
    lm: SplicedLM, ids: list[int], edits: Sequence[Edit], prompt: int
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Logits of the whole text; the activation before and after; how much of each edit applied."""
    shares = [torch.tensor(slow_shares(lm, ids, edit, prompt)) for edit in edits]
    sae = lm.sae(EDITED)
    kept: list[Tensor] = []

    def change(x: Tensor) -> Tensor:
        acts = slow_acts(sae, x.float())
        edited = acts.clone()
        for edit, share in zip(edits, shares, strict=True):
            before = edited[:, edit.feature]
            edited[:, edit.feature] = before + share * (slow_edited(before, edit) - before)
        new = x.float() + (edited - acts) @ sae.W_dec
        kept.extend([x.float(), new])
        return new.to(x.dtype)

    logits = run_with(lm, ids, EDITED, change)
    return logits, torch.stack(kept), shares


def slow_continuation(lm: SplicedLM, ids: list[int], edits: Sequence[Edit]) -> list[int]:
    grown = list(ids)
    for _ in range(NEW):
        logits, _, _ = slow_logits(lm, grown, edits, len(ids))
        grown.append(int(logits[-1].argmax()))
    return grown[len(ids) :]


def set_to(value: float, **how: Any) -> Edit:
    return Edit(feature=ALWAYS, mode="set", value=value, sae=EDITED, **how)


def kinds() -> list[list[Edit]]:
    """Edits that differ in where and how much they apply."""
    arms = [[set_to(20.0, positions=p)] for p in ("continuation", "generated", "prompt", "all")]
    arms += [[set_to(20.0, positions=p, fade=5)] for p in ("continuation", "generated", "all")]
    for site in SITES:
        condition = Condition(feature=ALWAYS, above=0.3, sae=site)
        arms.append([set_to(20.0, condition=condition)])
        arms.append([set_to(20.0, positions="continuation", condition=condition, fade=9)])
    arms.append(
        [
            set_to(15.0, positions="continuation", fade=8),
            Edit(feature=7, mode="add", value=9.0, sae=EDITED, positions="generated"),
            Edit(
                feature=ALWAYS,
                mode="scale",
                value=0.5,
                sae=EDITED,
                condition=Condition(feature=9),
            ),
        ]
    )
    return arms


def test_where_an_edit_applies_and_how_much() -> None:
    expected = {
        ("continuation", None): [0, 0, 0, 1, 1, 1, 1],
        ("generated", None): [0, 0, 0, 0, 1, 1, 1],
        ("continuation", 2): [0, 0, 0, 1, 0.5, 0, 0],
        ("generated", 4): [0, 0, 0, 0, 0.75, 0.5, 0.25],
        ("all", 1): [1, 1, 1, 1, 0, 0, 0],
        ((1, 4, 6), 4): [0, 1, 0, 0, 0.75, 0, 0.25],
    }
    for (positions, fade), shares in expected.items():
        edit = Edit(feature=0, mode="ablate", positions=positions, fade=fade)  # pyright: ignore
        assert edit.shares(0, 7, prompt_length=4) == shares
        assert edit.shares(3, 2, prompt_length=4) == shares[3:5]
        assert edit.where(0, 7, prompt_length=4) == [share > 0 for share in shares]


@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_equals_whole_forwards_with_hooks(
    lm: SplicedLM, ids: list[int], use_cache: bool
) -> None:
    """All kinds of edits side by side, each as if it were alone."""
    arms = kinds()
    record = EditRecord()
    steps = list(
        generate(
            lm,
            ids,
            [[], *arms],
            max_new_tokens=NEW,
            eos=frozenset(),
            use_cache=use_cache,
            record=record,
        )
    )
    texts = [[t.id for s in steps if (t := s.tokens[a])] for a in range(len(arms) + 1)]
    assert texts[0] == slow_continuation(lm, ids, [])
    touched, sizes = record.touched(), record.sizes()
    assert touched[0] == []
    assert sizes[0] == {}
    for arm, text, counts, size in zip(arms, texts[1:], touched[1:], sizes[1:], strict=True):
        assert text == slow_continuation(lm, ids, arm)
        _, (before, after), shares = slow_logits(lm, [*ids, *text], arm, len(ids))
        assert [each.applied for each in counts] == [int((one > 0).sum()) for one in shares]
        assert counts[0].changed == counts[0].applied, "it sets what is never so large"
        norms = (after - before).norm(dim=-1)
        moved = norms > 1e-4
        asked = float((norms / before.norm(dim=-1))[moved].mean())
        assert size[EDITED].tokens == int(moved.sum())
        assert size[EDITED].asked == pytest.approx(asked, rel=1e-3)
        assert size[EDITED].realised == pytest.approx(asked, rel=1e-3)
        assert size[EDITED].deviation < 1e-4
    assert len({tuple(text) for text in texts}) > len(texts) / 2, "edits that do nothing test none"


def test_what_no_arm_edits_is_run_once(
    lm: SplicedLM, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than a window; the rest goes on from it as several tokens or as one."""
    condition = Condition(feature=ALWAYS, above=0.1, sae=SITES[2])
    late: list[list[Edit]] = [
        [set_to(20.0, positions="continuation")],
        [set_to(30.0, positions="continuation", condition=condition)],
    ]
    middle = [*late, [set_to(20.0, positions=(WINDOW + 4, len(ids) - 3))]]
    for arms, first in ((late, len(ids) - 1), (middle, WINDOW + 4)):
        texts = {}
        for tokens in (1, 10**6):
            monkeypatch.setattr("sae_core.generation_run.SHARED_TOKENS", tokens)
            with counted_forwards(lm.model) as forwards:
                options = {"max_new_tokens": NEW, "eos": frozenset()}
                steps = list(generate(lm, ids, [[], *arms], **options))
            texts[tokens] = [
                [t.id for s in steps if (t := s.tokens[a])] for a in range(len(steps[0].tokens))
            ]
            rows = len(arms) + 1
            # The reader of the condition runs the prompt once, whichever way.
            prompt = first + rows * (len(ids) - first) if tokens == 1 else rows * len(ids)
            assert sum(forwards) == len(ids) + prompt + NEW * (rows + 1)
        assert texts[1] == texts[10**6]
        assert texts[1] == [slow_continuation(lm, ids, arm) for arm in [[], *arms]]


def test_from_the_last_prompt_token_on_steers_the_first_new_token(
    lm: SplicedLM, ids: list[int]
) -> None:
    def first(**how: Any) -> Any:
        [step] = generate(lm, ids, [[set_to(60.0, **how)]], max_new_tokens=1)
        assert step.tokens[0] is not None
        return step.tokens[0].id

    plain = first(positions="generated")
    assert plain == slow_continuation(lm, ids, [])[0]
    assert first(positions="continuation") != plain


def test_arms_know_conditions_and_fading(lm: SplicedLM, ids: list[int]) -> None:
    arms, prompt = kinds(), len(ids) - 6
    read = [len(ids) - 1, prompt, 4]
    expected = torch.stack([slow_logits(lm, ids, arm, prompt)[0][read] for arm in arms])
    actual = logits_of(Arms(lm, ids).run(arms, read=read, prompt_length=prompt))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="mlp_out/2 is not among those"):
        Arms(lm, ids, [EDITED]).run([[set_to(1.0, condition=Condition(feature=1, sae=SITES[2]))]])


def test_a_row_of_a_batch_is_the_run_with_its_own_seed(lm: SplicedLM, ids: list[int]) -> None:
    """Whatever runs beside it, and whether others of its seed do."""
    arms = [[], [set_to(5.0, positions="continuation")], [set_to(30.0)], []]
    seeds = [3, 8, 3, 8]
    options: dict[str, Any] = {"max_new_tokens": 20, "temperature": 1.0, "eos": frozenset()}
    steps = list(generate(lm, ids, arms, seed=seeds, **options))
    for a, (arm, seed) in enumerate(zip(arms, seeds, strict=True)):
        [*alone] = generate(lm, ids, [arm], seed=seed, **options)
        rows = [(step.tokens[a], one.tokens[0]) for step, one in zip(steps, alone, strict=True)]
        assert [each.id for each, _ in rows if each] == [each.id for _, each in rows if each]
    with pytest.raises(ValueError, match="2 seeds are given for 4 arms"):
        next(generate(lm, ids, arms, seed=[1, 2], **options))


def test_what_touches_no_token_is_counted_as_none(lm: SplicedLM, ids: list[int]) -> None:
    arm = [
        set_to(4.0, positions=(0,)),
        Edit(feature=DEAD, mode="ablate", sae=EDITED),
        set_to(4.0, condition=Condition(feature=DEAD)),
        Edit(feature=ALWAYS, mode="cap", value=1e6, sae=EDITED),
    ]
    record = EditRecord()
    assert record.touched() == []
    [*_] = generate(lm, ids, [arm], max_new_tokens=4, record=record)
    everywhere = len(ids) - 1 + 4
    counts = [(each.applied, each.changed) for each in record.touched()[0]]
    assert counts == [(0, 0), (everywhere, 0), (0, 0), (everywhere, 0)]
    [size] = [each[EDITED] for each in record.sizes()]
    assert size.tokens == 0
    assert math.isnan(size.asked)


def test_nothing_is_counted_after_an_arms_end(lm: SplicedLM, ids: list[int]) -> None:
    """The batch goes on for the others."""
    arms = [[set_to(30.0, positions="generated")], [set_to(-30.0, positions="generated")]]
    plain = list(generate(lm, ids, arms, max_new_tokens=10, eos=frozenset()))
    texts = [[t.id for s in plain if (t := s.tokens[a])] for a in range(2)]
    end = next(i for i in texts[0] if i not in texts[1])
    record = EditRecord()
    [*_] = generate(lm, ids, arms, max_new_tokens=10, eos=frozenset({end}), record=record)
    assert [arm[0].changed for arm in record.touched()] == [texts[0].index(end), 10]


def test_a_low_precision_keeps_less_than_was_asked(lm: SplicedLM) -> None:
    """In bfloat16 a small change is rounded away in part; in float32 it is what was asked."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(1, 5, 32, generator=generator)
    edit = Edit(feature=ALWAYS, mode="add", value=0.05)
    for dtype, least, most in ((torch.float32, 0.0, 1e-5), (torch.bfloat16, 0.02, 1.0)):
        x = wide.to(dtype)
        steering = Steering(lm.sae(EDITED), [[edit]], 5)
        new = steering(x, x, 0, [[False] * 5])
        assert new is not None
        made, asked = (new.float() - x.float())[0], 0.05 * lm.sae(EDITED).W_dec[ALWAYS]
        [size] = steering.tally.sizes()
        norms = x[0].float().norm(dim=-1)
        assert size.asked == pytest.approx(float((asked.norm() / norms).mean()), rel=1e-4)
        assert size.realised == pytest.approx(float((made.norm(dim=-1) / norms).mean()), rel=1e-4)
        off = (made - asked).square().sum() / (5 * asked.square().sum())
        assert size.deviation == pytest.approx(math.sqrt(float(off)), rel=1e-3, abs=1e-6)
        assert least <= size.deviation <= most


@pytest.mark.usefixtures("unchecked_types")
def test_mistakes_of_conditions_are_named(lm: SplicedLM, ids: list[int]) -> None:
    with pytest.raises(ValueError, match="feature 64 does not exist"):
        next(generate(lm, ids, [[set_to(1.0, condition=Condition(feature=64))]], max_new_tokens=1))
    wrong = Condition(feature=1, sae="other")
    with pytest.raises(ValueError, match="unknown SAE 'other'"):
        next(generate(lm, ids, [[set_to(1.0, condition=wrong)]], max_new_tokens=1))
    with pytest.raises(ValueError, match="must be 0 or more"):
        Condition(feature=-1)
    with pytest.raises(ValueError, match="not finite"):
        Condition(feature=1, above=math.nan)
    with pytest.raises(ValueError, match="fade over 1 token or more"):
        set_to(1.0, fade=0)
    with pytest.raises(ValueError, match="continuation or a list"):
        Edit(feature=1, mode="set", positions="everywhere")  # pyright: ignore
