"""Chunked attention is eager attention: the same bits in one block, the same numbers in several.

The model's caps are small and its window short, so that leaving either out shows.
"""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Gemma2Config, Gemma2ForCausalLM

from sae_core import attention
from sae_core.splice import SplicedLM
from tests import tiny

ROWS, LENGTH, HEADS, WINDOW = 2, 100, 4, 24
SEVERAL_BLOCKS = [ROWS * HEADS * LENGTH * size for size in (1, 7, 64, 99)]
"""Scores at once that make blocks of 1, 7, 64 and 99 queries."""

ONE_BLOCK = attention.MOST_SCORES

TOLERANCE = 2e-5
"""Largest difference of logits of about 5 in float32, whose terms were summed in another order."""


@pytest.fixture(scope="module")
def eager() -> Gemma2ForCausalLM:
    return model("eager")


@pytest.fixture(scope="module")
def chunked(eager: Gemma2ForCausalLM) -> Gemma2ForCausalLM:
    attention.register()
    other = copy.deepcopy(eager)
    other.set_attn_implementation(attention.CHUNKED)
    return other


@pytest.fixture(scope="module")
def ids() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, tiny.VOCAB_SIZE, (ROWS, LENGTH), generator=generator)


def model(implementation: str, **changes: Any) -> Gemma2ForCausalLM:
    settings: dict[str, Any] = {
        "vocab_size": tiny.VOCAB_SIZE,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 64,
        "max_position_embeddings": 256,
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 10.0,
        "initializer_range": 0.3,
        "attn_implementation": implementation,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Gemma2ForCausalLM(Gemma2Config(**(settings | changes)))
    return made.eval().requires_grad_(False)


def logits(of: Gemma2ForCausalLM, ids: Tensor, **options: Any) -> Tensor:
    with torch.no_grad():
        return of(input_ids=ids, use_cache=False, **options).logits


def test_one_block_gives_the_bits_of_eager(
    eager: Gemma2ForCausalLM, chunked: Gemma2ForCausalLM, ids: Tensor
) -> None:
    for length in (1, 2, 5, WINDOW, WINDOW + 1, LENGTH):
        part = ids[:, :length]
        assert torch.equal(logits(chunked, part), logits(eager, part)), length


def test_the_cap_and_the_window_matter_here(eager: Gemma2ForCausalLM, ids: Tensor) -> None:
    before = logits(eager, ids)
    for change in ({"attn_logit_softcapping": None}, {"sliding_window": 2 * WINDOW}):
        other = model("eager", **change)
        assert (logits(other, ids) - before).abs().max() > 1000 * TOLERANCE


@pytest.mark.parametrize("scores", [*SEVERAL_BLOCKS, 1])
def test_several_blocks_give_the_numbers_of_eager(
    scores: int,
    eager: Gemma2ForCausalLM,
    chunked: Gemma2ForCausalLM,
    ids: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "MOST_SCORES", scores)
    torch.testing.assert_close(logits(chunked, ids), logits(eager, ids), atol=TOLERANCE, rtol=0)


def test_several_blocks_in_bfloat16(
    eager: Gemma2ForCausalLM,
    chunked: Gemma2ForCausalLM,
    ids: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No further from float32 than eager is in bfloat16, give or take a quarter."""
    exact = logits(eager, ids)
    narrow = [copy.deepcopy(m).bfloat16() for m in (eager, chunked)]
    assert torch.equal(*(logits(m, ids) for m in narrow))
    monkeypatch.setattr(attention, "MOST_SCORES", SEVERAL_BLOCKS[1])
    theirs, ours = ((logits(m, ids).float() - exact).norm() for m in narrow)
    assert ours < 1.25 * theirs


@pytest.mark.parametrize("scores", [ONE_BLOCK, SEVERAL_BLOCKS[1]])
def test_with_a_cache_a_prompt_may_come_in_pieces(
    scores: int,
    eager: Gemma2ForCausalLM,
    chunked: Gemma2ForCausalLM,
    ids: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """60 tokens, then 7, then one at a time, past the window."""
    monkeypatch.setattr(attention, "MOST_SCORES", scores)
    pieces = [60, 7, *[1] * (LENGTH - 67)]

    def in_pieces(of: Gemma2ForCausalLM) -> Tensor:
        cache, result = None, []
        for piece in ids.split(pieces, dim=1):
            with torch.no_grad():
                output = of(input_ids=piece, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            result.append(output.logits)
        return torch.cat(result, dim=1)

    ours, theirs = in_pieces(chunked), in_pieces(eager)
    if scores == ONE_BLOCK:
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(ours, logits(eager, ids), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("scores", [ONE_BLOCK, SEVERAL_BLOCKS[1]])
def test_padded_rows_see_no_padding(
    scores: int,
    eager: Gemma2ForCausalLM,
    chunked: Gemma2ForCausalLM,
    ids: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "MOST_SCORES", scores)
    mask = torch.ones_like(ids)
    mask[0, :30] = 0
    ours, theirs = (logits(m, ids, attention_mask=mask) for m in (chunked, eager))
    real = mask.bool()
    torch.testing.assert_close(ours[real], theirs[real], atol=TOLERANCE, rtol=0)


def test_transformers_own_generation_takes_it(
    eager: Gemma2ForCausalLM, chunked: Gemma2ForCausalLM, ids: Tensor
) -> None:
    written = [
        m.generate(  # pyright: ignore[reportAttributeAccessIssue]
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False
        )
        for m in (eager, chunked)
    ]
    assert torch.equal(*written)


def test_gradients_are_those_of_eager(
    eager: Gemma2ForCausalLM,
    chunked: Gemma2ForCausalLM,
    ids: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "MOST_SCORES", SEVERAL_BLOCKS[1])
    result = []
    for of in (eager, chunked):
        x = of.get_input_embeddings()(ids).requires_grad_()
        of(inputs_embeds=x, use_cache=False).logits[:, -1, 7].sum().backward()
        result.append(x.grad)
    torch.testing.assert_close(*result, atol=TOLERANCE, rtol=1e-3)


def test_a_row_that_becomes_two_keeps_its_mask(
    tiny_model: Any, tiny_tokenizer: Any, tiny_sae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Analysis makes one row two in the middle of the model."""
    attention.register()
    other = copy.deepcopy(tiny_model)
    other.set_attn_implementation(attention.CHUNKED)
    a, b = (SplicedLM(m, tiny_tokenizer, {"tiny": tiny_sae}) for m in (tiny_model, other))
    prompt = [2, *range(40, 90)]
    before = a.analyse(prompt, "tiny").totals
    assert b.analyse(prompt, "tiny").totals == before
    monkeypatch.setattr(attention, "MOST_SCORES", 2 * 51 * 10)
    assert b.analyse(prompt, "tiny").totals == pytest.approx(before, abs=1e-4)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes; views of nothing do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.numel = max(self.numel, out.untyped_storage().nbytes() // out.element_size())
        return out


def test_no_array_grows_with_the_square_of_the_prompt(
    eager: Gemma2ForCausalLM,
    chunked: Gemma2ForCausalLM,
    ids: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither scores nor masks. Other arrays of the forward are at most 200 x 384."""
    monkeypatch.setattr(attention, "MOST_SCORES", 2**12)
    long = ids.repeat(1, 2)[:1]
    seen = []
    for of in (eager, chunked):
        with Largest() as largest, torch.no_grad():
            of.base_model(input_ids=long, use_cache=False)
        seen.append(largest.numel)
    length = long.shape[1]
    assert seen[0] == HEADS * length**2
    assert seen[1] < length**2 / 2


def test_what_it_cannot_do_it_refuses(
    chunked: Gemma2ForCausalLM, ids: Tensor, unchecked_types: None
) -> None:
    prepared = torch.ones(ROWS, 1, LENGTH, LENGTH, dtype=torch.bool)
    with pytest.raises(ValueError, match="give no 4D attention_mask"):
        logits(chunked, ids, attention_mask=prepared)
    layer = chunked.get_submodule("model.layers.0.self_attn")
    states = torch.zeros(1, HEADS, 3, 16)
    with pytest.raises(ValueError, match="Gemma2Attention makes no mask"):
        attention.chunked_attention(layer, states, states, states, None)
