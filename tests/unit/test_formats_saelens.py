"""SAELens' cfg.json through its versions, and our own use of its layout."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_core.config import Architecture, Site
from sae_core.formats import read_config, read_sae, write_sae
from sae_core.formats.hooks import gemma_module_name, site_of_hook, transformer_lens_name
from sae_core.formats.saelens import load_config, load_sae, save_sae
from sae_core.sae import SAE
from tests.formats_support import (
    ALL,
    D_MODEL,
    D_OUT,
    D_SAE,
    K,
    assert_same_function,
    assert_same_weights,
    inputs,
    random_sae,
)


def stored(folder: Path, sae: SAE, cfg: dict[str, Any], **tensors: torch.Tensor) -> Path:
    """A folder with these weights and this cfg.json."""
    folder.mkdir(exist_ok=True)
    own = {name: parameter.data for name, parameter in sae.named_parameters()}
    save_file(own | tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return folder


def nested(architecture: str = "jumprelu", **changes: Any) -> dict[str, Any]:
    """A cfg.json of version 6."""
    metadata = {
        "sae_lens_version": "6.20.0",
        "model_name": "gemma-2-2b",
        "hook_name": "blocks.4.hook_resid_post",
        "prepend_bos": False,
        "context_size": 1024,
    } | changes.pop("metadata", {})
    plain = {"d_in": D_MODEL, "d_sae": D_SAE, "dtype": "float32", "apply_b_dec_to_input": False}
    return plain | {"architecture": architecture, "metadata": metadata} | changes


def flat(**changes: Any) -> dict[str, Any]:
    """A cfg.json of version 3, whose keys are flat, with defaults of that time."""
    return {
        "d_in": D_MODEL,
        "d_sae": D_SAE,
        "dtype": "float32",
        "model_name": "gpt2-small",
        "hook_point": "blocks.4.hook_resid_pre",
        "hook_point_layer": 4,
        "hook_point_head_index": None,
        "activation_fn_str": "relu",
        "prepend_bos": True,
        "context_size": 128,
        "normalize_activations": None,
    } | changes


TRANSCODERS: list[tuple[Architecture, bool, str]] = [
    ("jumprelu", False, "jumprelu_transcoder"),
    ("jumprelu", True, "jumprelu_skip_transcoder"),
    ("standard", False, "transcoder"),
    ("standard", True, "skip_transcoder"),
    ("topk", True, "topk_skip_transcoder"),
    ("gated", False, "gated_transcoder"),
]


@pytest.mark.parametrize(("architecture", "skip", "name"), TRANSCODERS)
@pytest.mark.parametrize("d_out", [None, D_OUT])
def test_transcoders_round_trip(
    architecture: Architecture, skip: bool, name: str, d_out: int | None, tmp_path: Path
) -> None:
    sae = random_sae(architecture, transcoder=True, skip=skip, d_out=d_out)
    written = save_sae(sae, tmp_path / "sae")
    read = load_sae(tmp_path / "sae")
    assert read.cfg == written == load_config(tmp_path / "sae")
    assert_same_weights(read, sae)
    cfg = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert (cfg["architecture"], cfg["d_out"]) == (name, d_out or D_MODEL)
    if skip:  # SAELens has [d_out, d_in]
        shape = load_file(tmp_path / "sae" / "sae_weights.safetensors")["W_skip"].shape
        assert shape == (d_out or D_MODEL, D_MODEL)


@pytest.mark.parametrize("architecture", ALL)
def test_a_bias_taken_off_the_input_is_folded(architecture: Architecture, tmp_path: Path) -> None:
    sae = random_sae(architecture)
    cfg = nested(architecture, apply_b_dec_to_input=True, k=K)
    read = load_sae(stored(tmp_path, sae, cfg))
    x = inputs()
    expected = sae.encode(x - sae.b_dec)
    torch.testing.assert_close(read.encode(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read(x), sae.decode(expected), atol=1e-5, rtol=1e-5)


def test_what_version_6_leaves_out_is_its_default(tmp_path: Path) -> None:
    sae = random_sae("standard")
    cfg = nested("standard")
    del cfg["apply_b_dec_to_input"]
    read = load_sae(stored(tmp_path, sae, cfg))
    torch.testing.assert_close(
        read.encode(inputs()), sae.encode(inputs() - sae.b_dec), atol=1e-5, rtol=1e-5
    )


def test_flat_keys_of_versions_before_6(tmp_path: Path) -> None:
    sae = random_sae("standard")
    read = load_sae(stored(tmp_path, sae, flat()))
    assert (read.cfg.architecture, read.cfg.site) == ("standard", Site("resid_pre", 4))
    assert (read.cfg.model_name, read.cfg.context_size) == ("gpt2-small", 128)
    expected = sae.encode(inputs() - sae.b_dec)  # the default then
    torch.testing.assert_close(read.encode(inputs()), expected, atol=1e-5, rtol=1e-5)


def test_flat_keys_may_say_topk(tmp_path: Path) -> None:
    cfg = flat(activation_fn_str="topk", activation_fn_kwargs={"k": K}, apply_b_dec_to_input=False)
    sae = random_sae("topk")
    read = load_sae(stored(tmp_path, sae, cfg))
    assert read.cfg.k == K
    assert_same_weights(read, sae)


@pytest.mark.parametrize("normalised", [None, False, "none"])
def test_no_normalisation_is_written_in_three_ways(normalised: Any, tmp_path: Path) -> None:
    cfg = flat(normalize_activations=normalised, architecture="jumprelu")
    sae = random_sae()
    cfg["apply_b_dec_to_input"] = False
    assert_same_weights(load_sae(stored(tmp_path, sae, cfg)), sae)


def test_a_scale_that_lies_beside_is_folded(tmp_path: Path) -> None:
    sae = random_sae("gated")
    cfg = nested("gated", normalize_activations="expected_average_only_in")
    folder = stored(tmp_path, sae, cfg)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')
    read = load_sae(folder)
    acts = sae.encode(inputs() * 0.25)
    torch.testing.assert_close(read.encode(inputs()), acts, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read(inputs()), sae.decode(acts) / 0.25, atol=1e-5, rtol=1e-5)


def test_decoder_norms_are_folded_before_the_scale(tmp_path: Path) -> None:
    sae = random_sae("topk")
    cfg = nested(
        "topk",
        k=K,
        rescale_acts_by_decoder_norm=True,
        apply_b_dec_to_input=True,
        normalize_activations="expected_average_only_in",
    )
    folder = stored(tmp_path, sae, cfg)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 3.0}')
    read = load_sae(folder)
    pre = ((inputs() * 3 - sae.b_dec) @ sae.W_enc + sae.b_enc) * sae.W_dec.norm(dim=1)
    acts = sae.activate(pre)
    torch.testing.assert_close(read.encode(inputs()), acts, atol=1e-5, rtol=1e-5)
    recon = (acts / sae.W_dec.norm(dim=1)) @ sae.W_dec + sae.b_dec
    torch.testing.assert_close(read(inputs()), recon / 3, atol=1e-5, rtol=1e-5)


def test_a_dead_decoder_row_switches_its_feature_off(tmp_path: Path) -> None:
    sae = random_sae("topk")
    sae.W_dec.data[3] = 0
    cfg = nested("topk", k=K, rescale_acts_by_decoder_norm=True)
    read = load_sae(stored(tmp_path, sae, cfg))
    assert bool(read(inputs()).isfinite().all())
    assert not read.encode(inputs())[:, 3].any()


def test_log_thresholds_of_early_training_files(tmp_path: Path) -> None:
    sae = random_sae()
    folder = stored(tmp_path, sae, nested())
    tensors = load_file(folder / "sae_weights.safetensors")
    tensors["log_threshold"] = tensors.pop("threshold").log()
    save_file(tensors, folder / "sae_weights.safetensors")
    assert_same_function(load_sae(folder), sae)


def test_scaling_factors_that_are_1_are_left_out(tmp_path: Path) -> None:
    sae = random_sae("standard")
    cfg = flat(apply_b_dec_to_input=False)
    assert_same_weights(load_sae(stored(tmp_path, sae, cfg, scaling_factor=torch.ones(D_SAE))), sae)
    trained = torch.full((D_SAE,), 1.5)
    with pytest.raises(ValueError, match="trained scaling factors"):
        load_sae(stored(tmp_path, sae, cfg, scaling_factor=trained))


def test_a_threshold_below_0_acts_as_0(tmp_path: Path) -> None:
    sae = random_sae()
    sae.get_parameter("threshold").data.fill_(-1.0)
    read = load_sae(stored(tmp_path, sae, nested()))
    pre = inputs() @ sae.W_enc + sae.b_enc
    assert torch.equal(read.encode(inputs()), pre.relu())


@pytest.mark.parametrize(
    ("metadata", "site"),
    [
        ({"hook_name": "blocks.3.hook_resid_mid"}, "resid_mid/3"),
        ({"hook_name": "blocks.3.hook_mlp_out"}, "mlp_out/3"),
        ({"hook_name": "blocks.3.hook_mlp_in"}, "resid_mid/3"),
        ({"hook_name": "blocks.3.mlp.hook_in"}, "mlp_in/3"),
        ({"hook_name": "blocks.3.ln2.hook_normalized"}, "mlp_in_unit/3"),
        ({"hook_name": "blocks.3.hook_attn_out"}, "attn_add/3"),
        ({"hook_name": "blocks.3.attn.hook_z"}, "attn_out/3"),
        ({"hook_name": "hook_embed"}, "resid_pre/0"),
        ({"hook_name": "hook_embed", "model_name": "gpt2-small"}, None),
        ({"hook_name": "blocks.3.attn.hook_q"}, None),
        ({"hook_name": "blocks.3.attn.hook_z", "hook_head_index": 2}, None),
        ({"hook_name": ""}, None),
        ({"hook_name": "model.layers.3"}, "resid_post/3"),
        ({"hook_name": "transformer.h.3.mlp"}, "mlp_proj/3"),
        (
            {
                "hook_name": "blocks.3.hook_mlp_in",
                "hf_hook_name": "model.layers.3.pre_feedforward_layernorm.output",
            },
            "mlp_in/3",
        ),
        (
            {"hook_name": "blocks.3.hook_resid_pre", "hf_hook_name": "model.layers.3.unheard_of"},
            "resid_pre/3",
        ),
        ({"hf_hook_name": "model.layers.3.post_attention_layernorm.output"}, "resid_post/4"),
    ],
)
def test_hooks_are_sites(metadata: dict[str, Any], site: str | None, tmp_path: Path) -> None:
    folder = stored(tmp_path, random_sae(), nested(metadata=metadata))
    result = read_config(folder).site
    assert (result and str(result)) == site


@pytest.mark.parametrize(
    "kind",
    [
        "resid_pre",
        "resid_mid",
        "resid_post",
        "mlp_in",
        "mlp_in_unit",
        "mlp_proj",
        "mlp_out",
        "attn_out",
        "attn_proj",
        "attn_add",
    ],
)
def test_names_of_sites_lead_back_to_them(kind: str) -> None:
    site = Site.parse(f"{kind}/11")
    assert site_of_hook(transformer_lens_name(site)) == site
    name = gemma_module_name(site)
    assert (site_of_hook(name) == site) if name else kind in ("mlp_in_unit", "attn_add")


def test_sites_of_transcoders_and_what_they_declare(tmp_path: Path) -> None:
    sae = random_sae(transcoder=True, skip=True)
    metadata = {
        "hook_name": "blocks.4.hook_mlp_in",
        "hook_name_out": "blocks.4.hook_mlp_out",
        "hf_hook_name": "model.layers.4.pre_feedforward_layernorm.output",
        "hf_hook_name_out": "model.layers.4.post_feedforward_layernorm.output",
        "l0": 71.5,
    }
    cfg = nested("jumprelu_skip_transcoder", d_out=D_MODEL, metadata=metadata)
    read = load_sae(stored(tmp_path, sae, cfg, W_skip=sae.W_skip.data.T.contiguous()))
    assert (read.cfg.site, read.cfg.site_out) == (Site("mlp_in", 4), Site("mlp_out", 4))
    assert (read.cfg.prepend_bos, read.cfg.context_size) == (False, 1024)
    assert read.cfg.metadata["declared"] == {"l0": 71.5}
    assert_same_weights(read, sae)


@pytest.mark.parametrize(
    ("cfg", "sentence"),
    [
        (nested("batchtopk", k=K), "lacks the tensors topk_threshold"),
        (nested("temporal"), "of a temporal SAE, which depends on earlier tokens .* cannot be"),
        (nested("matching_pursuit"), "of a matching_pursuit SAE, which encodes a token in steps"),
        (nested("crosscoder_transcoder"), "unknown SAE architecture 'crosscoder_transcoder'"),
        (nested(normalize_activations="layer_norm"), "depends on each token"),
        (nested(normalize_activations="constant_norm_rescale"), "depends on each token"),
        (nested(normalize_activations="expected_average_only_in"), "is not beside it"),
        (flat(activation_fn_str="tanh-relu"), "activation_fn='tanh-relu': relu is read"),
        (nested("topk"), "lacks 'k'"),
        (nested("jumprelu_transcoder", apply_b_dec_to_input=True, d_out=4), "names? .*mlp_out/5"),
        (
            nested(
                "jumprelu_transcoder",
                apply_b_dec_to_input=True,
                d_out=D_MODEL,
                metadata={"hook_name_out": "blocks.4.hook_mlp_out"},
            ),
            "which no transcoder has",
        ),
        (nested(d_in="24"), "d_in is '24'"),
        (nested(metadata={"context_size": "long"}), "context_size is 'long'"),
        (nested(metadata={"jumpscope": 3}), "jumpscope is 3"),
        ({"metadata": []}, r"metadata is \[\]"),
        ({}, "lacks 'd_in'"),
    ],
)
def test_what_cannot_be_held_is_refused(cfg: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    folder = stored(tmp_path, random_sae(), cfg)
    with pytest.raises(ValueError, match=sentence) as caught:
        load_sae(folder)
    assert "\n" not in str(caught.value)


def test_the_hash_is_that_of_the_file_read(tmp_path: Path) -> None:
    """SAELens carries the hash of an older file along when it saves: it is taken anew."""
    folder = stored(
        tmp_path, random_sae(), nested(metadata={"jumpscope": {"content_hash": "of another"}})
    )
    written = write_sae(random_sae(), tmp_path / "same", "saelens").metadata["content_hash"]
    assert read_sae(tmp_path / "same").cfg.metadata == {"content_hash": written}
    assert load_sae(folder).cfg.metadata["content_hash"] not in ("of another", written)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_floats_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    sae = random_sae()
    halved = {name: p.data.to(dtype) for name, p in sae.named_parameters()}
    read = load_sae(stored(tmp_path, sae, nested(), **halved))
    for name, tensor in halved.items():
        assert torch.equal(getattr(read, name), tensor.float()), name


def test_integers_are_refused(tmp_path: Path) -> None:
    folder = stored(tmp_path, random_sae(), nested(), b_dec=torch.ones(D_MODEL, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"b_dec in .* holds I32 numbers: weights must be floats"):
        load_sae(folder)
