"""Generations of several people as one batch: each person's tokens are those they have alone."""

import copy
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sae_core import attention, joined_cache, shared_generation
from sae_core.config import Site
from sae_core.edits import Condition, Edit
from sae_core.generation import EditRecord, generate
from sae_core.generation_run import GenerationRun, GenerationStep
from sae_core.joined_cache import joins
from sae_core.shared_generation import SharedGeneration
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text
from tests.tiny import ALWAYS, make_sae
from tests.unit.service_support import counted_forwards

SITES = ["resid_post/1", "mlp_out/0", "mlp_out/2"]
FIRST, BEFORE, AFTER = SITES
TEXTS = (
    "The river remembers two letters in the winter of 1912. My neighbour returns it",
    "A student",
    "The old clock measures the morning train at noon. Every function ignores it again!",
    "The ship carries a red lamp",
)
"""Longer and shorter than the window of 8 tokens."""
TOLERANCE = 1e-5
"""Of activations in float32: rows of a larger product may be rounded otherwise."""


@pytest.fixture(scope="module")
def lm(tiny_model: Any, tiny_tokenizer: Any) -> SplicedLM:
    saes = {site: make_sae(tiny_model, tiny_tokenizer, Site.parse(site)) for site in SITES}
    return SplicedLM(tiny_model, tiny_tokenizer, saes)


def edits() -> list[list[Edit]]:
    """Every mode, place, fading and condition, and edits of several SAEs."""

    def set_to(value: float, sae: str = FIRST, **how: Any) -> Edit:
        return Edit(feature=ALWAYS, mode="set", value=value, sae=sae, **how)

    places: Any = ("continuation", "generated", "prompt", "all", (1, 3, 9, 14))
    modes: Any = ("set", "scale", "add", "ablate", "cap")
    arms = [[set_to(20.0, positions=place)] for place in places]
    arms += [[set_to(20.0, positions=place, fade=5)] for place in places]
    arms += [[Edit(feature=ALWAYS, mode=mode, value=3.0, sae=FIRST)] for mode in modes]
    for site in SITES:
        condition = Condition(feature=ALWAYS, above=0.3, sae=site)
        arms.append([set_to(20.0, positions="continuation", condition=condition, fade=9)])
    arms.append([set_to(9.0, BEFORE), Edit(feature=7, mode="add", value=9.0, sae=AFTER)])
    arms.append([set_to(9.0), set_to(9.0, AFTER, condition=Condition(feature=9, sae=BEFORE))])
    return arms


def job_of(lm: SplicedLM, number: int, **changes: Any) -> dict[str, Any]:
    """One person's generation; different people's have little in common."""
    arms = edits()
    return {
        "ids": encode_text(lm.tokenizer, TEXTS[number % len(TEXTS)]),
        "arms": [[], arms[number % len(arms)]],
        "max_new_tokens": 4 + 5 * number % 9,
        "temperature": 0.8 if number % 3 else 0.0,
        "seed": number,
        "watch": [(FIRST, ALWAYS), (AFTER, 7)][: 1 + number % 2],
        "eos": frozenset({40 + number}) if number % 4 == 0 else frozenset(),
    } | changes


def ids_of(steps: list[GenerationStep]) -> list[list[int | None]]:
    return [[token and token.id for token in step.tokens] for step in steps]


def acts_of(steps: list[GenerationStep]) -> Tensor:
    tokens = [token for step in steps for token in step.tokens if token is not None]
    return torch.tensor([[*token.own, *token.after] for token in tokens])


def assert_alike(steps: list[GenerationStep], alone: list[GenerationStep]) -> None:
    assert ids_of(steps) == ids_of(alone)
    expected = acts_of(alone)
    atol = TOLERANCE * max(1.0, float(expected.abs().max())) if len(expected) else 0.0
    torch.testing.assert_close(acts_of(steps), expected, atol=atol, rtol=TOLERANCE)


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


@contextmanager
def failing(run_of: Callable[[GenerationRun], bool], after: int) -> Iterator[None]:
    """Edits of some runs fail after so many forwards."""
    plain, calls = GenerationRun.edit, 0

    def edit(self: GenerationRun, *args: Any) -> Any:
        nonlocal calls
        if run_of(self):
            calls += 1
            if calls > after:
                raise RuntimeError("an edit that fails")
        return plain(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GenerationRun, "edit", edit)
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


def test_who_finds_no_room_waits_until_somebody_has_left(lm: SplicedLM) -> None:
    job = job_of(lm, 2, max_new_tokens=6)
    one = SharedGeneration(lm)
    going = one.generate(**job)
    next(going)
    [member] = one._members
    shared = SharedGeneration(lm, most_bytes=2 * member.bytes_of_column * member.longest - 1)
    first = shared.generate(**job)
    next(first)
    got: list[Any] = []
    late = threading.Thread(target=lambda: got.extend(shared.generate(**job)), daemon=True)
    with rows_of_forwards(lm.model) as rows:
        late.start()
        rest = list(first)
        late.join(timeout=60)
    assert max(rows) == 2, "the two were never together"
    assert ids_of(got)[1:] == ids_of(rest)


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
