"""Session fixtures for every test: CPU only, offline, one thread, deterministic."""

import os

# Before any import of the libraries that read them.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_MODE"] = "disabled"

from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast

# Shapes and types of the library's signatures are checked while tests run, and only then; so this
# comes before the library is imported. Not in its index and notes: checked functions outlive the
# interpreter, and DuckDB reports each of its types that their annotations keep alive as a leak. Not
# in jumprelu: training compiles it, and torch.compile cannot see through the checks. Nor where
# annotations name what is imported later, so that pages need no PyTorch.
LIBRARY = Path(__file__).parents[1] / "sae_core"
UNCHECKED = ("__init__", "bundle", "index", "jumprelu", "notes", "sources")
CHECKED = [f"sae_core.{p.stem}" for p in LIBRARY.iterdir() if p.stem not in UNCHECKED]
jaxtyping.install_import_hook(CHECKED, "beartype.beartype")

from sae_core.bundle import Bundle
from sae_core.formats.saelens import load_sae, save_sae
from sae_core.sae import SAE
from tests import tiny, tiny_chat
from tests.hub import Hub
from tests.hub_client import Client
from tests.hub_repos import publish_all

torch.set_num_threads(1)


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """For tests of a user's mistakes: the annotations' check would answer before our sentence."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session", autouse=True)
def _own_data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the person at this machine keeps is neither read nor written."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, 384 tokens, `<pad>/<eos>/<bos>` = 0/1/2, BOS before every text."""
    return tiny.make_tokenizer()


@pytest.fixture(scope="session")
def tiny_model() -> Gemma2ForCausalLM:
    """Random Gemma 2 (d_model 32, 3 layers). Shared: a test that changes it must put it back."""
    return tiny.make_model()


@pytest.fixture(autouse=True)
def _tiny_model_is_left_as_found(request: pytest.FixtureRequest) -> Iterator[None]:
    """A hook that stays on the shared model fails the test that left it, not a later one."""
    yield
    if "tiny_model" in request.fixturenames:
        model: Gemma2ForCausalLM = request.getfixturevalue("tiny_model")
        left = [n for n, m in model.named_modules() if m._forward_hooks or m._forward_pre_hooks]
        assert not left, f"hooks left on {', '.join(left)}"


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parquet file of 60 short documents: source, license, title, text."""
    return tiny.make_corpus(tmp_path_factory.mktemp("corpus") / "tiny.parquet")


@pytest.fixture(scope="session")
def tiny_sae_folder(
    tiny_model: Gemma2ForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The tiny SAE on disk, as `save_sae` writes it."""
    folder = tmp_path_factory.mktemp("saes") / tiny.SAE_NAME
    save_sae(tiny.make_sae(tiny_model, tiny_tokenizer), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_sae(tiny_sae_folder: Path) -> SAE:
    """JumpReLU SAE of 64 features at resid_post/1. Shared: do not change it."""
    return load_sae(tiny_sae_folder)


@pytest.fixture(scope="session")
def tiny_bundle(
    tiny_model: Gemma2ForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tiny_sae: SAE,
    tiny_corpus: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    """A bundle of the tiny model, its SAE and its index. Shared: do not write into its folder."""
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    return tiny.make_bundle(folder, tiny_model, tiny_tokenizer, tiny_sae, tiny_corpus)


@pytest.fixture(scope="session")
def hub(
    tiny_model: Gemma2ForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Hub]:
    """A hub on 127.0.0.1 with tiny repositories of the published layouts (`tests.hub_repos`)."""
    hub = Hub()
    publish_all(hub, tmp_path_factory.mktemp("published"), tiny_model, tiny_tokenizer)
    hub.start()
    yield hub
    hub.stop()


@pytest.fixture(scope="session")
def chat_bundle(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny chat model with two indexed SAEs, at different sites. Shared: do not write into it."""
    return tiny_chat.make_bundle(tmp_path_factory.mktemp("bundle") / "chat", tiny_corpus)


@pytest.fixture
def client(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """The hub's client in this process, set to `hub` and to an empty cache."""
    client = Client(hub, tmp_path / "huggingface", monkeypatch)
    yield client
    client.close()
