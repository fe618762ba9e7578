"""Gemma Scope's params.npz, written here array by array as it is published, and Gemma Scope 2."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_core.config import Site
from sae_core.formats import Origin, origin_of, origin_of_path, read_config, read_sae, write_sae
from sae_core.sae import SAE
from tests.formats_support import (
    D_MODEL,
    D_OUT,
    D_SAE,
    assert_same_function,
    assert_same_weights,
    inputs,
    random_sae,
)

Arrays = dict[str, np.ndarray]
RES = "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"


def arrays(sae: SAE, dtype: str = "f4") -> Arrays:
    """The five arrays, as Gemma Scope names them."""
    names = ("W_dec", "W_enc", "b_dec", "b_enc", "threshold")
    return {name: getattr(sae, name).numpy().astype(dtype) for name in names}


def published(folder: Path, stored: Arrays) -> Path:
    """The file as it is published: a zip of stored .npy files."""
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **stored)  # pyright: ignore[reportArgumentType]
    return folder


def test_a_bare_file_is_read_bit_for_bit(tmp_path: Path) -> None:
    sae = random_sae()
    folder = published(tmp_path / "somewhere", arrays(sae))
    for path in (folder, folder / "params.npz"):
        read = read_sae(path)
        assert_same_weights(read, sae)
        cfg = read.cfg
        assert (cfg.architecture, cfg.d_model, cfg.d_sae) == ("jumprelu", D_MODEL, D_SAE)
        assert (cfg.site, cfg.model_name) == (None, "")
        assert set(cfg.metadata) == {"content_hash", "source"}


@pytest.mark.parametrize("above", ["", "models--google--"])
def test_the_folders_names_say_where_it_reads(above: str, tmp_path: Path) -> None:
    """Above it may be the hub client's cache, in which the repository's name comes first."""
    between = "/snapshots/0123abc/" if above else "/"
    repo, _, place = RES.partition("/")
    folder = published(tmp_path / f"{above}{repo}{between}{place}", arrays(random_sae()))
    cfg = read_config(folder)
    assert (cfg.site, cfg.site_out) == (Site("resid_post", 20), None)
    assert (cfg.model_name, cfg.context_size) == ("google/gemma-2-2b", 1024)
    assert cfg.metadata == {"declared": {"l0": 71.0}, "source": {"format": "gemma_scope"}}


def test_an_id_completes_what_the_file_says(tmp_path: Path) -> None:
    folder = published(tmp_path / "blob", arrays(random_sae()))
    origin = origin_of("google/gemma-scope-9b-it-res", "layer_9/width_16k/average_l0_88", "c0ffee")
    cfg = read_sae(folder, origin=origin).cfg
    assert (cfg.site, cfg.model_name) == (Site("resid_post", 9), "google/gemma-2-9b-it")
    assert cfg.metadata["declared"] == {"l0": 88.0}
    assert cfg.metadata["source"] == {
        "repo": "google/gemma-scope-9b-it-res",
        "path": "layer_9/width_16k/average_l0_88",
        "revision": "c0ffee",
        "format": "gemma_scope",
    }


@pytest.mark.parametrize(
    ("names", "site", "site_out", "model", "l0"),
    [
        (RES, "resid_post/20", None, "google/gemma-2-2b", 71),
        (
            "gemma-scope-9b-pt-mlp/layer_3/width_131k/average_l0_9",
            "mlp_out/3",
            None,
            "google/gemma-2-9b",
            9,
        ),
        (
            "gemma-scope-2b-pt-att/layer_0/width_65k/canonical",
            "attn_out/0",
            None,
            "google/gemma-2-2b",
            None,
        ),
        (
            "gemma-scope-27b-pt-res/layer_10/width_1m/average_l0_50",
            "resid_post/10",
            None,
            "google/gemma-2-27b",
            50,
        ),
        (
            "gemma-scope-2b-pt-transcoders/layer_19/width_16k/average_l0_12",
            "mlp_in_unit/19",
            "mlp_out/19",
            "google/gemma-2-2b",
            12,
        ),
        (
            "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6",
            "resid_pre/0",
            None,
            "google/gemma-2-2b",
            6,
        ),
        (
            "gemma-scope-2-1b-it/resid_post_all/layer_12_width_16k_l0_medium",
            "resid_post/12",
            None,
            "google/gemma-3-1b-it",
            None,
        ),
        (
            "gemma-scope-2-270m-pt/attn_out/layer_5_width_65k_l0_small",
            "attn_out/5",
            None,
            "google/gemma-3-270m",
            None,
        ),
        (
            "gemma-scope-2-27b-pt/transcoder_all/layer_7_width_262k_l0_big_affine",
            "mlp_in/7",
            "mlp_out/7",
            "google/gemma-3-27b-pt",
            None,
        ),
    ],
)
def test_names_of_both_releases(
    names: str, site: str, site_out: str | None, model: str, l0: float | None
) -> None:
    repo, _, path = names.partition("/")
    for result in (origin_of(f"google/{repo}", path), origin_of_path(Path("/x") / names / "p.npz")):
        assert (str(result.site), result.model_name, result.l0) == (site, model, l0)
        assert (result.site_out and str(result.site_out)) == site_out
        assert result.path == path


@pytest.mark.parametrize(
    "names",
    [
        "gemma-scope-2b-pt-res",
        "gemma-scope-2b-pt-res/layer_20/width_16k",
        "layer_20/width_16k/average_l0_71",
        "gemma-scope-3b-pt-res/layer_20/width_16k/average_l0_71",
        "gemma-scope-2-1b-pt/clt/layer_3_width_16k_l0_big",
        "gemma-scope-2b-pt-res-mine/layer_20/width_16k/average_l0_71",
    ],
)
def test_other_names_say_nothing(names: str) -> None:
    """Without the repository's name nothing says whether layer 20 is the stream's or the MLP's."""
    assert origin_of_path(Path("/data") / names) == Origin()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_other_floats_and_lower_case_names_are_read(dtype: str, tmp_path: Path) -> None:
    stored = arrays(random_sae(), dtype)
    lower = {name.replace("W_", "w_"): np.asfortranarray(a) for name, a in stored.items()}
    read = read_sae(published(tmp_path / "x", lower))
    for name, array in stored.items():
        assert np.array_equal(getattr(read, name).numpy(), array.astype("f4")), name


def test_embedding_saes_read_the_scaled_embedding(tmp_path: Path) -> None:
    sae = random_sae()
    place = "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6"
    read = read_sae(published(tmp_path / place, arrays(sae)))
    assert read.cfg.site == Site("resid_pre", 0)
    rows = inputs()  # of the embedding matrix, on which it was trained
    root = math.sqrt(D_MODEL)
    torch.testing.assert_close(read.encode(rows * root), sae.encode(rows))
    torch.testing.assert_close(read(rows * root), sae(rows) * root)


def test_transcoders_read_and_write_other_sites(tmp_path: Path) -> None:
    sae = random_sae()
    place = "gemma-scope-2b-pt-transcoders/layer_5/width_16k/average_l0_12"
    read = read_sae(published(tmp_path / place, arrays(sae)))
    assert (read.cfg.site, read.cfg.site_out) == (Site("mlp_in_unit", 5), Site("mlp_out", 5))
    assert_same_weights(read, sae)


def test_a_threshold_below_0_keeps_out_negative_activations(tmp_path: Path) -> None:
    """Gemma Scope's inference is relu(pre) * (pre > threshold), and 0 is a threshold."""
    sae = random_sae()
    stored = arrays(sae)
    stored["threshold"][:20] = -0.5
    stored["threshold"][20:25] = 0
    read = read_sae(published(tmp_path / "x", stored))
    pre = inputs() @ sae.W_enc + sae.b_enc
    expected = pre.relu() * (pre > torch.from_numpy(stored["threshold"]))
    assert bool((pre[:, :20] > -0.5).logical_and(pre[:, :20] < 0).any())
    assert torch.equal(read.encode(inputs()), expected)


def broken(stored: Arrays, kind: str) -> Arrays:
    changed: dict[str, Arrays] = {
        "missing": {n: a for n, a in stored.items() if n != "threshold"},
        "no encoder": {n: a for n, a in stored.items() if n != "W_enc"},
        "extra": stored | {"log_sparsity": stored["b_enc"]},
        "narrower": stored | {"b_dec": stored["b_dec"][:-1]},
        "decoder turned": stored | {"W_dec": stored["W_dec"].T},
        "integers": stored | {"b_enc": np.ones(D_SAE, "i4")},
        "objects": stored | {"b_enc": np.array([None] * D_SAE)},
        "not finite": stored | {"W_dec": np.full((D_SAE, D_MODEL), np.nan, "f4")},
        "a vector": stored | {"W_enc": stored["b_enc"]},
        "three axes": stored | {"W_dec": stored["W_dec"][:, None]},
    }
    return changed[kind]


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("missing", "lacks the tensors threshold"),
        ("no encoder", "lacks the tensors W_enc"),
        ("extra", "tensors of another format: log_sparsity"),
        ("narrower", r"b_dec in .* has shape \(23,\) but must be \(24,\)"),
        ("decoder turned", r"W_dec in .* has shape \(24, 50\) but the encoder has 50"),
        ("integers", "b_enc in .* holds int32 numbers: weights must be floats"),
        ("objects", "b_enc in .* holds object numbers"),
        ("not finite", "W_dec in .* holds values that are not finite"),
        ("a vector", r"W_enc in .* has shape \(50,\), which is no matrix"),
        ("three axes", "crosscoders are not"),
    ],
)
def test_a_wrong_file_gets_one_sentence(kind: str, sentence: str, tmp_path: Path) -> None:
    folder = published(tmp_path / "x", broken(arrays(random_sae()), kind))
    with pytest.raises(ValueError, match=sentence) as caught:
        read_sae(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("transcoder", [False, True])
def test_params_npz_round_trip_is_exact(transcoder: bool, tmp_path: Path) -> None:
    sae = random_sae(transcoder=transcoder, d_out=D_OUT if transcoder else None)
    written = write_sae(sae, tmp_path / "x", "gemma_scope")
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["params.npz"]
    origin = Origin(site=sae.cfg.site, site_out=sae.cfg.site_out)
    read = read_sae(tmp_path / "x", origin=origin)
    assert_same_weights(read, sae)
    assert read.cfg.metadata["content_hash"] == written.metadata["content_hash"]
    with np.load(tmp_path / "x" / "params.npz", allow_pickle=False) as stored:
        assert set(stored) == {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}
        assert {array.dtype for array in stored.values()} == {np.dtype("f4")}


def test_a_transcoder_of_another_width_wants_its_sites(tmp_path: Path) -> None:
    write_sae(random_sae(transcoder=True, d_out=D_OUT), tmp_path / "x", "gemma_scope")
    with pytest.raises(ValueError, match="is a transcoder but does not say which activation"):
        read_sae(tmp_path / "x")


# Gemma Scope 2


def published_2(folder: Path, sae: SAE, config: dict[str, Any] | None) -> Path:
    """`params.safetensors` and `config.json` as they are published."""
    folder.mkdir(parents=True)
    tensors = {name.replace("W_", "w_"): p.data for name, p in sae.named_parameters()}
    if sae.cfg.skip:
        tensors["affine_skip_connection"] = tensors.pop("w_skip")
    save_file(tensors, folder / "params.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


CONFIG_2 = {
    "architecture": "jump_relu",
    "model_name": "google/gemma-3-1b-pt",
    "hf_hook_point_in": "model.layers.12.output",
    "hf_hook_point_out": "model.layers.12.output",
    "width": D_SAE,
    "l0": 60,
    "affine_connection": False,
    "type": "sae",
}


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("model.layers.12.output", "resid_post/12"),
        ("model.layers.3.self_attn.o_proj.input", "attn_out/3"),
        ("model.layers.0.post_feedforward_layernorm.output", "mlp_out/0"),
        ("model.language_model.layers.30.output", "resid_post/30"),
    ],
)
def test_gemma_scope_2_says_where_it_reads(hook: str, site: str, tmp_path: Path) -> None:
    sae = random_sae()
    hooks = {"hf_hook_point_in": hook, "hf_hook_point_out": hook}
    read = read_sae(published_2(tmp_path / "x", sae, CONFIG_2 | hooks))
    assert (str(read.cfg.site), read.cfg.site_out) == (site, None)
    assert read.cfg.model_name == "google/gemma-3-1b-pt"
    assert read.cfg.metadata["declared"] == {"l0": 60.0}
    assert_same_weights(read, sae)


@pytest.mark.parametrize("skip", [False, True])
def test_gemma_scope_2_transcoders(skip: bool, tmp_path: Path) -> None:
    sae = random_sae(transcoder=True, skip=skip, d_out=D_OUT)
    hooks = {
        "hf_hook_point_in": "model.layers.2.pre_feedforward_layernorm.output",
        "hf_hook_point_out": "model.layers.2.post_feedforward_layernorm.output",
    }
    read = read_sae(published_2(tmp_path / "x", sae, CONFIG_2 | hooks))
    assert (read.cfg.site, read.cfg.site_out) == (Site("mlp_in", 2), Site("mlp_out", 2))
    assert_same_weights(read, sae)
    x = inputs()
    stored = load_file(tmp_path / "x" / "params.safetensors")
    if skip:  # y += x @ A
        skipped = read(x) - read.decode(read.encode(x))
        torch.testing.assert_close(skipped, x @ stored["affine_skip_connection"])


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("gemma-v3-1b-pt", "google/gemma-3-1b-pt"),
        ("gemma-v3-270m-pt", "google/gemma-3-270m"),
        ("google/gemma-3-4b-it", "google/gemma-3-4b-it"),
    ],
)
def test_gemma_scope_2_model_names(name: str, model: str, tmp_path: Path) -> None:
    folder = published_2(tmp_path / "x", random_sae(), CONFIG_2 | {"model_name": name})
    assert read_config(folder).model_name == model


def test_without_config_json_the_folders_names_say_it(tmp_path: Path) -> None:
    place = "gemma-scope-2-4b-it/transcoder_all/layer_7_width_16k_l0_small_affine"
    sae = random_sae(transcoder=True, skip=True)
    cfg = read_sae(published_2(tmp_path / place, sae, None)).cfg
    assert (cfg.site, cfg.site_out) == (Site("mlp_in", 7), Site("mlp_out", 7))
    assert (cfg.model_name, cfg.skip) == ("google/gemma-3-4b-it", True)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gemma_scope_2_round_trip(skip: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    sae = random_sae(transcoder=True, skip=skip, metadata={"declared": {"l0": 12.0}})
    write_sae(sae, tmp_path / "x", "gemma_scope_2", dtype)
    read = read_sae(tmp_path / "x")
    for parameter in sae.parameters():
        parameter.data = parameter.data.to(dtype).float()
    assert_same_weights(read, sae)
    assert_same_function(read, sae)
    assert (read.cfg.site, read.cfg.site_out) == (sae.cfg.site, sae.cfg.site_out)
    assert read.cfg.metadata["declared"] == {"l0": 12.0}
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    assert config["hf_hook_point_in"] == "model.layers.2.pre_feedforward_layernorm.output"
    assert config["affine_connection"] is skip


def test_cross_layer_transcoders_are_refused(tmp_path: Path) -> None:
    tensors = {n.replace("W_", "w_"): p.data for n, p in random_sae().named_parameters()}
    tensors["w_dec"] = torch.zeros(D_SAE, 3, D_MODEL)
    save_file(tensors, tmp_path / "params_layer_3.safetensors")
    with pytest.raises(ValueError, match="cross-layer transcoders and crosscoders are not"):
        read_sae(tmp_path / "params_layer_3.safetensors")
    with pytest.raises(ValueError, match="holds the layers of a cross-layer transcoder"):
        read_sae(tmp_path)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"width": 16384}, f"holds {D_SAE} features but config.json says 16384"),
        ({"architecture": "topk"}, "is of a 'topk': jump_relu is read"),
        ({"hf_hook_point_in": 3}, "hf_hook_point_in is 3"),
        ({"l0": "many"}, "l0 is 'many'"),
    ],
)
def test_a_configuration_that_does_not_fit(
    config: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    folder = published_2(tmp_path / "x", random_sae(), CONFIG_2 | config)
    with pytest.raises(ValueError, match=sentence):
        read_sae(folder)
