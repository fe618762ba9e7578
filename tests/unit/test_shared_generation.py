"""Generations of several people as one batch: each person's tokens are those they have alone."""

import copy
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sae_core import attention, joined_cache, shared_generation
from sae_core.edits import MODES, Edit
from sae_core.generation import EditRecord, generate
from sae_core.generation_run import GenerationStep
from sae_core.joined_cache import joins
from sae_core.shared_generation import SharedGeneration
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text
from tests.tiny import ALWAYS
from tests.unit.service_support import counted_forwards
from tests.unit.shared_generation_support import (
    FIRST,
    SITES,
    TEXTS,
    acts_of,
    assert_alike,
    edits,
    ids_of,
    job_of,
    spliced,
)


@pytest.fixture(scope="module")
def lm(tiny_model: Any, tiny_tokenizer: Any) -> SplicedLM:
    return spliced(tiny_model, tiny_tokenizer)


def people_at_random(
    lm: SplicedLM, shared: SharedGeneration, jobs: list[dict[str, Any]], seed: int
) -> list[tuple[list[GenerationStep], EditRecord, bool]]:
    """What each has got: people come at any time, read on or leave as chance has it."""
    rng = random.Random(seed)
    going: dict[int, Any] = {}
    results = [([], EditRecord(), False) for _ in jobs]
    waiting = list(range(len(jobs)))
    while waiting or going:
        if waiting and (not going or rng.random() < 0.2):
            number = waiting.pop(0)
            going[number] = shared.generate(**jobs[number], record=results[number][1])
        number = rng.choice(list(going))
        steps, record, _ = results[number]
        try:
            steps.append(next(going[number]))
        except StopIteration:
            results[number] = steps, record, True
            del going[number]
        else:
            if rng.random() < 0.03:
                going.pop(number).close()
    return results


@pytest.mark.parametrize(("kind", "people"), [("eager", len(edits()) // 2), ("chunked", 5)])
def test_whoever_comes_and_goes_each_gets_what_they_get_alone(
    lm: SplicedLM, tiny_tokenizer: Any, kind: str, people: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined_cache, "ROOM", 3)  # so that it is used up
    monkeypatch.setattr(shared_generation, "PROMPT_TOKENS_ELSEWHERE", 7)
    if kind == "chunked":
        attention.register()
        model = copy.deepcopy(lm.model)
        model.set_attn_implementation(attention.CHUNKED)
        lm = SplicedLM(model, tiny_tokenizer, {name: lm.sae(name) for name in SITES})
    arms = edits()
    jobs = [job_of(lm, n, arms=[[], *arms[2 * n : 2 * n + 2]]) for n in range(people)]
    shared = SharedGeneration(lm)
    with rows_of_forwards(lm.model) as rows:
        results = people_at_random(lm, shared, jobs, seed=1)
    assert max(rows) >= 9, "they were hardly together"
    early = [len(steps) for steps, _, complete in results if not complete]
    assert len(early) < people / 2
    assert early or kind == "chunked", "nobody left early"
    for job, (steps, record, complete) in zip(jobs, results, strict=True):
        own = EditRecord()
        alone = generate(lm, **job, record=own)
        expected = list(alone) if complete else [next(alone) for _ in steps]
        assert_alike(steps, expected)
        assert record.touched() == own.touched()
        for sizes, others in zip(record.sizes(), own.sizes(), strict=True):
            for name, size in sizes.items():
                assert size.tokens == others[name].tokens
                assert size.asked == pytest.approx(others[name].asked, rel=1e-3, nan_ok=True)


@contextmanager
def rows_of_forwards(model: Any) -> Iterator[list[int]]:
    """A list that grows by the batch's rows with every forward of the model."""
    rows: list[int] = []

    def count(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        rows.append(len(kwargs["input_ids"]))

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


def test_without_edits_each_is_the_models_own_generation(lm: SplicedLM) -> None:
    shared, length = SharedGeneration(lm), 12
    prompts = [encode_text(lm.tokenizer, text) for text in TEXTS]
    going = [shared.generate(ids, [[]], max_new_tokens=length, eos=frozenset()) for ids in prompts]
    texts = [[next(each).tokens[0].id for each in going] for _ in range(length)]  # pyright: ignore[reportOptionalMemberAccess]
    for ids, text in zip(prompts, zip(*texts, strict=True), strict=True):
        row = torch.tensor([ids])
        written = lm.model.generate(
            row,
            attention_mask=torch.ones_like(row),
            max_new_tokens=length,
            do_sample=False,
            eos_token_id=None,
        )
        assert list(text) == written[0, len(ids) :].tolist()


def test_in_bfloat16_activations_are_alike_as_long_as_texts_are(
    lm: SplicedLM, tiny_tokenizer: Any
) -> None:
    """Rows of a larger product may be rounded to the next bfloat16, 1 in 256 apart, so that after a
    while another token may be drawn; each forward up to there agrees to 5 % of the largest.
    """
    model = copy.deepcopy(lm.model).to(torch.bfloat16)
    lm = SplicedLM(model, tiny_tokenizer, {name: lm.sae(name) for name in SITES})
    jobs = [job_of(lm, n, eos=frozenset(), max_new_tokens=10, watch=[(FIRST, 1)]) for n in range(8)]
    shared = SharedGeneration(lm)
    going = [shared.generate(**job) for job in jobs]
    together = list(zip(*([next(each) for each in going] for _ in range(10)), strict=True))
    alike = 0
    for job, steps in zip(jobs, together, strict=True):
        alone = list(generate(lm, **job))
        pairs = zip(ids_of(list(steps)), ids_of(alone), strict=True)
        same = next((k for k, (own, other) in enumerate(pairs) if own != other), len(alone))
        alike += same
        expected = acts_of(alone[:same])
        if same:
            atol = 0.05 * float(expected.abs().max())
            torch.testing.assert_close(acts_of(list(steps[:same])), expected, atol=atol, rtol=0)
    assert alike > 40, "of 80 tokens"


def test_a_newcomers_first_token_waits_for_nobodys_end(lm: SplicedLM) -> None:
    shared = SharedGeneration(lm)
    first = shared.generate(**job_of(lm, 1, max_new_tokens=40))
    for _ in range(3):
        next(first)
    with counted_forwards(lm.model) as forwards:
        late = shared.generate(**job_of(lm, 2))
        next(late)
        ids = job_of(lm, 2)["ids"]
        # Its prompt, whose beginning is run once, and one token of all four rows.
        assert sum(forwards) - forwards[-1] <= 2 * len(ids)
        assert forwards[-1] == 4
        # Meanwhile the other has got a token, for which nothing is to be run any more.
        next(first)
        assert len(forwards) <= 3
    late.close()
    first.close()


def test_a_long_prompt_is_read_in_parts_and_others_go_on_between_them(
    lm: SplicedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_generation, "PROMPT_TOKENS_ELSEWHERE", 4)
    shared = SharedGeneration(lm)
    job = job_of(lm, 2, arms=[[], [Edit(feature=ALWAYS, mode="set", value=9.0, sae=FIRST)]])
    with counted_forwards(lm.model) as forwards:
        steps = list(shared.generate(**job))
    assert max(forwards) <= 4 * 2
    assert_alike(steps, list(generate(lm, **job)))


def test_who_has_left_is_not_computed_for(lm: SplicedLM) -> None:
    shared = SharedGeneration(lm)
    going = [shared.generate(**job_of(lm, n, max_new_tokens=30)) for n in (1, 2, 5)]
    for each in going:
        next(each)
    going.pop(1).close()
    with rows_of_forwards(lm.model) as rows:
        for _ in range(4):
            for each in going:
                next(each)
    assert set(rows) == {4}
    for each in going:
        each.close()
    assert shared._cache is None
    assert not shared._members


def test_threads_share_forwards_and_get_their_own(lm: SplicedLM) -> None:
    jobs = [job_of(lm, n, max_new_tokens=12, eos=frozenset()) for n in range(1, 7)]
    shared, together = SharedGeneration(lm), threading.Barrier(len(jobs))
    results: dict[int, list[GenerationStep]] = {}

    def person(number: int) -> None:
        steps = shared.generate(**jobs[number])
        mine = [next(steps)]
        together.wait(timeout=60)
        results[number] = [*mine, *steps]

    threads = [threading.Thread(target=person, args=(n,), daemon=True) for n in range(len(jobs))]
    with rows_of_forwards(lm.model) as rows:
        for each in threads:
            each.start()
        for each in threads:
            each.join(timeout=60)
    assert max(rows) == 2 * len(jobs), "when all had begun, all were in one forward"
    for number, job in enumerate(jobs):
        assert_alike(results[number], list(generate(lm, **job)))


def test_a_model_whose_texts_cannot_be_joined_runs_each_by_itself(
    lm: SplicedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert joins(lm.model)
    monkeypatch.setattr(lm.model.config, "_attn_implementation_internal", "flex_attention")
    assert not joins(lm.model)
    monkeypatch.undo()
    monkeypatch.setattr(joined_cache, "ATTENTIONS", ())
    shared = SharedGeneration(lm)
    jobs = [job_of(lm, n) for n in (1, 2)]
    going = [shared.generate(**job) for job in jobs]
    with rows_of_forwards(lm.model) as rows:
        steps = [[next(each)] for each in going]
        for own, each in zip(steps, going, strict=True):
            own.extend(each)
    assert max(rows) == 2
    for own, job in zip(steps, jobs, strict=True):
        assert_alike(own, list(generate(lm, **job)))


def test_seeds_are_as_many_as_arms(lm: SplicedLM) -> None:
    with pytest.raises(ValueError, match="3 seeds are given for 2 arms"):
        next(SharedGeneration(lm).generate(**job_of(lm, 1, seed=[1, 2, 3])))


class _Counted(TorchDispatchMode):
    """Counts the operations of a block."""

    operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        return func(*args, **(kwargs or {}))


def test_a_step_of_many_takes_hardly_more_operations_than_one_of_few(lm: SplicedLM) -> None:
    """On a GPU each takes as long to be asked for as to be done: a person's own count."""

    def operations(people: int) -> float:
        shared = SharedGeneration(lm)
        jobs = [
            job_of(
                lm,
                n,
                arms=[[], [Edit(feature=n, mode=MODES[n % len(MODES)], value=2.0, sae=FIRST)]],
                max_new_tokens=12,
                eos=frozenset(),
            )
            for n in range(people)
        ]
        going = [shared.generate(**job) for job in jobs]
        for each in going:
            next(each)
        for each in going:
            next(each)
        with _Counted() as counted:
            for _ in range(5):
                for each in going:
                    next(each)
        for each in going:
            each.close()
        return counted.operations / 5

    few, many = operations(2), operations(10)
    # Its random numbers, and what of its own is put beside the others'; an edit is some 60.
    assert (many - few) / 8 < 30, (few, many)
