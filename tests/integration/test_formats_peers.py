"""What SAELens, dictionary_learning and sparsify write we read, and what we write they read.

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
from tests.formats_support import ALL, D_MODEL, D_OUT, D_SAE, K, inputs, random_sae

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def assert_agree(encode: Any, decode: Any, ours: SAE) -> None:
    """Their functions and our SAE give the same activations and, from these, the same output."""
    x = inputs()
    acts = ours.encode(x)
    assert 0 < int(acts.count_nonzero()) < acts.numel()
    torch.testing.assert_close(encode(x), acts, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decode(acts), ours.decode(acts), atol=1e-5, rtol=1e-5)


def randomise(module: torch.nn.Module) -> None:
    """Random parameters; thresholds above 0."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in module.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator) / 3
        parameter.data = drawn.abs() if name == "threshold" else drawn


# SAELens


def saelens_sae(architecture: str, **changes: Any) -> Any:
    """One of SAELens' inference SAEs with random weights."""
    from sae_lens import registry

    sae_class, config_class = registry.get_sae_class(architecture)
    fields = {"d_in": D_MODEL, "d_sae": D_SAE, "apply_b_dec_to_input": False}
    if "transcoder" in architecture:
        fields["d_out"] = D_OUT
    if architecture == "topk":
        fields["k"] = K
    config = config_class(**(fields | changes))
    config.metadata.hook_name = "blocks.2.hook_resid_post"
    config.metadata.hook_name_out = "blocks.2.hook_mlp_out"
    config.metadata.model_name = "gemma-2-2b"
    sae = sae_class(config)
    randomise(sae)
    return sae


@pytest.mark.parametrize("apply_b_dec", [False, True])
@pytest.mark.parametrize("architecture", ALL)
def test_we_read_saelens(architecture: str, apply_b_dec: bool, tmp_path: Path) -> None:
    theirs = saelens_sae(architecture, apply_b_dec_to_input=apply_b_dec)
    theirs.save_model(tmp_path)
    ours = read_sae(tmp_path)
    assert ours.cfg.site == Site("resid_post", 2)
    assert_agree(theirs.encode, theirs.decode, ours)


@pytest.mark.parametrize("apply_b_dec", [False, True])
def test_we_read_saelens_topk_by_decoder_norm(apply_b_dec: bool, tmp_path: Path) -> None:
    theirs = saelens_sae(
        "topk", rescale_acts_by_decoder_norm=True, apply_b_dec_to_input=apply_b_dec
    )
    theirs.save_model(tmp_path)
    assert_agree(theirs.encode, theirs.decode, read_sae(tmp_path))


TRANSCODERS = (
    ("transcoder", "standard", False),
    ("skip_transcoder", "standard", True),
    ("jumprelu_transcoder", "jumprelu", False),
    ("jumprelu_skip_transcoder", "jumprelu", True),
)


@pytest.mark.parametrize(("name", "architecture", "skip"), TRANSCODERS)
def test_we_read_saelens_transcoders(
    name: str, architecture: Architecture, skip: bool, tmp_path: Path
) -> None:
    theirs = saelens_sae(name)
    theirs.save_model(tmp_path)
    ours = read_sae(tmp_path)
    assert (ours.cfg.architecture, ours.cfg.skip, ours.cfg.d_out) == (architecture, skip, D_OUT)
    assert ours.cfg.site_out == Site("mlp_out", 2)
    assert_agree(theirs.encode, theirs.decode, ours)
    x = inputs()
    torch.testing.assert_close(theirs(x), ours(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "architecture", "skip"), TRANSCODERS)
def test_saelens_reads_our_transcoders(
    name: str, architecture: Architecture, skip: bool, tmp_path: Path
) -> None:
    import sae_lens

    ours = random_sae(architecture, transcoder=True, skip=skip, d_out=D_OUT)
    write_sae(ours, tmp_path / "sae", "saelens")
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "sae", device="cpu")
    assert theirs.cfg.architecture() == name
    assert theirs.cfg.metadata.hook_name_out == "blocks.2.hook_mlp_out"
    assert_agree(theirs.encode, theirs.decode, ours)
    x = inputs()
    torch.testing.assert_close(theirs(x), ours(x), atol=1e-5, rtol=1e-5)


def test_saelens_refuses_transcoders_that_it_does_not_have(tmp_path: Path) -> None:
    import sae_lens

    write_sae(random_sae("topk", transcoder=True, skip=True), tmp_path / "sae", "saelens")
    with pytest.raises(Exception, match="topk_skip_transcoder"):
        sae_lens.SAE.load_from_disk(tmp_path / "sae", device="cpu")


@pytest.mark.parametrize("by_decoder_norm", [False, True])
@pytest.mark.parametrize("matryoshka", [False, True])
def test_we_read_what_saelens_trained_with_a_batch_topk(
    matryoshka: bool, by_decoder_norm: bool, tmp_path: Path
) -> None:
    """What it publishes is a JumpReLU SAE; a checkpoint of the training is read as that."""
    import sae_lens

    fields: dict[str, Any] = {
        "d_in": D_MODEL,
        "d_sae": D_SAE,
        "k": K,
        "apply_b_dec_to_input": True,
        "rescale_acts_by_decoder_norm": by_decoder_norm,
    }
    if matryoshka:
        config = sae_lens.MatryoshkaBatchTopKTrainingSAEConfig(
            **fields, matryoshka_widths=[10, D_SAE]
        )
        training: Any = sae_lens.MatryoshkaBatchTopKTrainingSAE(config)
    else:
        training = sae_lens.BatchTopKTrainingSAE(sae_lens.BatchTopKTrainingSAEConfig(**fields))
    randomise(training)
    training.topk_threshold += 0.4
    training.cfg.metadata.l0 = 6.5
    training.cfg.metadata.num_dead_features = 3
    training.save_model(tmp_path / "checkpoint")
    training.save_inference_model(tmp_path / "sae")
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "sae", device="cpu")
    for folder in ("sae", "checkpoint"):
        ours = read_sae(tmp_path / folder)
        assert ours.cfg.architecture == "jumprelu"
        assert ours.cfg.metadata["declared"] == {"l0": 6.5, "dead_features": 3}
        assert_agree(theirs.encode, theirs.decode, ours)
    training.topk_threshold.zero_()
    training.save_model(tmp_path / "early")
    with pytest.raises(ValueError, match="before its threshold was estimated"):
        read_sae(tmp_path / "early")


@pytest.mark.parametrize("architecture", ["jumprelu", "standard", "gated", "topk"])
def test_we_fold_the_scale_of_a_saelens_checkpoint(
    architecture: Architecture, tmp_path: Path
) -> None:
    """A checkpoint takes scaled activations; SAELens folds the scale when training ends."""
    from sae_lens.training.activation_scaler import ActivationScaler

    theirs = saelens_sae(
        architecture, normalize_activations="expected_average_only_in", apply_b_dec_to_input=True
    )
    theirs.save_model(tmp_path)
    ActivationScaler(0.37).save(str(tmp_path / "activation_scaler.json"))
    theirs.fold_activation_norm_scaling_factor(0.37)
    assert_agree(theirs.encode, theirs.decode, read_sae(tmp_path))


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
    stand_ins["nnsight"].LanguageModel = object  # type: ignore[attr-defined]
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


# Gemma Scope's layouts, which SAELens reads from the hub


def test_gemma_scope_2_transcoders_agree_with_saelens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loader, with the download taken out, on the files that we write."""
    import sae_lens
    from sae_lens.loading import pretrained_sae_loaders as loaders

    ours = random_sae("jumprelu", transcoder=True, skip=True)
    folder = tmp_path / "transcoder_all" / "layer_2_width_16k_l0_small_affine"
    write_sae(ours, folder, "gemma_scope_2")

    def local(repo_id: str, filename: str, subfolder: str = "", **_: Any) -> str:
        return str(tmp_path / subfolder / filename)

    monkeypatch.setattr(loaders, "hf_hub_download", local)
    shapes = {"w_enc": [D_MODEL, D_SAE], "w_dec": [D_SAE, D_MODEL]}
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", lambda *_: shapes)
    theirs = sae_lens.SAE.from_pretrained(
        "google/gemma-scope-2-1b-pt",
        "transcoder_all/layer_2_width_16k_l0_small_affine",
        converter=loaders.gemma_3_sae_huggingface_loader,
    )
    x = inputs()
    assert_agree(theirs.encode, theirs.decode, ours)
    torch.testing.assert_close(theirs(x), ours(x), atol=1e-5, rtol=1e-5)


def test_gemma_scope_agrees_with_saelens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sae_lens
    from sae_lens.loading import pretrained_sae_loaders as loaders

    ours = random_sae("jumprelu")
    folder = "layer_2/width_16k/average_l0_71"
    write_sae(ours, tmp_path / folder, "gemma_scope")

    def local(repo_id: str, filename: str, subfolder: str = "", **_: Any) -> str:
        return str(tmp_path / subfolder / filename)

    monkeypatch.setattr(loaders, "hf_hub_download", local)

    def converter(*args: Any, cfg_overrides: Any = None, **kwargs: Any) -> Any:
        sizes = {"d_in": D_MODEL, "d_sae": D_SAE}  # it takes the published ones from the names
        overrides = (cfg_overrides or {}) | sizes
        return loaders.gemma_2_sae_huggingface_loader(*args, cfg_overrides=overrides, **kwargs)

    theirs: Any = sae_lens.SAE.from_pretrained(
        "google/gemma-scope-2b-pt-res", folder, converter=converter
    )
    assert theirs.cfg.metadata.hook_name == "blocks.2.hook_resid_post"
    assert_agree(theirs.encode, theirs.decode, read_sae(tmp_path / folder))


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
