"""A tiny chat model: Gemma 2's template and turn markers on the tiny tokenizer, and two SAEs.

Plain functions like those of `tests.tiny`, with nothing learned.
"""

from pathlib import Path

import torch
from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast

from sae_core.bundle import Bundle, write_bundle
from sae_core.config import Site
from sae_core.formats.saelens import load_sae, save_sae
from sae_core.index import IndexConfig, build_index
from tests import tiny

START, END = "<start_of_turn>", "<end_of_turn>"
"""Ids 384 and 385."""

GEMMA_2 = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""The template of google/gemma-2-2b-it: no system turn, texts trimmed."""

CHATML = (
    "{% for message in messages %}"
    "{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>assistant\n' }}{% endif %}"
)
"""ChatML's layout with Gemma's markers: system turns, texts as they are, and no BOS."""

SAES = {"early": Site("mlp_out", 0), "late": Site("resid_post", 1)}
"""The tiny chat bundle's SAEs."""


def make_tokenizer(template: str = GEMMA_2) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with markers of turns and a chat template."""
    tokenizer = tiny.make_tokenizer()
    tokenizer.add_tokens([START, END], special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer


def make_model(tokenizer: PreTrainedTokenizerFast) -> Gemma2ForCausalLM:
    """The tiny model, its vocabulary enlarged for the markers."""
    model = tiny.make_model(seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return model.requires_grad_(False)


def make_bundle(folder: Path, corpus: Path, template: str = GEMMA_2) -> Bundle:
    """A bundle of the chat model and `SAES`, each indexed on all of `corpus`."""
    tokenizer = make_tokenizer(template)
    model = make_model(tokenizer)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for number, (name, site) in enumerate(SAES.items()):
        save_sae(tiny.make_sae(model, tokenizer, site, seed=number), folder / "saes" / name)
    bundle = write_bundle(
        folder,
        name="tiny-chat",
        title="A random chat model of the Gemma 2 architecture.",
        model="model",
        saes=list(SAES),
    )
    for name in SAES:
        config = IndexConfig(corpus=(str(corpus),))
        sae = load_sae(folder / "saes" / name)
        build_index(model, tokenizer, sae, config, bundle.index_path(name))
    return bundle
