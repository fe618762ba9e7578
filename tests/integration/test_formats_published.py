"""Files of exactly the published layouts: what they compute by the code that published them.

That code's arithmetic is written out in plain PyTorch beside the files; where SAELens has a loader
for the family, it reads the same files, with the download taken out.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from sae_core.config import Site
from sae_core.formats import origin_of, read_config, read_sae, recognise
from sae_core.sae import SAE
from tests import formats_layered as layered
from tests import formats_published as published_files
from tests.formats_published import Published, numbers
from tests.formats_support import D_MODEL, D_OUT, D_SAE, inputs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

FAMILIES = (
    published_files.goodfire,
    published_files.goodfire_70b,
    published_files.gpt_oss,
    published_files.gpt_oss_without_biases,
    published_files.deepseek,
    published_files.qwen_scope,
    layered.llama_scope,
    layered.llama_scope_transcoder,
    layered.llama_scope_by_norm,
    layered.llama_scope_distill,
    layered.llama_scope_distill_in_settings,
    layered.circuit_tracer,
    layered.circuit_tracer_14b,
    layered.circuit_tracer_skip,
    layered.circuit_tracer_jumprelu,
    layered.crv,
    published_files.hook_z,
)


@pytest.fixture(params=FAMILIES, ids=lambda family: family.__name__)
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Published:
    return request.param(tmp_path)


def read(published: Published, root: Path) -> SAE:
    """As from the hub: by its place, with what its names say."""
    path = root / (published.local or published.place)
    return read_sae(path, origin=origin_of(published.repo, published.place, "c0ffee"))


def test_the_published_arithmetic(published: Published, tmp_path: Path) -> None:
    x = inputs()
    expected = published.acts(x)
    assert 0 < int(expected.count_nonzero()) < expected.numel()
    ours = read(published, tmp_path)
    torch.testing.assert_close(ours.encode(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours(x), published.output(expected, x), atol=1e-5, rtol=1e-5)


def test_what_files_and_names_say(published: Published, tmp_path: Path) -> None:
    path = tmp_path / (published.local or published.place)
    assert recognise(path) == published.format
    cfg = read(published, tmp_path).cfg
    site, site_out = published.sites
    assert (cfg.site, cfg.site_out) == (Site.parse(site), site_out and Site.parse(site_out))
    assert (cfg.model_name, cfg.prepend_bos) == (published.model, published.prepend_bos)
    source = cfg.metadata["source"]
    assert (source["repo"], source["path"]) == (published.repo, published.place)
    # Read by itself on disk, under a folder named as the repository.
    here = tmp_path / "hub" / published.repo
    here.parent.mkdir(parents=True)
    files = [file for file in tmp_path.iterdir() if file.name != "hub"]
    here.mkdir()
    for file in files:
        file.rename(here / file.name)
    local = read_config(here / published.place)
    assert (local.site, local.site_out, local.k) == (cfg.site, cfg.site_out, cfg.k)
    assert local.model_name == published.model


def test_saelens_agrees(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not published.loader:
        return  # it has no loader for these, which the published arithmetic above stands for
    import sae_lens
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def local(repo_id: str, filename: str, subfolder: str = "", **_: Any) -> str:
        path = tmp_path / subfolder / filename
        if not path.is_file():
            raise LocalEntryNotFoundError(f"{path} does not exist")
        return str(path)

    monkeypatch.setattr(loaders, "hf_hub_download", local)
    loader = getattr(loaders, published.loader)

    def converter(*args: Any, cfg_overrides: Any = None, **kwargs: Any) -> Any:
        overrides = (cfg_overrides or {}) | published.overrides
        return loader(*args, cfg_overrides=overrides, **kwargs)

    theirs: Any = sae_lens.SAE.from_pretrained(published.repo, published.place, converter=converter)
    if published.scale is not None:
        theirs.fold_activation_norm_scaling_factor(published.scale)
    ours, x = read(published, tmp_path), inputs()
    torch.testing.assert_close(theirs.encode(x), ours.encode(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(theirs(x), ours(x), atol=1e-5, rtol=1e-5)


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=r"\.$") as caught:
        read_sae(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_without_the_name_that_says_k_is_refused(tmp_path: Path) -> None:
    published_files.qwen_scope(tmp_path)
    assert "does not say its k: keep it in a folder that is named" in refusal(
        tmp_path / "layer7.sae.pt"
    )
    published = published_files.gpt_oss(tmp_path)
    renamed = (tmp_path / published.place).rename(tmp_path / "sae.pt")
    assert "is of a TopK SAE that does not say its k" in refusal(renamed)


def test_several_files_of_a_folder_are_told_apart(tmp_path: Path) -> None:
    layered.circuit_tracer(tmp_path)
    other = tmp_path / "layer_12.safetensors"
    other.write_bytes((tmp_path / "layer_7.safetensors").read_bytes())
    assert "holds 2 SAEs: name one of its files, as layer_7.safetensors" in refusal(tmp_path)
    assert read_config(other).site == Site("mlp_in", 12)


def test_what_cannot_work_is_refused_with_the_reason(tmp_path: Path) -> None:
    clt, temporal = tmp_path / "clt", tmp_path / "layer_12" / "temporal"
    for folder in (clt, temporal):
        folder.mkdir(parents=True)
    save_file({"W_enc_0": numbers(1, D_SAE, D_MODEL)}, clt / "W_enc_0.safetensors")
    save_file({"W_dec_0": numbers(2, D_SAE, 3, D_MODEL)}, clt / "W_dec_0.safetensors")
    save_file({"D": numbers(3, D_SAE, D_MODEL)}, temporal / "latest_ckpt.safetensors")
    (temporal / "conf.yaml").write_text("sae:\n  exp_factor: 2\n")
    for path in (clt, clt / "W_enc_0.safetensors"):
        assert "a cross-layer transcoder, whose features write to every later layer" in refusal(
            path
        )
    assert "a temporal SAE, whose features depend on earlier tokens" in refusal(temporal)
    layered.circuit_tracer(tmp_path)
    kind = (
        (tmp_path / "config.yaml").read_text().replace("transcoder_set", "cross_layer_transcoder")
    )
    (tmp_path / "config.yaml").write_text(kind)
    assert "is of a cross_layer_transcoder" in refusal(tmp_path / "layer_7.safetensors")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"norm_activation": "token-wise"}, "which depends on each token and cannot be folded"),
        ({"dataset_average_activation_norm": {"in": 3.0}}, "says neither the data set's average"),
        ({"sae_type": "clt"}, "is of a clt: SAEs and transcoders of one layer are read"),
        ({"act_fn": "topk", "jump_relu_threshold": 0.0}, "act_fn='topk' and no threshold"),
        ({"use_glu_encoder": True}, "a gated linear unit for an encoder"),
        ({"hook_point_in": None}, "lacks 'hook_point_in'"),
    ],
)
def test_other_llama_scopes_are_refused(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    published = layered.llama_scope(tmp_path, **changes)
    assert sentence in refusal(tmp_path / published.place)


def test_sizes_that_contradict_the_weights_are_refused(tmp_path: Path) -> None:
    layered.circuit_tracer(tmp_path)
    path = tmp_path / "layer_7.safetensors"
    sizes = tmp_path / "wandb-config.yaml"
    sizes.write_text(f"d_feature:\n  value: {D_OUT}\n")
    assert f"says d_feature={D_OUT}" in refusal(path)
    sizes.write_text("{")
    assert "is not valid YAML" in refusal(path)
    sizes.write_text("- a")
    assert "is YAML but not an SAE's" in refusal(path)
