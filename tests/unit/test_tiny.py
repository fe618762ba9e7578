"""The fixtures themselves: deterministic, offline, and shaped as documented."""

import jaxtyping
import pytest
import torch
from transformers import AutoTokenizer

from sae_core.sites import activations
from sae_core.tokens import encode_text
from tests import tiny


def test_tokenizer_puts_one_bos_and_round_trips_any_text(tiny_tokenizer, tmp_path):
    for row in tiny.tiny_documents(3):
        ids = tiny_tokenizer.encode(row["text"])
        assert ids[0] == 2
        assert ids.count(2) == 1
        assert tiny_tokenizer.decode(ids, skip_special_tokens=True) == row["text"]
    tiny_tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.encode(tiny.HOSTILE) == tiny_tokenizer.encode(tiny.HOSTILE)


def test_special_ids(tiny_tokenizer):
    ids = (tiny_tokenizer.pad_token_id, tiny_tokenizer.eos_token_id, tiny_tokenizer.bos_token_id)
    assert ids == (0, 1, 2)
    assert len(tiny_tokenizer) == tiny.VOCAB_SIZE


def test_model_and_tokenizer_are_the_same_each_time(tiny_model, tiny_tokenizer):
    text = tiny.tiny_documents()[5]["text"]
    ids = tiny.make_tokenizer().encode(text)
    assert ids == tiny_tokenizer.encode(text)
    tokens = torch.tensor([ids])
    assert torch.equal(tiny.make_model()(tokens).logits, tiny_model(tokens).logits)


def test_making_the_model_leaves_the_random_state_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    tiny.make_model()
    assert torch.equal(torch.rand(3), expected)


def test_sae_fires_as_documented(tiny_model, tiny_tokenizer, tiny_sae):
    active = []
    for row in tiny.tiny_documents():
        ids = torch.tensor([encode_text(tiny_tokenizer, row["text"])])
        x = activations(tiny_model, ids, [tiny.SITE])[tiny.SITE][0, 1:]
        active.append(tiny_sae.encode(x) > 0)
    frequency = torch.cat(active).float().mean(dim=0)
    assert frequency[tiny.DEAD] == 0
    assert 0.4 < frequency[tiny.ALWAYS] < 0.6
    others = frequency[1 : tiny.DEAD]
    assert others.min() > 0.05
    assert others.max() < 0.1
    assert 4 < frequency.sum() < 7


def test_shapes_are_checked_in_tests(tiny_sae):
    with pytest.raises(jaxtyping.TypeCheckError, match="decode"):
        tiny_sae.decode(torch.zeros(2, tiny.D_SAE, dtype=torch.long))
