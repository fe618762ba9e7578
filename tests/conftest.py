"""Session fixtures for every test: processor only, offline, one thread, deterministic."""

import os

# Before any import of the libraries that read them.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_MODE"] = "disabled"

from pathlib import Path

import pytest
import torch
from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast

from tests import tiny

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, 384 tokens, `<pad>/<eos>/<bos>` = 0/1/2, BOS before every text."""
    return tiny.make_tokenizer()


@pytest.fixture(scope="session")
def tiny_model() -> Gemma2ForCausalLM:
    """Random Gemma 2 (d_model 32, 3 layers). Shared: a test that changes it must put it back."""
    return tiny.make_model()


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parquet file of 60 short documents: source, license, title, text."""
    return tiny.make_corpus(tmp_path_factory.mktemp("corpus") / "tiny.parquet")
