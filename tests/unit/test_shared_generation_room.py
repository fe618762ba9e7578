"""Generations of several people: their keys and values are bounded, and who has no room waits."""

import threading
from typing import Any

import pytest

from sae_core import shared_generation
from sae_core.generation import generate
from sae_core.generation_run import GenerationStep
from sae_core.shared_generation import SharedGeneration
from sae_core.splice import SplicedLM
from tests.unit.service_support import counted_forwards
from tests.unit.shared_generation_support import assert_alike, job_of, spliced
from tests.waiting import wait_until

LIMIT = 60
"""Seconds after which something is taken to hang."""


@pytest.fixture(scope="module")
def lm(tiny_model: Any, tiny_tokenizer: Any) -> SplicedLM:
    return spliced(tiny_model, tiny_tokenizer)


def room_for(lm: SplicedLM, *jobs: dict[str, Any]) -> int:
    """Bytes that generations of these may take together, in the old cache and in the new one."""
    shared = SharedGeneration(lm, most_bytes=10**12)
    going = [shared.generate(**job) for job in jobs]
    for each in going:
        next(each)
    held = list(shared._members)
    size = lm.model.config.get_text_config()
    row = 2 * size.num_hidden_layers * size.num_key_value_heads * size.head_dim * 4
    assert [each.bytes_of_column for each in held] == [row * len(job["arms"]) for job in jobs]
    for each in going:
        each.close()
    return 2 * sum(each.bytes_of_column for each in held) * max(each.longest for each in held)


class Person:
    """Somebody who generates in a thread of their own."""

    def __init__(self, shared: SharedGeneration, job: dict[str, Any]) -> None:
        self.steps: list[GenerationStep] = []
        self._thread = threading.Thread(
            target=lambda: self.steps.extend(shared.generate(**job)), daemon=True
        )
        self._thread.start()

    def finish(self) -> list[GenerationStep]:
        self._thread.join(timeout=LIMIT)
        assert not self._thread.is_alive()
        return self.steps


def job_for(lm: SplicedLM, number: int, new: int) -> dict[str, Any]:
    return job_of(lm, number, max_new_tokens=new, eos=frozenset())


def test_nothing_is_computed_for_who_waits_for_room(lm: SplicedLM) -> None:
    job, late_job = job_for(lm, 2, 6), job_for(lm, 2, 5)
    shared = SharedGeneration(lm, most_bytes=room_for(lm, job, late_job) - 1)
    first = shared.generate(**job)
    steps = [next(first)]
    with counted_forwards(lm.model) as forwards:
        late = Person(shared, late_job)
        wait_until(lambda: bool(shared._waiting))
        steps.extend(next(first) for _ in range(3))
        assert len(forwards) == 3
        [waiting] = shared._waiting
        assert waiting.run.cache is None
    steps.extend(first)
    assert_alike(late.finish(), list(generate(lm, **late_job)))
    assert_alike(steps, list(generate(lm, **job)))


def test_who_fits_goes_on_beside_the_others(lm: SplicedLM) -> None:
    jobs = [job_for(lm, number, 6) for number in (2, 1)]
    shared = SharedGeneration(lm, most_bytes=room_for(lm, *jobs))
    going = [shared.generate(**job) for job in jobs]
    assert all(next(each) for each in going)
    assert len(shared._members) == 2
    for each in going:
        each.close()


def test_people_are_served_in_order_of_arrival(lm: SplicedLM) -> None:
    """A small one does not go before a large one that waits, though it would fit."""
    small, large = job_for(lm, 2, 4), job_for(lm, 2, 60)
    shared = SharedGeneration(lm, most_bytes=room_for(lm, small, small, small))
    first = shared.generate(**small)
    next(first)
    people = []
    for number, job in enumerate((large, small, small)):
        people.append(Person(shared, job))
        wait_until(lambda n=number: len(shared._waiting) == n + 1)
    [waiting, *_] = shared._waiting
    first.close()
    wait_until(lambda: waiting in shared._members or waiting.is_gone)
    for person, job in zip(people, (large, small, small), strict=True):
        assert_alike(person.finish(), list(generate(lm, **job)))


def test_waiting_ends_with_a_sentence_after_the_time_that_is_given(lm: SplicedLM) -> None:
    job = job_for(lm, 2, 6)
    shared = SharedGeneration(lm, most_bytes=1, patience=0.0)
    first = shared.generate(**job)
    steps = [next(first)]
    with pytest.raises(ValueError, match="leave no room in memory for this one: try again"):
        next(shared.generate(**job))
    assert not shared._waiting, "the place is given up"
    assert_alike([*steps, *first], list(generate(lm, **job)))
    assert_alike(list(shared.generate(**job)), list(generate(lm, **job)))


def test_room_is_noticed_though_nobody_is_woken(
    lm: SplicedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after somebody has left between a look for room and the wait that follows."""
    monkeypatch.setattr(shared_generation, "LOOK_SECONDS", 0.01)
    job = job_for(lm, 2, 3)
    shared = SharedGeneration(lm, most_bytes=1)
    first = shared.generate(**job)
    next(first)
    late = Person(shared, job)
    wait_until(lambda: bool(shared._waiting))
    monkeypatch.setattr(shared._changed, "notify_all", lambda: None)
    first.close()
    assert_alike(late.finish(), list(generate(lm, **job)))
