"""sparsify's cfg.json and sae.safetensors, written here as it writes them.

That its own class agrees is tested in tests/integration/test_formats_peers.py.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_core.config import Site
from sae_core.formats import Origin, read_config, read_sae, write_sae
from sae_core.sae import SAE
from tests.formats_support import (
    D_MODEL,
    D_OUT,
    D_SAE,
    SITE,
    SITE_OUT,
    K,
    assert_same_function,
    assert_same_weights,
    inputs,
    random_sae,
)


def state(sae: SAE) -> dict[str, Tensor]:
    tensors = {
        "encoder.weight": sae.W_enc.data.T.contiguous(),
        "encoder.bias": sae.b_enc.data,
        "W_dec": sae.W_dec.data,
        "b_dec": sae.b_dec.data,
    }
    return tensors | ({"W_skip": sae.W_skip.data.T.contiguous()} if sae.cfg.skip else {})


def saved(folder: Path, sae: SAE, changes: dict[str, Any] | None = None, **cfg: Any) -> Path:
    """A hookpoint's folder, with `changes` of its tensors."""
    folder.mkdir(parents=True)
    save_file(state(sae) | (changes or {}), folder / "sae.safetensors")
    written = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": D_SAE,
        "k": K,
        "multi_topk": False,
        "skip_connection": sae.cfg.skip,
        "transcode": sae.cfg.is_transcoder,
        "d_in": D_MODEL,
    }
    (folder / "cfg.json").write_text(json.dumps(written | cfg))
    return folder


def test_an_sae_takes_b_dec_off_its_input(tmp_path: Path) -> None:
    sae = random_sae("topk")
    read = read_sae(saved(tmp_path / "layers.3", sae))
    acts = sae.encode(inputs() - sae.b_dec)
    torch.testing.assert_close(read.encode(inputs()), acts, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read(inputs()), sae.decode(acts), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("skip", [False, True])
def test_a_transcoder_takes_nothing_off(skip: bool, tmp_path: Path) -> None:
    sae = random_sae("topk", transcoder=True, skip=skip)
    read = read_sae(saved(tmp_path / "layers.3.mlp", sae))
    assert_same_weights(read, sae)
    assert (read.cfg.site, read.cfg.site_out) == (Site("mlp_in", 3), Site("mlp_proj", 3))
    if skip:
        expected = sae.decode(sae.encode(inputs())) + inputs() @ state(sae)["W_skip"].mT
        torch.testing.assert_close(read(inputs()), expected)


@pytest.mark.parametrize(
    ("name", "transcoder", "sites"),
    [
        ("layers.10", False, ("resid_post/10", None)),
        ("layers.10", True, ("resid_pre/10", "resid_post/10")),
        ("h.4.mlp", False, ("mlp_proj/4", None)),
        ("layers.7.self_attn", False, ("attn_proj/7", None)),
        ("layers.2/seed1", False, ("resid_post/2", None)),
        ("embed_tokens", False, (None, None)),
        ("h.0.mlp.act", False, (None, None)),
    ],
)
def test_the_folder_is_named_after_the_module(
    name: str, transcoder: bool, sites: tuple[str | None, str | None], tmp_path: Path
) -> None:
    run = {"sae": {"k": K}, "model": "EleutherAI/pythia-160m", "ctx_len": 512}
    (tmp_path / "config.json").write_text(json.dumps(run))
    folder = saved(tmp_path / name, random_sae("topk", transcoder=transcoder))
    cfg = read_config(folder)
    assert (cfg.site and str(cfg.site), cfg.site_out and str(cfg.site_out)) == sites
    assert (cfg.model_name, cfg.context_size) == ("EleutherAI/pythia-160m", 512)


def test_a_transcoder_of_an_unknown_module_wants_its_sites(tmp_path: Path) -> None:
    folder = saved(tmp_path / "somewhere", random_sae("topk", transcoder=True, skip=True))
    with pytest.raises(ValueError, match="is a transcoder but does not say which activation"):
        read_sae(folder)
    read = read_sae(folder, origin=Origin(site=SITE, site_out=SITE_OUT))
    assert (read.cfg.site, read.cfg.site_out) == (SITE, SITE_OUT)


def test_the_width_may_be_given_as_a_multiple(tmp_path: Path) -> None:
    folder = saved(tmp_path / "layers.1", random_sae("topk"), num_latents=0, multi_topk=True)
    assert read_config(folder).d_sae == D_SAE


@pytest.mark.parametrize(
    ("cfg", "tensors", "sentence"),
    [
        ({"activation": "groupmax"}, {}, "of a groupmax SAE: of sparsify's SAEs only topk"),
        ({"signed": True}, {}, "of a signed topk SAE"),
        ({"k": None}, {}, "lacks 'k'"),
        ({"d_in": 25}, {}, "says d_in=25 but the weights have 24"),
        ({"num_latents": 51}, {}, "says num_latents=51 but the weights have 50"),
        ({"k": 51}, {}, "k is 51 but must be between 1 and d_sae"),
        ({}, {"W_dec": torch.zeros(7, D_MODEL)}, "but the encoder has 50 features"),
        ({}, {"b_dec": torch.zeros(7)}, r"b_dec in .* has shape \(7,\)"),
        ({}, {"decoder.weight": torch.zeros(7)}, "tensors of another format: decoder.weight"),
    ],
)
def test_a_wrong_folder_gets_one_sentence(
    cfg: dict[str, Any], tensors: dict[str, Tensor], sentence: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "layers.1", random_sae("topk"), tensors, **cfg)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_sae(folder)
    assert "\n" not in str(caught.value)


def test_the_weights_need_their_configuration(tmp_path: Path) -> None:
    folder = saved(tmp_path / "layers.1", random_sae("topk"))
    (folder / "cfg.json").unlink()
    with pytest.raises(ValueError, match=r"has no cfg\.json: without it"):
        read_sae(folder / "sae.safetensors")


@pytest.mark.parametrize("transcoder", [False, True])
def test_round_trip(transcoder: bool, tmp_path: Path) -> None:
    """Bit for bit for transcoders, and for SAEs whose b_dec is 0."""
    sae = random_sae("topk", transcoder=transcoder, skip=transcoder, prepend_bos=False)
    write_sae(sae, tmp_path / "a", "sparsify")
    read = read_sae(tmp_path / "a")
    assert_same_function(read, sae)
    assert (read.cfg.site, read.cfg.site_out) == (sae.cfg.site, sae.cfg.site_out)
    assert read.cfg.prepend_bos is False
    if not transcoder:
        sae.b_dec.data.zero_()
        write_sae(sae, tmp_path / "b", "sparsify")
        read = read_sae(tmp_path / "b")
    assert_same_weights(read, sae)


def test_what_it_cannot_hold_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds topk SAEs only, and this is jumprelu"):
        write_sae(random_sae(), tmp_path / "x", "sparsify")
    with pytest.raises(ValueError, match="between equal widths only"):
        write_sae(random_sae("topk", transcoder=True, d_out=D_OUT), tmp_path / "x", "sparsify")
    assert not (tmp_path / "x").exists()
