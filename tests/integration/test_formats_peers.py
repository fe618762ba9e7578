"""What dictionary_learning and sparsify write we read, and what we write they read.

Encoding and decoding agree to 1e-5 each way, for every architecture that both sides have.
"""

import importlib
import importlib.util
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_core.config import Architecture, SAEConfig, Site
from sae_core.formats import Origin, read_sae, write_sae
from sae_core.sae import SAE
from tests.formats_support import (
    ALL,
    D_MODEL,
    D_SAE,
    K,
    assert_agree,
    inputs,
    random_sae,
    randomise,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


# dictionary_learning

ABSENT = ("nnsight", "zstandard")
"""What its loader imports, for training, and the tests do not install."""


@pytest.fixture(scope="module")
def dictionary_learning() -> Iterator[types.SimpleNamespace]:
    """Its dictionary classes and `load_dictionary`.

    The package's __init__ and the loader's module import nnsight, which is for gathering
    activations; importing it would bring hundreds of megabytes. So the package is entered past its
    __init__, and empty modules stand for what is absent.
    """
    spec = importlib.util.find_spec("dictionary_learning")
    if spec is None:
        pytest.skip("dictionary_learning is installed by make, without its requirements")
    package = types.ModuleType("dictionary_learning")
    package.__path__ = list(spec.submodule_search_locations or ())
    stand_ins = {name: types.ModuleType(name) for name in ABSENT}
    vars(stand_ins["nnsight"])["LanguageModel"] = object
    # It looks for zstandard as well, which is not to be found where a stand-in has its name.
    importlib.import_module("datasets")
    with pytest.MonkeyPatch.context() as patch:
        for name, module in ({"dictionary_learning": package} | stand_ins).items():
            patch.setitem(sys.modules, name, module)
        classes = importlib.import_module("dictionary_learning.dictionary")
        utils = importlib.import_module("dictionary_learning.utils")
        yield types.SimpleNamespace(
            AutoEncoder=classes.AutoEncoder,
            AutoEncoderNew=classes.AutoEncoderNew,
            GatedAutoEncoder=classes.GatedAutoEncoder,
            JumpReluAutoEncoder=classes.JumpReluAutoEncoder,
            AutoEncoderTopK=utils.AutoEncoderTopK,
            BatchTopKSAE=utils.BatchTopKSAE,
            MatryoshkaBatchTopKSAE=utils.MatryoshkaBatchTopKSAE,
            load_dictionary=utils.load_dictionary,
        )
        for name in [name for name in sys.modules if name.startswith("dictionary_learning.")]:
            del sys.modules[name]


CLASSES: dict[str, dict[str, Any]] = {
    "AutoEncoder": {},
    "AutoEncoderNew": {},
    "GatedAutoEncoder": {},
    "JumpReluAutoEncoder": {},
    "AutoEncoderTopK": {"k": K},
    "BatchTopKSAE": {"k": K},
    "MatryoshkaBatchTopKSAE": {"k": K, "group_sizes": [10, 40]},
}


@pytest.mark.parametrize("name", CLASSES)
def test_we_read_dictionary_learning(
    name: str, dictionary_learning: types.SimpleNamespace, tmp_path: Path
) -> None:
    theirs = getattr(dictionary_learning, name)(D_MODEL, D_SAE, **CLASSES[name])
    randomise(theirs)
    if name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        theirs.threshold += 1.3  # from -1, which means unset
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    trainer = {
        "dict_class": name,
        "activation_dim": D_MODEL,
        "dict_size": D_SAE,
        "layer": 5,
        "lm_name": "google/gemma-2-2b",
        "submodule_name": "resid_post_layer_5",
        **CLASSES[name],
    }
    config = {"trainer": trainer, "buffer": {"io": "out", "ctx_len": 128}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = read_sae(tmp_path)
    assert (ours.cfg.site, ours.cfg.context_size) == (Site("resid_post", 5), 128)
    # As their own loader has it, which for one class scales features.
    loaded, _ = dictionary_learning.load_dictionary(str(tmp_path), "cpu")
    assert_agree(loaded.encode, loaded.decode, ours)


@pytest.mark.parametrize("architecture", ALL)
def test_dictionary_learning_reads_ours(
    architecture: Architecture, dictionary_learning: types.SimpleNamespace, tmp_path: Path
) -> None:
    ours = random_sae(architecture)
    write_sae(ours, tmp_path / "sae", "dictionary_learning")
    theirs, config = dictionary_learning.load_dictionary(str(tmp_path / "sae"), "cpu")
    assert config["trainer"]["layer"] == 2
    assert_agree(theirs.encode, theirs.decode, ours)


# sparsify


@pytest.fixture(scope="module")
def sparsify() -> Any:
    """The package; on a machine with Triton its kernels would want a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSIFY_DISABLE_TRITON", "1")
        return importlib.import_module("sparsify")


def dense(theirs: Any, x: Tensor) -> Tensor:
    """sparsify's activations, which it keeps as values and indices, as a matrix."""
    result = theirs.encode(x)
    return torch.zeros(len(x), theirs.num_latents).scatter(-1, result.top_indices, result.top_acts)


def assert_sparsify_agrees(theirs: Any, ours: SAE) -> None:
    x = inputs()
    torch.testing.assert_close(dense(theirs, x), ours.encode(x), atol=1e-5, rtol=1e-5)
    result = theirs.encode(x)
    decoded = theirs.decode(result.top_acts, result.top_indices)
    torch.testing.assert_close(decoded, ours.decode(ours.encode(x)), atol=1e-5, rtol=1e-5)
    if not theirs.cfg.multi_topk:  # then its forward returns the output of its second loss, of 4 k
        torch.testing.assert_close(theirs(x).sae_out, ours(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("transcode", "skip"), [(False, False), (True, False), (True, True)], ids=str
)
def test_we_read_sparsify(transcode: bool, skip: bool, sparsify: Any, tmp_path: Path) -> None:
    config = sparsify.SparseCoderConfig(
        num_latents=D_SAE, k=K, transcode=transcode, skip_connection=skip, multi_topk=not transcode
    )
    theirs = sparsify.SparseCoder(D_MODEL, config)
    randomise(theirs)
    folder = tmp_path / "run" / "layers.4.mlp"
    theirs.save_to_disk(folder)
    run = {"sae": config.to_dict(), "model": "HuggingFaceTB/SmolLM2-135M", "ctx_len": 256}
    (tmp_path / "run" / "config.json").write_text(json.dumps(run))
    ours = read_sae(folder)
    site = Site("mlp_proj", 4)
    expected = (Site("mlp_in", 4), site) if transcode else (site, None)
    assert (ours.cfg.site, ours.cfg.site_out) == expected
    assert (ours.cfg.model_name, ours.cfg.context_size) == ("HuggingFaceTB/SmolLM2-135M", 256)
    assert_sparsify_agrees(theirs, ours)


@pytest.mark.parametrize(
    ("transcoder", "skip"), [(False, False), (True, False), (True, True)], ids=str
)
def test_sparsify_reads_ours(transcoder: bool, skip: bool, sparsify: Any, tmp_path: Path) -> None:
    ours = random_sae("topk", transcoder=transcoder, skip=skip)
    write_sae(ours, tmp_path / "layers.2", "sparsify")
    theirs = sparsify.SparseCoder.load_from_disk(tmp_path / "layers.2")
    assert_sparsify_agrees(theirs, ours)


def test_our_configuration_survives_each_peer(tmp_path: Path) -> None:
    """What their formats have no keys for comes back: they ignore ours, and we read them."""
    cfg: dict[str, Any] = {"prepend_bos": False, "metadata": {"measured": {"l0": 7.0}}}
    for to in ("dictionary_learning", "sparsify"):
        ours = random_sae("topk", **cfg)
        write_sae(ours, tmp_path / to, to)
        read = read_sae(tmp_path / to, origin=Origin()).cfg
        metadata = dict(read.metadata)
        assert metadata.pop("source") == {"format": to}
        assert metadata.pop("content_hash")
        assert metadata == ours.cfg.metadata
        kept = [getattr(read, f) for f in SAEConfig.__dataclass_fields__ if f != "metadata"]
        sent = [getattr(ours.cfg, f) for f in SAEConfig.__dataclass_fields__ if f != "metadata"]
        assert kept == sent
