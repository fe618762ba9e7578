"""A tiny Gemma 2, tokenizer, corpus, SAE and bundle, all made here: offline, random, the same each time.

Nothing has learned anything: the model's weights are random, and the SAE's directions too. What
tests need is exact arithmetic on realistic shapes, not meaning. The pieces are plain functions, so
that a test may also build a second, different one; `conftest.py` offers them as session fixtures.
"""

import json
import random
from pathlib import Path

import duckdb
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

PAD, EOS, BOS = "<pad>", "<eos>", "<bos>"
"""Special tokens; their ids are 0, 1 and 2."""

VOCAB_SIZE = 384
"""3 specials, 256 bytes, and the merges learned from the tiny corpus."""

D_MODEL = 32
N_LAYERS = 3
D_SAE = 64

ALWAYS = 0
"""The tiny SAE's feature that fires on about half of the tokens (high-frequency)."""

DEAD = D_SAE - 1
"""The tiny SAE's feature that never fires."""

SAE_NAME = "tiny"
"""Name of the tiny bundle's SAE."""

HOSTILE = "<img src=x onerror=alert(1)> ${alert(1)} {{7*7}} `a` \\n </script> & \"q\" 'q'"
"""A text that must be shown as text, wherever it is shown."""

_SUBJECTS = (
    "The river",
    "A student",
    "The old clock",
    "My neighbour",
    "The ship",
    "Every function",
)
_VERBS = ("follows", "remembers", "returns", "carries", "measures", "ignores")
_OBJECTS = ("the harbour", "two letters", "an empty list", "the morning train", "a red lamp", "it")
_ENDS = ("at noon.", "in the winter of 1912.", "for no reason.", "without a sound.", "again!")
_SOURCES = (("stories", "CC0-1.0"), ("manuals", "MIT"), ("letters", "public domain"))


def tiny_documents(count: int = 60, seed: int = 0) -> list[dict[str, str]]:
    """`count` short documents with source, license, title and text; the first is non-ASCII, the second hostile."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        source, license_ = _SOURCES[number % len(_SOURCES)]
        sentences = [
            " ".join(rng.choice(part) for part in (_SUBJECTS, _VERBS, _OBJECTS, _ENDS))
            for _ in range(rng.randint(2, 9))
        ]
        text = " ".join(sentences)
        if number == 0:
            text = "Café au lait, naïve Übung: 日本語のテキスト 🙂🙂. " + text
        if number == 1:
            text = f"{HOSTILE} {text}"
        rows.append(
            {"source": source, "license": license_, "title": f"Document {number}", "text": text}
        )
    return rows


def make_corpus(path: Path, count: int = 60, seed: int = 0) -> Path:
    """Write `tiny_documents` to a Parquet file at `path`, in order, and return `path`."""
    rows = [tuple(row.values()) for row in tiny_documents(count, seed)]
    with duckdb.connect() as con:
        con.execute("CREATE TABLE docs (source TEXT, license TEXT, title TEXT, text TEXT)")
        con.executemany("INSERT INTO docs VALUES (?, ?, ?, ?)", rows)
        con.execute("COPY docs TO ? (FORMAT parquet)", [str(path)])
    return path


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `VOCAB_SIZE` tokens that puts BOS before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, EOS, BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([row["text"] for row in tiny_documents()], trainer)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )


def make_model(seed: int = 0) -> Gemma2ForCausalLM:
    """A random Gemma 2 in float32: 3 layers, sliding window of 8 tokens on every other, soft caps, eager attention."""
    config = Gemma2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=D_MODEL,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=64,
        max_position_embeddings=256,
        sliding_window=8,
        query_pre_attn_scalar=16,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        initializer_range=0.2,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        attn_implementation="eager",
    )
    # fork_rng: making a fixture must not move the random numbers of the test that asks for it.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Gemma2ForCausalLM(config)
    return model.to(torch.float32).eval().requires_grad_(False)
