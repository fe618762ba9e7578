"""dictionary_learning's ae.pt and config.json, written here as its trainers write them.

That its own classes agree is tested in tests/integration/test_formats_peers.py.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_core.config import Architecture, Site
from sae_core.formats import Origin, read_config, read_sae, write_sae
from sae_core.sae import SAE
from tests.formats_support import (
    ALL,
    D_MODEL,
    D_SAE,
    K,
    assert_same_function,
    assert_same_weights,
    inputs,
    random_sae,
)

State = dict[str, Tensor]


def linear(sae: SAE) -> State:
    """Matrices and encoder bias as `nn.Linear` keeps them."""
    return {
        "encoder.weight": sae.W_enc.data.T.contiguous(),
        "encoder.bias": sae.b_enc.data,
        "decoder.weight": sae.W_dec.data.T.contiguous(),
    }


def topk_state(sae: SAE, threshold: float = -1.0) -> State:
    """Of AutoEncoderTopK and BatchTopKSAE, which have the same tensors."""
    return linear(sae) | {
        "b_dec": sae.b_dec.data,
        "k": torch.tensor(K, dtype=torch.int32),
        "threshold": torch.tensor(threshold),
    }


def matryoshka_state(sae: SAE, threshold: float) -> State:
    return {name: getattr(sae, name).data for name in ("W_enc", "b_enc", "W_dec", "b_dec")} | {
        "k": torch.tensor(K, dtype=torch.int32),
        "threshold": torch.tensor(threshold),
        "group_sizes": torch.tensor([10, 40]),
    }


def trained(folder: Path, state: Any, dict_class: str | None = None, **trainer: Any) -> Path:
    """A trainer's folder; without `dict_class`, without config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "ae.pt")
    if dict_class is not None:
        settings = {
            "trainer_class": "SomeTrainer",
            "dict_class": dict_class,
            "activation_dim": D_MODEL,
            "dict_size": D_SAE,
            "layer": 5,
            "lm_name": "google/gemma-2-2b",
            "submodule_name": "resid_post_layer_5",
        }
        buffer = {"d_submodule": D_MODEL, "io": "out", "ctx_len": 128} | trainer.pop("buffer", {})
        config = {"trainer": settings | trainer, "buffer": buffer}
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("architecture", ALL)
def test_round_trip(architecture: Architecture, tmp_path: Path) -> None:
    """Bit for bit where its classes take nothing off the input, and always with b_dec 0."""
    sae = random_sae(architecture, metadata={"measured": {"l0": 9.5}})
    write_sae(sae, tmp_path / "a", "dictionary_learning")
    read = read_sae(tmp_path / "a")
    assert_same_function(read, sae)
    if architecture in ("jumprelu", "standard"):
        assert_same_weights(read, sae)
    assert (read.cfg.site, read.cfg.k) == (Site("resid_post", 2), sae.cfg.k)
    assert read.cfg.metadata["measured"] == {"l0": 9.5}
    sae.b_dec.data.zero_()
    write_sae(sae, tmp_path / "b", "dictionary_learning")
    assert_same_weights(read_sae(tmp_path / "b"), sae)


def test_batch_topk_is_a_jumprelu_of_one_threshold(tmp_path: Path) -> None:
    sae = random_sae("standard")
    for number, (name, state) in enumerate(
        (
            ("BatchTopKSAE", topk_state(sae, 0.4)),
            ("MatryoshkaBatchTopKSAE", matryoshka_state(sae, 0.4)),
        )
    ):
        read = read_sae(trained(tmp_path / str(number), state, name, k=K))
        post = ((inputs() - sae.b_dec) @ sae.W_enc + sae.b_enc).relu()
        expected = post * (post > 0.4)
        assert read.cfg.architecture == "jumprelu"
        torch.testing.assert_close(read.encode(inputs()), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(read(inputs()), sae.decode(expected), atol=1e-5, rtol=1e-5)


def test_an_unset_threshold_is_refused(tmp_path: Path) -> None:
    folder = trained(tmp_path, topk_state(random_sae("standard")), "BatchTopKSAE", k=K)
    with pytest.raises(ValueError, match="before its threshold was estimated"):
        read_sae(folder)


def test_features_of_the_first_class_are_scaled_as_by_its_loader(tmp_path: Path) -> None:
    sae = random_sae("standard")
    state = linear(sae) | {"bias": sae.b_dec.data}
    read = read_sae(trained(tmp_path, state, "AutoEncoder"))
    acts = sae.encode(inputs() - sae.b_dec)
    torch.testing.assert_close(
        read.encode(inputs()), acts * sae.W_dec.norm(dim=1), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(read(inputs()), sae.decode(acts), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read.W_dec.norm(dim=1), torch.ones(D_SAE))


@pytest.mark.parametrize("architecture", ALL)
def test_classes_are_known_by_their_tensors(architecture: Architecture, tmp_path: Path) -> None:
    sae = random_sae(architecture)
    write_sae(sae, tmp_path / "sae", "dictionary_learning")
    (tmp_path / "sae" / "config.json").unlink()
    if architecture == "topk":
        with pytest.raises(ValueError, match=r"AutoEncoderTopK or BatchTopKSAE: it needs its conf"):
            read_sae(tmp_path / "sae")
        state = torch.load(tmp_path / "sae" / "ae.pt")
        del state["threshold"]  # which early TopK files do not have
        torch.save(state, tmp_path / "sae" / "ae.pt")
    read = read_sae(tmp_path / "sae")
    assert (read.cfg.architecture, read.cfg.site) == (architecture, None)
    assert_same_function(read, sae)


def test_the_other_classes_are_known_by_their_tensors_too(tmp_path: Path) -> None:
    sae = random_sae("standard")
    matryoshka = read_sae(trained(tmp_path / "m", matryoshka_state(sae, 0.2)))
    assert matryoshka.cfg.architecture == "jumprelu"
    first = read_config(trained(tmp_path / "a", linear(sae) | {"bias": sae.b_dec.data}))
    assert first.architecture == "standard"


@pytest.mark.parametrize("norm_factor", [None, 4.0])
def test_an_interrupted_runs_file_is_read(norm_factor: float | None, tmp_path: Path) -> None:
    """It holds the trainer's state; of normalised activations, the biases are not scaled yet."""
    sae = random_sae("topk")
    state = {
        "step": 100,
        "ae": topk_state(sae),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]},
        "config": {"dict_class": "AutoEncoderTopK", "k": K},
        "norm_factor": norm_factor,
    }
    read = read_sae(trained(tmp_path, state, "AutoEncoderTopK", k=K))
    factor = norm_factor or 1.0
    acts = sae.encode(inputs() / factor - sae.b_dec)
    torch.testing.assert_close(read.encode(inputs()), acts * factor, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read(inputs()), sae.decode(acts) * factor, atol=1e-5, rtol=1e-5)


def test_a_checkpoint_finds_its_runs_settings(tmp_path: Path) -> None:
    folder = trained(tmp_path, topk_state(random_sae("topk")), "AutoEncoderTopK", k=K)
    (folder / "checkpoints").mkdir()
    (folder / "ae.pt").rename(folder / "checkpoints" / "ae_1000.pt")
    cfg = read_config(folder / "checkpoints" / "ae_1000.pt")
    assert (cfg.k, cfg.site) == (K, Site("resid_post", 5))
    assert (cfg.model_name, cfg.context_size) == ("google/gemma-2-2b", 128)


@pytest.mark.parametrize(
    ("trainer", "site"),
    [
        ({}, "resid_post/5"),
        ({"submodule_name": None}, None),
        ({"submodule_name": "mlp_5"}, None),
        ({"buffer": {"io": "in"}}, None),
    ],
)
def test_a_site_that_is_not_said_plainly_is_none(
    trainer: dict[str, Any], site: str | None, tmp_path: Path
) -> None:
    folder = trained(tmp_path, topk_state(random_sae("topk")), "AutoEncoderTopK", k=K, **trainer)
    result = read_config(folder).site
    assert (result and str(result)) == site


def test_a_transcoders_sites_are_given(tmp_path: Path) -> None:
    state = topk_state(random_sae("topk"))
    buffer = {"io": "in_and_out"}
    folder = trained(tmp_path, state, "AutoEncoderTopK", k=K, buffer=buffer)
    with pytest.raises(ValueError, match="is a transcoder but does not say"):
        read_sae(folder)
    origin = Origin(site=Site("mlp_in", 5), site_out=Site("mlp_proj", 5))
    assert read_sae(folder, origin=origin).cfg.site_out == Site("mlp_proj", 5)


@pytest.mark.parametrize(
    ("dict_class", "changes", "trainer", "sentence"),
    [
        ("CrossCoder", {}, {}, "is of class 'CrossCoder': those read are AutoEncoder,"),
        ("AutoEncoderTopK", {}, {"k": 3}, "says k=3 but .* has 7"),
        ("AutoEncoderTopK", {}, {"dict_size": 64}, "says dict_size=64 but .* has 50"),
        ("AutoEncoderTopK", {"W_enc": torch.zeros(2)}, {}, "tensors of another format: W_enc"),
        ("AutoEncoderTopK", {"b_dec": torch.zeros(3)}, {}, r"b_dec in .* has shape \(3,\)"),
        (
            "AutoEncoderTopK",
            {"b_dec": torch.zeros(D_MODEL, dtype=torch.int8)},
            {},
            "b_dec in .* holds int8 numbers",
        ),
        ("JumpReluAutoEncoder", {}, {}, "lacks the tensors W_enc"),
        (None, {"other": torch.zeros(2)}, {}, "none of dictionary_learning's classes"),
    ],
)
def test_a_wrong_file_gets_one_sentence(
    dict_class: str | None,
    changes: State,
    trainer: dict[str, Any],
    sentence: str,
    tmp_path: Path,
) -> None:
    folder = trained(tmp_path, topk_state(random_sae("topk")) | changes, dict_class, **trainer)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_sae(folder)
    assert "\n" not in str(caught.value)


def test_transcoders_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no place for a transcoder's sites"):
        write_sae(random_sae(transcoder=True), tmp_path / "x", "dictionary_learning")
    assert not (tmp_path / "x").exists()


def test_only_the_saes_own_numbers_are_written(tmp_path: Path) -> None:
    """A parameter may be a part of a larger memory, as a trainer's are."""
    sae = random_sae()
    write_sae(sae, tmp_path / "a", "dictionary_learning")
    sae.W_dec.data = torch.cat([sae.W_dec.data] * 100)[:D_SAE]
    write_sae(sae, tmp_path / "b", "dictionary_learning")
    sizes = [(tmp_path / name / "ae.pt").stat().st_size for name in ("a", "b")]
    assert sizes[0] == sizes[1]
