"""A tiny GPT-2 without BOS whose first position is an attention sink, as Qwen's are.

The position's learned embedding is made long, so that the stream there is as long at every layer;
nothing else of the random model is changed. Its configuration names a BOS, as Qwen's does, which
its tokenizer does not have.
"""

import copy
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from sae_core.config import SAEConfig, Site
from sae_core.sae import SAE
from sae_core.sites import activations
from sae_core.tokens import encode_text
from tests import tiny

SITE = Site("resid_post", 1)
CONTEXT = 32


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The tiny tokenizer without BOS."""
    backend = Tokenizer.from_str(tiny.make_tokenizer().backend_tokenizer.to_str())
    backend.post_processor = None  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=tiny.EOS,
        pad_token=tiny.PAD,
        clean_up_tokenization_spaces=False,
    )


def make_model(length: float) -> GPT2LMHeadModel:
    """A random GPT-2 whose first position's activations are about `length` times as long as the
    others'; 1: as they came.
    """
    config = GPT2Config(
        vocab_size=tiny.VOCAB_SIZE,
        n_embd=tiny.D_MODEL,
        n_layer=3,
        n_head=4,
        n_positions=64,
        n_inner=64,
        initializer_range=0.2,
        bos_token_id=2,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config)
    model = model.float().eval().requires_grad_(False)
    if length != 1:
        ids = torch.tensor([encode_text(make_tokenizer(), tiny.tiny_documents()[5]["text"])[:64]])
        usual = activations(model, ids, [SITE])[SITE][0, 1:].norm(dim=-1).median()
        first = model.transformer.wpe.weight[0]
        first *= length * usual / first.norm()
    return model


def make_sae(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> SAE:
    """An SAE whose reconstruction is half of an activation's deviation, and that has one feature
    for the first position alone, which it reconstructs well.
    """
    tokens = [encode_text(tokenizer, row["text"])[:64] for row in tiny.tiny_documents()]
    x = [activations(model, torch.tensor([ids]), [SITE])[SITE][0] for ids in tokens]
    mean = torch.cat([each[1:] for each in x]).mean(0)
    first = torch.stack([each[0] - mean for each in x]).mean(0)
    d = tiny.D_MODEL
    # Positive and negative parts of each coordinate, and the first position's own direction.
    directions = torch.cat([torch.eye(d), -torch.eye(d), (first / first.norm())[None]])
    sae = SAE.build(
        SAEConfig(
            architecture="jumprelu",
            d_model=d,
            d_sae=len(directions),
            site=SITE,
            model_name="tiny-sink",
            prepend_bos=False,
            context_size=CONTEXT,
        )
    )
    sae.W_enc.data = directions.T.clone()
    sae.b_enc.data = -mean @ directions.T
    sae.W_dec.data = 0.6 * directions
    sae.b_dec.data = mean.clone()
    threshold = torch.full((len(directions),), 1e-3)
    threshold[-1] = 0.5 * first.norm()
    sae.W_dec.data[-1] *= 0.4 / 0.6
    sae.threshold.data = threshold  # pyright: ignore[reportAttributeAccessIssue]
    return copy.deepcopy(sae)


def save_model(folder: Path, length: float) -> str:
    """The model and its tokenizer in `folder`, which is returned."""
    make_model(length).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)
