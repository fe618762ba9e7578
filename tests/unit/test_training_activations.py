"""The stream of text and the shuffle buffer: every token once, mixed, seekable."""

import itertools
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast

from sae_core.config import Site
from sae_core.corpus import documents, token_rows
from sae_core.sites import activations
from tests import tiny
from training import activations as activations_module
from training import text as text_module
from training.activations import ActivationBuffer, buffer_capacity, rows_per_forward
from training.text import Ahead, Cursor, Text

RESIDUAL, MLP = Site("resid_post", 1), Site("mlp_out", 2)
CAPACITY, BATCH = 384, 64


@pytest.fixture
def text(tiny_corpus: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> Text:
    """The tiny corpus, a few rows at a time, so that there are many batches."""
    return Text(
        corpus=[str(tiny_corpus)], tokenizer=tiny_tokenizer, context_size=16, rows=4, seed=0
    )


def _rows(text: Text, count: int, start: Cursor | None = None) -> list[tuple[int, ...]]:
    """The first `count` batches' rows, padding cut off."""
    stream = itertools.islice(text.stream(start or Cursor()), count)
    result = []
    for prompts in stream:
        for row in prompts.input_ids.tolist():
            result.append(tuple(i for i in row if i != text.tokenizer.pad_token_id))
    return result


def test_a_reading_has_every_row_once_in_another_order_each_time(
    text: Text, tiny_corpus: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = token_rows(documents([str(tiny_corpus)]), tiny_tokenizer, 16)
    expected = [tuple(row.ids.tolist()) for row in rows]
    n = len(expected)
    result = _rows(text, 2 * n // text.rows + 1)
    first, second = result[:n], result[n : 2 * n]
    assert sorted(first) == sorted(second) == sorted(expected)
    assert len({tuple(first), tuple(second), tuple(expected)}) == 3


def test_windows_are_shuffled_apart_and_cursors_find_their_place(
    text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "WINDOW_DOCUMENTS", 7)
    stream = text.stream(Cursor())
    batches = [next(stream) for _ in range(120)]
    cursors = [prompts.cursor for prompts in batches]
    assert cursors == sorted(cursors)
    assert cursors[-1].reading == 1
    assert max(cursor.window for cursor in cursors) == 8  # 60 documents in windows of 7
    for place in (0, 1, 17, 60, 100):
        again = text.stream(cursors[place])
        for expected in batches[place : place + 15]:
            prompts = next(again)
            assert prompts.cursor == expected.cursor
            assert torch.equal(prompts.input_ids, expected.input_ids)
            assert torch.equal(prompts.counted, expected.counted)


def test_special_tokens_and_padding_are_not_counted(text: Text) -> None:
    for prompts in itertools.islice(text.stream(Cursor()), 30):
        flat = prompts.input_ids.flatten()
        counted = torch.zeros(len(flat), dtype=torch.bool)
        counted[prompts.counted] = True
        assert bool((flat[counted] > 2).all())  # ids 0, 1, 2 are pad, eos, bos
        assert bool((flat[~counted] <= 2).all())
        assert 2 in flat


def test_seeds_give_other_orders(text: Text) -> None:
    other = Text(corpus=text.corpus, tokenizer=text.tokenizer, context_size=16, rows=4, seed=1)
    assert _rows(text, 10) == _rows(text, 10)
    assert _rows(text, 10) != _rows(other, 10)


def test_errors_of_the_thread_arrive(text: Text, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    empty = Text(
        corpus=[str(tmp_path / "empty.txt")],
        tokenizer=text.tokenizer,
        context_size=16,
        rows=4,
        seed=0,
    )
    with (
        Ahead(empty, Cursor(), 2, False) as ahead,
        pytest.raises(ValueError, match="holds no text"),
    ):
        next(ahead)


@contextmanager
def _buffer(
    model: Gemma2ForCausalLM, text: Text, sites: list[Site] | None = None
) -> Iterator[ActivationBuffer]:
    sites = sites or [RESIDUAL]
    with closing(ActivationBuffer(model, sites, text, capacity=CAPACITY, batch=BATCH)) as buffer:
        yield buffer


def _number_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make activations that hold the place of their token in the text, specials not counted."""
    numbers = itertools.count()

    def numbered(_model: object, ids: Tensor, sites: list[Site]) -> dict[Site, Tensor]:
        special = ids <= 2  # pad, eos, bos
        x = torch.full((*ids.shape, tiny.D_MODEL), -1.0)
        places = [float(next(numbers)) for _ in range(int((~special).sum()))]
        x[~special] = torch.tensor(places)[:, None]
        return dict.fromkeys(sites, x)

    monkeypatch.setattr(activations_module, "activations", numbered)


def test_every_token_is_served_once_and_mixed(
    tiny_model: Gemma2ForCausalLM, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = 4
    _number_tokens(monkeypatch)
    with _buffer(tiny_model, text) as buffer:
        h, kept = buffer.harvest_tokens, buffer.kept_tokens
        assert (h, kept, buffer.tokens_held) == (256, 128, 384)
        buffer.begin()
        batches = [buffer.batch()[RESIDUAL] for _ in range(rounds * h // BATCH)]
    places = [batch[:, 0].long().tolist() for batch in batches]
    flat = [place for batch in places for place in batch]
    assert min(flat) == 0  # no special token
    assert len(set(flat)) == len(flat) == rounds * h
    # All that was harvested is served, but for what the last round keeps for the next.
    missing = sorted(set(range(kept + rounds * h)) - set(flat))
    assert len(missing) == kept
    assert min(missing) >= kept + (rounds - 1) * h
    for batch in places:
        assert batch != sorted(batch)
        # A batch of 64 from two harvests, 384 to 512 tokens of text, comes from all over them.
        assert max(batch) - min(batch) > 0.6 * (h + kept)


def _harvest(model: Gemma2ForCausalLM, text: Text, site: Site, tokens: int) -> Tensor:
    """Activations in the text's order, from whole forwards, without the buffer."""
    result: list[Tensor] = []
    stream = text.stream(Cursor())
    while sum(map(len, result)) < tokens:
        prompts = next(stream)
        x = activations(model, prompts.input_ids, [site])[site]
        result.append(x.flatten(0, 1)[prompts.counted])
    return torch.cat(result)[:tokens]


def test_sites_are_aligned_and_do_not_depend_on_each_other(
    tiny_model: Gemma2ForCausalLM, text: Text
) -> None:
    with _buffer(tiny_model, text, [MLP, RESIDUAL]) as both, _buffer(tiny_model, text) as alone:
        both.begin()
        alone.begin()
        pairs = [(both.batch(), alone.batch()) for _ in range(9)]
    residual = _harvest(tiny_model, text, RESIDUAL, 1_000)
    mlp = _harvest(tiny_model, text, MLP, 1_000)
    for two, one in pairs:
        assert torch.equal(two[RESIDUAL], one[RESIDUAL])
        # Contexts that begin alike have equal activations, at both sites: any match will do.
        same = (two[RESIDUAL][:, None] == residual).all(dim=2)
        assert bool(same.any(dim=1).all())
        assert torch.equal(mlp[same.float().argmax(dim=1)], two[MLP])


def test_moments_are_those_of_the_tokens_held(tiny_model: Gemma2ForCausalLM, text: Text) -> None:
    with _buffer(tiny_model, text) as buffer:
        buffer.begin()
        square, mean = buffer.moments()[RESIDUAL]
    x = _harvest(tiny_model, text, RESIDUAL, CAPACITY).double()
    assert square == pytest.approx(float(x.square().sum(dim=1).mean()))
    torch.testing.assert_close(mean, x.mean(dim=0).float())


@pytest.mark.parametrize("served", [0, 1, 4, 6, 13])
def test_restored_buffer_continues_bit_for_bit(
    tiny_model: Gemma2ForCausalLM, text: Text, served: int
) -> None:
    sites = [RESIDUAL, MLP]
    with _buffer(tiny_model, text, sites) as buffer:
        buffer.begin()
        for _ in range(served):
            buffer.batch()
        state = buffer.state()
        expected = [buffer.batch() for _ in range(10)]
    with _buffer(tiny_model, text, sites) as restored:
        restored.restore(state)
        for batch in expected:
            result = restored.batch()
            assert all(torch.equal(result[site], batch[site]) for site in sites)


def test_the_buffer_is_never_larger_than_the_run_needs() -> None:
    for buffer_tokens, steps, batch in (
        (2**19, 100_000 // 4_096, 4_096),
        (2**20, 1, 64),
        (99, 9, 5),
    ):
        capacity = buffer_capacity(buffer_tokens, steps, batch)
        harvest, held = ActivationBuffer.sizes(capacity, batch)
        assert held <= max(min(buffer_tokens, steps * batch), 2 * batch)
        assert harvest % batch == 0
    # A long run has the buffer that it asks for.
    assert buffer_capacity(2**19, 100_000, 4_096) == 2**19


def test_filling_says_how_far_it_is(tiny_model: Gemma2ForCausalLM, text: Text) -> None:
    told: list[int] = []
    with _buffer(tiny_model, text) as buffer:
        buffer.begin(told.append)
        assert sum(told) == buffer.tokens_held
        assert len(told) > 3
        for _ in range(9):
            buffer.batch()
        state = buffer.state()
    told.clear()
    with _buffer(tiny_model, text) as restored:
        restored.restore(state, told.append)
        assert sum(told) == restored.tokens_to_restore(state) == 2 * restored.harvest_tokens


def test_a_state_of_another_size_is_refused(tiny_model: Gemma2ForCausalLM, text: Text) -> None:
    """Before the buffer was made for the run, it was larger in short ones."""
    with _buffer(tiny_model, text) as buffer:
        buffer.begin()
        state = buffer.state()
        for other in ({"harvest": 320}, {"served": 320}):
            with pytest.raises(ValueError, match="was begun by another version, with a buffer of"):
                buffer.restore(state | other)
        older = {name: value for name, value in state.items() if name != "harvest"}
        buffer.restore(older)


def test_rows_per_forward() -> None:
    assert rows_per_forward(512, 2**20) == 64
    assert rows_per_forward(1_024, 2**20) == 32
    assert rows_per_forward(16, tiny.D_MODEL * 8) == 8
    assert rows_per_forward(8_192, 1_000) == 1
