"""`jumpscope convert` from a hub: the tests' own, whose repositories have the published layouts."""

import pytest

from app.cli import main
from sae_core.config import Site
from sae_core.formats import read_config, read_sae
from tests.formats_support import assert_same_weights


@pytest.mark.parametrize(
    ("source", "source_format", "site", "site_out"),
    [
        (
            "gemma-scope-2b-pt-res/layer_1/width_16k/average_l0_22",
            "gemma_scope",
            "resid_post/1",
            None,
        ),
        (
            "gemma-scope-2b-pt-transcoders/layer_1/width_16k/average_l0_22",
            "gemma_scope",
            "mlp_in_unit/1",
            "mlp_out/1",
        ),
        (
            "gemma-scope-2-1b-pt/transcoder_all/layer_1_width_16k_l0_medium_affine",
            "gemma_scope_2",
            "mlp_in/1",
            "mlp_out/1",
        ),
        (
            "example/dictionary-learning/resid_post_layer_1/trainer_1",
            "dictionary_learning",
            "resid_post/1",
            None,
        ),
        ("example/sparsify/layers.1", "sparsify", "resid_post/1", None),
    ],
)
def test_an_sae_on_the_hub_becomes_a_folder(
    source, source_format, site, site_out, hub, client, tmp_path
):
    from sae_core.sources import load_sae

    assert main(["convert", source, str(tmp_path / "sae")]) == 0
    read = read_sae(tmp_path / "sae")
    assert (str(read.cfg.site), read.cfg.site_out and str(read.cfg.site_out)) == (site, site_out)
    original = load_sae(source)
    assert_same_weights(read, original)
    recorded = read.cfg.metadata["source"]
    assert recorded["format"] == source_format
    assert recorded["content_hash"] == original.cfg.metadata["content_hash"]
    assert len(recorded["revision"]) == 40
    assert source.endswith(f"{recorded['repo'].removeprefix('google/')}/{recorded['path']}")


def test_a_site_given_for_one_on_the_hub(hub, client, tmp_path):
    source = "gemma-scope-2b-pt-mlp/layer_1/width_16k/average_l0_85"
    assert main(["convert", source, str(tmp_path / "sae"), "--site", "mlp_proj/1"]) == 0
    assert read_config(tmp_path / "sae").site == Site("mlp_proj", 1)
