"""A tiny Gemma 2, tokenizer, corpus, SAE and bundle, made here: offline, the same each time.

Nothing has learned anything: the model's weights are random, and the SAE's directions too. What
tests need is exact arithmetic on realistic shapes, not meaning. The pieces are plain functions, so
that a test may also build a second, different one; `conftest.py` has them as session fixtures.
"""

import random
from pathlib import Path

import duckdb
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

from sae_core.bundle import Bundle, write_bundle
from sae_core.config import SAEConfig, Site
from sae_core.formats.saelens import save_sae
from sae_core.index import IndexConfig, build_index
from sae_core.sae import SAE
from sae_core.sites import activations
from sae_core.tokens import encode_text

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

SITE = Site("resid_post", 1)
"""Where the tiny SAE reads."""

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
    """`count` short documents: source, license, title, text.

    The first holds characters of several bytes, the second is hostile.
    """
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
    """A random Gemma 2 in float32, eager attention.

    3 layers (every other one sees a sliding window of 8 tokens), both soft caps, tied embeddings.
    """
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
        attn_implementation="eager",  # pyright: ignore[reportCallIssue]
    )
    # fork_rng: making a fixture must not move the random numbers of the test that asks for it.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Gemma2ForCausalLM(config)
    return model.float().eval().requires_grad_(False)


def make_sae(
    model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerFast, site: Site = SITE, seed: int = 0
) -> SAE:
    """A JumpReLU SAE of `D_SAE` random unit directions whose thresholds are quantiles of the data.

    Over `tiny_documents` (BOS left out) every feature fires on 8 % of the tokens, so that about 6
    are active on each, but `ALWAYS` on half of them and `DEAD` on none; `b_dec` is the data's mean.
    """
    tokens = [encode_text(tokenizer, row["text"]) for row in tiny_documents()]
    x = torch.cat([activations(model, torch.tensor([ids]), [site])[site][0, 1:] for ids in tokens])
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(D_SAE, x.shape[1], generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    sae = SAE.build(
        SAEConfig(
            architecture="jumprelu",
            d_model=x.shape[1],
            d_sae=D_SAE,
            site=site,
            model_name="tiny-gemma-2",
            context_size=32,
            metadata={"training": {"note": "random directions, not trained"}},
        )
    )
    share = torch.full((D_SAE,), 0.08)
    share[ALWAYS] = 0.5
    mean = x.mean(dim=0)
    pre_acts = (x - mean) @ directions.T
    threshold = torch.stack(
        [column.quantile(1 - s) for column, s in zip(pre_acts.T, share.tolist(), strict=True)]
    )
    threshold[DEAD] = 2 * pre_acts[:, DEAD].max()
    sae.W_enc.data = directions.T.clone()
    sae.b_enc.data = -mean @ directions.T
    # Half of a direction: the reconstruction is then neither useless nor better than it should be.
    sae.W_dec.data = 0.5 * directions
    sae.b_dec.data = mean
    # A median below 0 would make a threshold below 0, which no trained SAE has.
    sae.threshold.data = threshold.clamp(min=1e-3)  # pyright: ignore[reportAttributeAccessIssue]
    return sae


def make_bundle(
    folder: Path,
    model: Gemma2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    sae: SAE,
    corpus: Path,
) -> Bundle:
    """A bundle of these parts in `folder`; its SAE, `SAE_NAME`, is indexed on all of `corpus`."""
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    save_sae(sae, folder / "saes" / SAE_NAME)
    bundle = write_bundle(
        folder,
        name="tiny",
        title="A random model of the Gemma 2 architecture.",
        model="model",
        saes=[SAE_NAME],
        examples={"prompts": ["The river follows the harbour at noon."]},
    )
    # Saving gave the SAE its content hash, which the index must name.
    build_index(
        model,
        tokenizer,
        bundle.load_sae(SAE_NAME),
        IndexConfig(corpus=(str(corpus),)),
        bundle.index_path(SAE_NAME),
    )
    return bundle
