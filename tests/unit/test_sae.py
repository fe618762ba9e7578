"""SAE architectures, the folder on disk, and agreement with SAELens on both."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_core.config import Architecture, SAEConfig, Site
from sae_core.formats.saelens import load_sae, save_sae, update_metadata
from sae_core.sae import SAE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

ALL: tuple[Architecture, ...] = ("jumprelu", "standard", "topk", "gated")


def random_sae(architecture: Architecture, d_model: int = 24, d_sae: int = 50) -> SAE:
    cfg = SAEConfig(
        architecture=architecture,
        d_model=d_model,
        d_sae=d_sae,
        site=Site("mlp_out", 2),
        model_name="tiny",
        context_size=32,
        k=7 if architecture == "topk" else None,
        metadata={"training": {"lr": 1e-3}},
    )
    sae = SAE.build(cfg)
    generator = torch.Generator().manual_seed(5)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 3
    if architecture == "jumprelu":
        sae.threshold.data = torch.rand(d_sae, generator=generator)  # pyright: ignore
    return sae


@pytest.mark.parametrize("architecture", ALL)
def test_forward_is_decode_of_encode(architecture: Architecture) -> None:
    sae = random_sae(architecture)
    x = torch.randn(4, 9, 24)
    acts = sae.encode(x)
    assert torch.equal(sae(x), sae.decode(acts))
    assert 0 < int(acts.ne(0).sum()) < acts.numel()
    some = torch.tensor([3, 0, 41])
    torch.testing.assert_close(sae.feature_acts(x, some), acts[..., some])


def test_jumprelu_encode_by_hand() -> None:
    sae = SAE.build(SAEConfig(architecture="jumprelu", d_model=1, d_sae=2))
    sae.W_enc.data, sae.b_enc.data = torch.tensor([[1.0, 2.0]]), torch.tensor([0.0, -1.0])
    sae.threshold.data = torch.tensor([0.5, 3.0])  # pyright: ignore[reportAttributeAccessIssue]
    sae.W_dec.data, sae.b_dec.data = torch.tensor([[1.0], [10.0]]), torch.tensor([100.0])
    x = torch.tensor([[0.5], [1.0], [2.5]])
    assert sae.encode(x).tolist() == [[0.0, 0.0], [1.0, 0.0], [2.5, 4.0]]
    assert sae(x).tolist() == [[100.0], [101.0], [142.5]]


@pytest.mark.parametrize("architecture", ALL)
def test_round_trip_is_exact(architecture: Architecture, tmp_path: Path) -> None:
    sae = random_sae(architecture)
    written = save_sae(sae, tmp_path / "sae")
    read = load_sae(tmp_path / "sae")
    assert read.cfg == written
    assert read.cfg.site == Site("mlp_out", 2)
    assert read.cfg.metadata["training"] == {"lr": 1e-3}
    assert len(read.cfg.metadata["content_hash"]) == 64
    for name in sae.tensor_names:
        assert torch.equal(getattr(read, name), getattr(sae, name))
    assert sorted(p.name for p in (tmp_path / "sae").iterdir()) == [
        "cfg.json",
        "sae_weights.safetensors",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["sae"]


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_saelens_agrees(architecture: Architecture, dtype: torch.dtype, tmp_path: Path) -> None:
    """SAELens loads what we save, keeps our metadata, and encodes and decodes alike."""
    import sae_lens

    save_sae(random_sae(architecture), tmp_path / "sae", dtype=dtype)
    ours = load_sae(tmp_path / "sae")
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "sae", device="cpu")
    x = torch.randn(100, 24)
    torch.testing.assert_close(theirs.encode(x), ours.encode(x), atol=1e-5, rtol=1e-5)
    acts = ours.encode(x)
    torch.testing.assert_close(theirs.decode(acts), ours.decode(acts), atol=1e-5, rtol=1e-5)
    assert theirs.cfg.metadata.hook_name == "blocks.2.hook_mlp_out"
    assert theirs.cfg.metadata.prepend_bos is True
    assert theirs.cfg.architecture() == architecture


def test_float8_matrices_are_read_into_float32(tmp_path: Path) -> None:
    sae = random_sae("jumprelu")
    save_sae(sae, tmp_path, dtype=torch.float8_e4m3fn)
    on_disk = load_file(tmp_path / "sae_weights.safetensors")
    assert {n: t.dtype for n, t in on_disk.items() if t.dtype != torch.float32} == {
        "W_enc": torch.float8_e4m3fn,
        "W_dec": torch.float8_e4m3fn,
    }
    read = load_sae(tmp_path)
    nearest = sae.W_enc.to(torch.float8_e4m3fn).float()
    assert 0 < float((nearest - sae.W_enc).abs().max()) < 0.1
    assert torch.equal(read.W_enc, nearest)
    assert torch.equal(read.threshold, sae.threshold)  # pyright: ignore
    # As SAELens does, into parameters of float32.
    again = SAE.build(sae.cfg)
    again.load_state_dict(on_disk)
    assert torch.equal(again.W_dec, read.W_dec)
    assert again.W_dec.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "factor"), [("W_enc", 2e4), ("W_dec", 1e-3), ("W_enc", 1e-25), ("W_dec", 1e-33)]
)
def test_what_has_no_place_in_a_float8_is_refused(name: str, factor: float, tmp_path: Path) -> None:
    sae = random_sae("jumprelu")
    getattr(sae, name).data *= factor
    save_sae(sae, tmp_path / "wide", dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=f"^{name} has numbers too large or too small for float8"):
        save_sae(sae, tmp_path / "sae", dtype=torch.float8_e4m3fn)
    assert not (tmp_path / "sae").exists()


@pytest.mark.parametrize("name", ["W_enc", "W_dec"])
def test_a_feature_that_float8_would_wipe_out_is_refused(name: str, tmp_path: Path) -> None:
    """Though of the whole matrix next to nothing is lost; one that is 0 already may stay so."""
    sae = random_sae("jumprelu")
    matrix = getattr(sae, name).data
    matrix = matrix.T if name == "W_enc" else matrix
    matrix[7] = 0
    save_sae(sae, tmp_path / "zero", dtype=torch.float8_e4m3fn)
    matrix[3] *= 1e-4
    with pytest.raises(ValueError, match=f"^{name} has numbers too large or too small for float8"):
        save_sae(sae, tmp_path / "sae", dtype=torch.float8_e4m3fn)


def test_a_number_that_is_none_is_not_called_too_large_for_float8(tmp_path: Path) -> None:
    sae = random_sae("jumprelu")
    sae.W_dec.data[3, 3] = torch.nan
    with pytest.raises(ValueError, match=r"^W_dec holds values that are not finite\.$"):
        save_sae(sae, tmp_path / "sae", dtype=torch.float8_e4m3fn)


def test_every_float8_that_pytorch_writes_is_read(tmp_path: Path) -> None:
    """Vectors too, and those that old versions of SAELens wrote."""
    sae = random_sae("jumprelu")
    save_sae(sae, tmp_path)
    path = tmp_path / "sae_weights.safetensors"
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        on_disk = {name: tensor.to(dtype) for name, tensor in sae.state_dict().items()}
        save_file(on_disk | {"scaling_factor": torch.ones(50).to(dtype)}, path)
        assert torch.equal(load_sae(tmp_path).W_enc, on_disk["W_enc"].float())


@pytest.mark.parametrize("architecture", ALL)
def test_we_read_what_saelens_writes(architecture: Architecture, tmp_path: Path) -> None:
    import sae_lens

    save_sae(random_sae(architecture), tmp_path / "ours")
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "ours", device="cpu")
    theirs.save_model(tmp_path / "theirs")
    ours = load_sae(tmp_path / "theirs")
    x = torch.randn(50, 24)
    torch.testing.assert_close(ours.encode(x), theirs.encode(x), atol=1e-5, rtol=1e-5)
    assert ours.cfg.site == Site("mlp_out", 2)


def test_metadata_can_be_added_later(tmp_path: Path) -> None:
    save_sae(random_sae("jumprelu"), tmp_path)
    before = load_file(tmp_path / "sae_weights.safetensors")
    update_metadata(tmp_path, measured={"l0": 31.5})
    sae = load_sae(tmp_path)
    assert sae.cfg.metadata["measured"] == {"l0": 31.5}
    assert sae.cfg.metadata["training"] == {"lr": 1e-3}
    assert all(torch.equal(before[name], getattr(sae, name)) for name in before)


def damaged(folder: Path, kind: str) -> None:
    weights, cfg = folder / "sae_weights.safetensors", folder / "cfg.json"
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif kind == "missing tensor":
        tensors = load_file(weights)
        del tensors["threshold"]
        save_file(tensors, weights)
    elif kind == "wrong shape":
        save_file(load_file(weights) | {"b_dec": torch.zeros(3)}, weights)
    elif kind == "not finite":
        save_file(load_file(weights) | {"b_dec": torch.full((24,), torch.nan)}, weights)
    elif kind == "no weights":
        weights.unlink()
    elif kind == "no config":
        cfg.unlink()
    elif kind == "config is no JSON":
        cfg.write_text("{")
    elif kind == "unknown architecture":
        cfg.write_text(json.dumps(json.loads(cfg.read_text()) | {"architecture": "magic"}))
    elif kind == "normalised inputs":
        text = json.loads(cfg.read_text()) | {"normalize_activations": "layer_norm"}
        cfg.write_text(json.dumps(text))


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("truncated", "damaged"),
        ("missing tensor", "lacks the tensors threshold"),
        ("wrong shape", r"b_dec .* has shape \(3,\)"),
        ("not finite", "not finite"),
        ("no weights", "has no sae_weights.safetensors"),
        ("no config", "not an SAE folder"),
        ("config is no JSON", "not valid JSON"),
        ("unknown architecture", "unknown SAE architecture 'magic'"),
        ("normalised inputs", "normalize_activations='layer_norm'"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_damage_gets_one_sentence(kind: str, sentence: str, tmp_path: Path) -> None:
    save_sae(random_sae("jumprelu"), tmp_path)
    damaged(tmp_path, kind)
    with pytest.raises(ValueError, match=sentence) as caught:
        load_sae(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "written", ["[]", '{"metadata": "x"}', '{"architecture": "jumprelu", "d_in": "4", "d_sae": 8}']
)
@pytest.mark.usefixtures("unchecked_types")
def test_json_of_another_kind_gets_one_sentence(written: str, tmp_path: Path) -> None:
    save_sae(random_sae("jumprelu"), tmp_path)
    (tmp_path / "cfg.json").write_text(written)
    with pytest.raises(ValueError, match=r"cfg\.json"):
        load_sae(tmp_path)


def test_saving_again_keeps_what_lies_beside(tmp_path: Path) -> None:
    folder = tmp_path / "sae"
    save_sae(random_sae("jumprelu"), folder)
    (folder / "index.duckdb").write_text("index")
    (folder / "notes").mkdir()
    (folder / "notes" / "one.txt").write_text("note")
    save_sae(random_sae("standard"), folder)
    assert load_sae(folder).cfg.architecture == "standard"
    assert (folder / "index.duckdb").read_text() == "index"
    assert (folder / "notes" / "one.txt").read_text() == "note"
    assert [p.name for p in tmp_path.iterdir()] == ["sae"]


def test_attention_saes_take_saelens_heads(tmp_path: Path) -> None:
    """At hook_z SAELens has activations [..., heads, d_head], we have them side by side."""
    import sae_lens

    sae = random_sae("jumprelu")
    sae.cfg = replace(sae.cfg, site=Site("attn_out", 2))
    save_sae(sae, tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path, device="cpu")
    x = torch.randn(3, 5, 4, 6)
    ours = load_sae(tmp_path).encode(x.flatten(-2))
    torch.testing.assert_close(theirs.encode(x), ours, atol=1e-5, rtol=1e-5)
    assert theirs.decode(ours).shape == x.shape


def test_a_failed_save_leaves_the_old_sae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_sae(random_sae("jumprelu"), tmp_path / "sae")
    before = load_sae(tmp_path / "sae")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sae_core.formats.saelens.save_file", full)
    with pytest.raises(ValueError, match="no space left"):
        save_sae(random_sae("standard"), tmp_path / "sae")
    after = load_sae(tmp_path / "sae")
    assert after.cfg == before.cfg
    assert [p.name for p in tmp_path.iterdir()] == ["sae"]


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("text", ["resid_post", "resid_post/x", "other/3", "/2", "resid_post/-1"])
def test_bad_sites_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="site"):
        Site.parse(text)
