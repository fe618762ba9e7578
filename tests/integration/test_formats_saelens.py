"""What SAELens writes we read, and what we write it reads; Gemma Scope's layouts both read alike.

Encoding and decoding agree to 1e-5 each way, for every architecture that both sides have.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from sae_core.config import Architecture, Site
from sae_core.formats import read_sae, write_sae
from tests.formats_support import (
    ALL,
    D_MODEL,
    D_OUT,
    D_SAE,
    K,
    assert_agree,
    inputs,
    random_sae,
    randomise,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


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
