"""Generations of several people: an error, or a break, of one leaves the others what they have."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import nn

from sae_core import shared_generation
from sae_core.edits import Edit
from sae_core.generation import EditRecord, generate
from sae_core.generation_run import GenerationRun, GenerationStep
from sae_core.shared_generation import SharedGeneration
from sae_core.splice import SplicedLM
from tests.unit.shared_generation_support import BEFORE, FIRST, assert_alike, job_of, spliced


@pytest.fixture(scope="module")
def lm(tiny_model: Any, tiny_tokenizer: Any) -> SplicedLM:
    return spliced(tiny_model, tiny_tokenizer)


@contextmanager
def failing(run_of: Callable[[GenerationRun], bool], after: int) -> Iterator[None]:
    """What some runs do by themselves (read conditions) fails after so many forwards."""
    plain, calls = GenerationRun.prepare, 0

    def prepare(self: GenerationRun, *args: Any) -> Any:
        nonlocal calls
        if run_of(self):
            calls += 1
            if calls > after:
                raise RuntimeError("a condition that fails")
        return plain(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GenerationRun, "prepare", prepare)
        yield


def results_with_records(
    shared: SharedGeneration, jobs: list[dict[str, Any]]
) -> list[tuple[list[GenerationStep], EditRecord, Exception | None]]:
    """What all get who read in turns, and the error by which each ended."""
    results: list[tuple[list[GenerationStep], EditRecord, Exception | None]] = []
    going: dict[int, Any] = {}
    for number, job in enumerate(jobs):
        results.append(([], EditRecord(), None))
        going[number] = shared.generate(**job, record=results[-1][1])
    while going:
        for number in list(going):
            steps, record, _ = results[number]
            try:
                steps.append(next(going[number]))
            except StopIteration:
                del going[number]
            except RuntimeError as error:
                results[number] = steps, record, error
                del going[number]
    return results


def assert_only_one_fails(
    lm: SplicedLM,
    jobs: list[dict[str, Any]],
    results: list[tuple[list[GenerationStep], EditRecord, Exception | None]],
    failed: int,
) -> None:
    for number, (job, (steps, record, error)) in enumerate(zip(jobs, results, strict=True)):
        own = EditRecord()
        alone = list(generate(lm, **job, record=own))
        if number == failed:
            assert isinstance(error, RuntimeError)
            assert 0 < len(steps) < len(alone)
            continue
        assert error is None
        assert_alike(steps, alone)
        assert record.touched() == own.touched(), "what was run again counts once"


def test_an_error_of_one_does_not_end_the_others(lm: SplicedLM) -> None:
    jobs = [job_of(lm, n, max_new_tokens=12, eos=frozenset()) for n in (1, 2, 17, 5)]
    bad = jobs[1]["ids"]
    shared = SharedGeneration(lm)
    with failing(lambda run: run.length > len(bad) and run.watch == [(FIRST, 5)], after=4):
        jobs[1]["watch"] = [(FIRST, 5)]
        results = results_with_records(shared, jobs)
    assert_only_one_fails(lm, jobs, results, failed=1)


def test_where_the_batch_is_too_large_who_came_last_has_to_go(lm: SplicedLM) -> None:
    jobs = [job_of(lm, n, max_new_tokens=12, eos=frozenset()) for n in (1, 5, 17, 2)]

    def too_many(_module: nn.Module, _args: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if len(first) > 6:
            raise RuntimeError("no memory for so many rows")

    shared = SharedGeneration(lm)
    # In the midst of a forward: edits at earlier sites have been made by then.
    handle = lm.model.model.layers[2].register_forward_hook(too_many)
    try:
        results = results_with_records(shared, jobs)
    finally:
        handle.remove()
    error = results[-1][2]
    assert error is not None
    assert "no memory" in str(error)
    for job, (steps, record, error) in list(zip(jobs, results, strict=True))[:-1]:
        own = EditRecord()
        assert error is None
        assert_alike(steps, list(generate(lm, **job, record=own)))
        assert record.touched() == own.touched(), "what was run again counts once"


def test_what_is_broken_off_in_the_midst_is_done_again(lm: SplicedLM) -> None:
    """As by Ctrl-C, which reaches whoever makes the step for all."""
    jobs = [job_of(lm, n, max_new_tokens=8, eos=frozenset()) for n in (1, 5)]
    shared = SharedGeneration(lm)
    records = [EditRecord() for _ in jobs]
    going = [shared.generate(**job, record=r) for job, r in zip(jobs, records, strict=True)]
    steps = [[next(each)] for each in going]

    def broken(*_args: Any) -> None:
        raise KeyboardInterrupt

    handle = lm.model.model.layers[2].register_forward_hook(broken)
    with pytest.raises(KeyboardInterrupt):
        list(going[0])
    handle.remove()
    steps[1].extend(going[1])
    own = EditRecord()
    assert_alike(steps[1], list(generate(lm, **jobs[1], record=own)))
    assert records[1].touched() == own.touched()


def test_an_error_of_one_who_is_long_gone_is_not_told_of_again(
    lm: SplicedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails in drawing is nobody's own: who came last has to go, and nobody else."""
    shared = SharedGeneration(lm)
    with failing(lambda _run: True, after=1), pytest.raises(RuntimeError, match="a condition"):
        list(shared.generate(**job_of(lm, 1)))
    plain, draws = shared_generation.draw_together, 0

    def draw_together(samplers: Any, logits: Any) -> list[int]:
        nonlocal draws
        draws += 1
        if draws == 1:
            raise RuntimeError("no memory to draw in")
        return plain(samplers, logits)

    monkeypatch.setattr(shared_generation, "draw_together", draw_together)
    with pytest.raises(RuntimeError, match="no memory to draw in"):
        list(shared.generate(**job_of(lm, 2)))
    job = job_of(lm, 5)
    assert_alike(list(shared.generate(**job)), list(generate(lm, **job)))


def test_who_leaves_in_the_midst_may_take_their_sae_along(
    tiny_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is released as soon as nobody needs it, also while a step of all is being prepared."""
    lm = spliced(tiny_model, tiny_tokenizer)
    theirs = [[Edit(feature=3, mode="set", value=9.0, sae=BEFORE)]]
    leaver = job_of(lm, 2, arms=theirs, watch=[], max_new_tokens=12, eos=frozenset())
    stayer = job_of(lm, 5, max_new_tokens=12, eos=frozenset(), watch=[(FIRST, 5)])
    stayer["arms"] = [[], [Edit(feature=5, mode="add", value=2.0, sae=FIRST)]]
    shared = SharedGeneration(lm)
    leaving, staying = shared.generate(**leaver), shared.generate(**stayer)
    next(leaving)  # before the other, who thus came last
    steps = [next(staying)]
    next(leaving)
    steps.append(next(staying))
    plain = GenerationRun.prepare

    def prepare(self: GenerationRun, *args: Any) -> Any:
        if self.watch == stayer["watch"] and BEFORE in lm.sae_names:
            leaving.close()
            lm.remove(BEFORE)
        return plain(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(GenerationRun, "prepare", prepare)
        steps.extend(staying)
    assert BEFORE not in lm.sae_names
    assert_alike(steps, list(generate(lm, **stayer)))


def test_what_ends_at_once_says_what_edits_did_in_the_prompt(lm: SplicedLM) -> None:
    edit = Edit(feature=3, mode="set", value=9.0, sae=FIRST)
    job = job_of(lm, 1, arms=[[edit]], max_new_tokens=0)
    record, own = EditRecord(), EditRecord()
    assert list(SharedGeneration(lm).generate(**job, record=record)) == []
    assert list(generate(lm, **job, record=own)) == []
    assert record.touched() == own.touched()
    assert record.touched()[0][0].applied > 1
