"""Tokens as text: exact for byte-level BPE and for SentencePiece, special tokens apart."""

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from sae_core.tokens import (
    TokenStream,
    encode_text,
    partial_bytes,
    special_ids,
    token_texts,
    vocabulary,
)
from tests.tiny import BOS, HOSTILE

TEXTS = ["", "plain words", "Café naïve 日本語 🙂🙂\n\tx", HOSTILE, "  spaces   and <eos> <bos>"]


@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_texts_join_to_the_text(tiny_tokenizer: Any, text: str) -> None:
    ids = encode_text(tiny_tokenizer, text)
    assert ids[0] == tiny_tokenizer.bos_token_id
    assert ids.count(tiny_tokenizer.bos_token_id) == 1
    assert not set(ids[1:]) & special_ids(tiny_tokenizer)
    vocab = vocabulary(tiny_tokenizer)
    result = token_texts(ids, vocab)
    assert len(result) == len(ids)
    assert "".join(result) == BOS + text
    stream = TokenStream(vocab)
    assert "".join(stream.push(i) for i in ids) == BOS + text


def test_a_character_appears_at_its_last_token(tiny_tokenizer: Any) -> None:
    ids = encode_text(tiny_tokenizer, "日")[1:]
    assert token_texts(ids, vocabulary(tiny_tokenizer)) == ["", "", "日"]
    assert token_texts(ids[:2], vocabulary(tiny_tokenizer)) == ["", "�"]


def test_tokens_without_a_character_say_their_bytes() -> None:
    vocabulary = [b"a", b"\xf0", b"\x9f\x98", b"\x80", b"\xff", b" b"]
    ids = [0, 1, 2, 3, 5, 4, 0]
    texts = token_texts(ids, vocabulary)
    assert texts == ["a", "", "", "😀", " b", "\N{REPLACEMENT CHARACTER}", "a"]
    assert partial_bytes(ids, texts, vocabulary) == ["", "F0", "9F 98", "", "", "FF", ""]


def test_tokens_without_a_glyph_say_their_bytes_too() -> None:
    texts = ["\N{ZERO WIDTH JOINER}", "\r", "\r\n", " ", "\N{THAI CHARACTER SARA II}", "\x1b"]
    vocabulary = [text.encode() for text in texts]
    result = partial_bytes(range(len(texts)), texts, vocabulary)
    assert result == ["E2 80 8D", "0D", "", "", "", "1B"]


def test_max_tokens_counts_bos(tiny_tokenizer: Any) -> None:
    whole = encode_text(tiny_tokenizer, "The river follows the harbour at noon.")
    assert (
        encode_text(tiny_tokenizer, "The river follows the harbour at noon.", max_tokens=4)
        == (whole[:4])
    )


def test_sentencepiece_like_gemma() -> None:
    """Spaces are marks, bytes have names, runs of spaces are added tokens but no specials."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<0xE6>", "<0x97>", "<0xA5>", "▁a", "b", "▁"]
    bpe = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], byte_fallback=True))
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    tokenizer.add_tokens(["▁▁", "\n\n"])
    vocab = vocabulary(tokenizer)
    assert vocab[2] == b"<bos>"
    assert vocab[7:] == [b" a", b"b", b" ", b"  ", b"\n\n"]
    assert token_texts([2, 7, 10, 4, 5, 6, 8], vocab) == ["<bos>", " a", "  ", "", "", "日", "b"]
