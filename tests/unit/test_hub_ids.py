"""Ids of SAEs on the hub: reading them, what they say, and which folder they mean."""

from dataclasses import replace

import pytest

from sae_core.config import Site
from sae_core.hub import CatalogEntry, SAEId, origin, parse_id, width_of
from sae_core.hub.catalog import catalog_of
from sae_core.hub.choice import choose
from sae_core.hub.listing import Listing

RES = "google/gemma-scope-2b-pt-res"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def listing(*folders: str, repo: str = RES, sizes: dict[str, int] | None = None) -> Listing:
    """A repository with Gemma Scope SAEs in these folders, 302 MB each unless `sizes` say."""
    files = {f"{folder}/params.npz": 302_000_000 for folder in folders}
    return Listing(repo=repo, commit=COMMIT, files={"README.md": 5, **files, **(sizes or {})})


@pytest.mark.parametrize(
    ("text", "repo", "folder", "revision"),
    [
        ("gemma-scope-2b-pt-res", RES, "", None),
        (
            "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71",
            RES,
            "layer_20/width_16k/average_l0_71",
            None,
        ),
        ("google/gemma-scope-2b-pt-res/layer_20@main", RES, "layer_20", "main"),
        (f"{RES}@refs/pr/7", RES, "", "refs/pr/7"),
        (
            "EleutherAI/sae-llama-3-8b-32x/layers.10",
            "EleutherAI/sae-llama-3-8b-32x",
            "layers.10",
            None,
        ),
        ("owner/name/", "owner/name", "", None),
        (f"owner/name/a b@{COMMIT}", None, "", None),
        ("./owner/name", None, "", None),
        ("../name", None, "", None),
        ("/owner/name", None, "", None),
        ("~/owner/name", None, "", None),
        ("name", None, "", None),
        ("owner/name/../other", None, "", None),
        ("owner//name", None, "", None),
        ("owner/name@", None, "", None),
        ("owner/name@a b", None, "", None),
        ("C:\\owner\\name", None, "", None),
        ("", None, "", None),
    ],
)
def test_ids_are_told_from_paths(text, repo, folder, revision):
    result = parse_id(text)
    assert result == (SAEId(repo, folder, revision) if repo else None)


@pytest.mark.parametrize(
    "text",
    [
        "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71@v1",
        "gemma-scope-2-1b-pt/resid_post/layer_12_width_16k_l0_medium",
        "someone/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71",
        "owner/name",
    ],
)
def test_an_id_is_written_as_it_is_read(text):
    assert str(parse_id(text)) == text


@pytest.mark.parametrize(
    ("text", "sites", "model", "l0"),
    [
        ("2b-pt-res/layer_20/width_16k/average_l0_71", "resid_post/20", "gemma-2-2b", 71),
        ("2b-pt-mlp/layer_4/width_16k/average_l0_85", "mlp_out/4", "gemma-2-2b", 85),
        ("9b-pt-att/layer_9/width_131k/average_l0_30", "attn_out/9", "gemma-2-9b", 30),
        ("9b-it-res/layer_31/width_16k/average_l0_76", "resid_post/31", "gemma-2-9b-it", 76),
        ("27b-pt-res/layer_22/width_131k/average_l0_82", "resid_post/22", "gemma-2-27b", 82),
        ("2b-pt-res/embedding/width_4k/average_l0_21", "resid_pre/0", "gemma-2-2b", 21),
        (
            "2b-pt-transcoders/layer_19/width_16k/average_l0_12",
            "mlp_in_unit/19 mlp_out/19",
            "gemma-2-2b",
            12,
        ),
        (
            "2-1b-pt/resid_post/layer_12_width_16k_l0_medium",
            "resid_post/12",
            "gemma-3-1b-pt",
            None,
        ),
        ("2-270m-pt/attn_out_all/layer_3_width_65k_l0_big", "attn_out/3", "gemma-3-270m", None),
        (
            "2-4b-it/transcoder_all/layer_7_width_262k_l0_small_affine",
            "mlp_in/7 mlp_out/7",
            "gemma-3-4b-it",
            None,
        ),
    ],
)
def test_names_of_gemma_scope_say_model_sites_and_l0(text, sites, model, l0):
    sae_id = parse_id(f"gemma-scope-{text}")
    assert sae_id is not None
    result = origin(sae_id, COMMIT)
    assert [result.site, result.site_out][: len(sites.split())] == list(
        map(Site.parse, sites.split())
    )
    assert (result.site_out is None) == (len(sites.split()) == 1)
    assert result.model_name == f"google/{model}"
    assert result.l0 == l0
    assert (result.repo, result.path, result.revision) == (sae_id.repo, sae_id.folder, COMMIT)


def test_other_names_say_only_where_it_came_from():
    result = origin(SAEId("owner/name", "layers.10"), COMMIT)
    assert (result.site, result.model_name, result.l0) == (None, "", None)
    assert (result.repo, result.path, result.revision) == ("owner/name", "layers.10", COMMIT)


@pytest.mark.parametrize(
    ("l0s", "chosen"),
    [
        ((12, 71, 176), 71),
        ((38, 139), 139),
        ((99,), 99),
        ((90, 110), 90),  # equally near: the sparser
        ((110, 90, 20), 90),
        ((6, 21, 44, 111), 111),
    ],
)
def test_canonical_is_the_l0_nearest_100(l0s, chosen):
    folder = "layer_20/width_16k"
    others = ("layer_20/width_65k/average_l0_100", "layer_2/width_16k/average_l0_100")
    there = listing(*(f"{folder}/average_l0_{l0}" for l0 in l0s), *others)
    assert choose(SAEId(RES, f"{folder}/canonical"), there) == f"{folder}/average_l0_{chosen}"


def test_a_folder_called_canonical_is_taken_as_it_is():
    there = listing("layer_12/width_1m/canonical", "layer_12/width_1m/average_l0_107")
    sae_id = SAEId(RES, "layer_12/width_1m/canonical", "refs/pr/7")
    assert choose(sae_id, there) == "layer_12/width_1m/canonical"


def test_a_repository_of_one_sae_needs_no_folder():
    there = Listing(repo="a/b", commit=COMMIT, files={"x/ae.pt": 1, "x/config.json": 1})
    assert choose(SAEId("a/b"), there) == "x"
    there = Listing(repo="a/b", commit=COMMIT, files={"sae_weights.safetensors": 1})
    assert choose(SAEId("a/b"), there) == ""


LAYERS = tuple(
    f"layer_{layer}/width_{width}/average_l0_{l0}"
    for layer in range(26)
    for width in ("16k", "65k")
    for l0 in (18, 71, 143)
)


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        ("", "gemma-scope-2b-pt-res is not one SAE but 156, e.g. gemma-scope-2b-pt-res/layer_0/"),
        ("layer_20", "gemma-scope-2b-pt-res/layer_20 is not one SAE but 6, e.g. "),
        (
            "layer_20/width_16k/average_l0_70",
            "gemma-scope-2b-pt-res/layer_20/width_16k has no average_l0_70, but e.g. "
            "average_l0_71, average_l0_18, average_l0_143: "
            "jumpscope list gemma-scope-2b-pt-res/layer_20/width_16k shows all.",
        ),
        ("layer_30/width_16k/average_l0_71", "has no layer_30, but e.g. layer_25, layer_24, "),
        ("layer_20/width_32k/canonical", "has no width_32k, but e.g. width_16k, width_65k: "),
        ("layer20", "has no layer20, but e.g. layer_20, "),
        ("layer_2/params.npz", "has no params.npz, but e.g. width_16k, width_65k: "),
    ],
)
def test_what_is_no_sae_is_answered_with_what_there_is(folder, sentence):
    with pytest.raises(ValueError, match=r"jumpscope list \S+ shows") as mistake:
        choose(SAEId(RES, folder), listing(*LAYERS))
    assert sentence in str(mistake.value)


def test_several_layers_at_once_are_refused():
    repo = "google/gemma-scope-2-1b-pt"
    files = {"clt/width_262k_l0_medium/params_layer_0.safetensors": 1}
    there = listing(repo=repo, sizes=files)
    with pytest.raises(ValueError, match="is a cross-layer transcoder, whose features write to"):
        choose(SAEId(repo, "clt/width_262k_l0_medium"), there)


@pytest.mark.parametrize(
    ("repo", "path", "reason"),
    [
        ("mntss/clt-gemma-2-2b-426k", "W_enc_0.safetensors", "parts of a cross-layer transcoder"),
        ("canrager/temporalSAEs", "gemma/layer_12/latest_ckpt.safetensors", "a temporal SAE"),
        ("google/gemma-scope-2-1b-pt", "crosscoder/l/params_0.safetensors", "a crosscoder"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(repo, path, reason):
    there = Listing(repo=repo, commit=COMMIT, files={path: 1, "config.yaml": 1})
    with pytest.raises(ValueError, match=reason):
        choose(SAEId(repo), there)


def test_a_folder_without_weights_is_named():
    folder = "transcoder/layer_3_width_16k_l0_small"
    files = {f"{folder}/config.json": 1, f"{folder}_affine/params.safetensors": 1}
    there = Listing(repo="google/gemma-scope-2-1b-pt", commit=COMMIT, files=files)
    with pytest.raises(ValueError, match=r"holds no weights on the hub, only config\.json"):
        choose(SAEId(there.repo, folder), there)
    assert choose(SAEId(there.repo, f"{folder}_affine"), there) == f"{folder}_affine"


def test_where_files_are_saes_the_id_names_the_file():
    repo = "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50"
    files = {f"layer{n}.sae.pt": 5 for n in (10, 2, 0)} | {"README.md": 1}
    there = Listing(repo=repo, commit=COMMIT, files=files)
    assert choose(SAEId(repo, "layer2.sae.pt"), there) == "layer2.sae.pt"
    entries = catalog_of(SAEId(repo), there)
    assert [entry.id for entry in entries] == [f"{repo}/layer{n}.sae.pt" for n in (0, 2, 10)]
    assert [entry.site for entry in entries] == [Site("resid_post", n) for n in (0, 2, 10)]
    assert {(entry.width, entry.l0) for entry in entries} == {(32 * 1024, 50)}
    with pytest.raises(ValueError, match=r"has no layer1\.sae\.pt, but e\.g\. layer0"):
        choose(SAEId(repo, "layer1.sae.pt"), there)


def test_a_folder_may_hold_its_weights_deeper():
    repo, place = "fnlp/Llama3_1-8B-Base-LXTC-8x", "Llama3_1-8B-Base-L8TC-8x"
    files = {f"{place}/checkpoints/final.safetensors": 9, f"{place}/README.md": 1}
    (entry,) = catalog_of(SAEId(repo), Listing(repo=repo, commit=COMMIT, files=files))
    assert (entry.id, entry.width, entry.l0) == (f"{repo}/{place}", 32_768, 50)
    assert (entry.site, entry.site_out) == (Site("mlp_in_unit", 8), Site("mlp_out", 8))


def doubled(*groups: tuple[str, ...]) -> dict[str, str]:
    """Hashes by which the folders of each group hold one file."""
    return {
        f"{folder}/params.npz": f"{number}" * 64
        for number, group in enumerate(groups)
        for folder in group
    }


def test_files_that_appear_twice_are_marked_and_no_canonical_ones():
    near, twice = "layer_3/width_16k/average_l0_98", "layer_4/width_16k/average_l0_98"
    others = ("layer_3/width_16k/average_l0_70", "layer_4/width_65k/average_l0_53")
    there = replace(listing(near, twice, *others), hashes=doubled((near, twice), (others[0],)))
    result = catalog(there)
    assert (result[near].same_as, result[twice].same_as) == (
        f"gemma-scope-2b-pt-res/{twice}",
        f"gemma-scope-2b-pt-res/{near}",
    )
    assert {name for name, entry in result.items() if entry.canonical} == {*others, twice}
    assert choose(SAEId(RES, "layer_3/width_16k/canonical"), there) == others[0]
    # Where there is no other, it is taken.
    assert choose(SAEId(RES, "layer_4/width_16k/canonical"), there) == twice


def test_one_file_under_two_l0s_is_still_of_its_layer():
    folders = ("layer_3/width_16k/average_l0_98", "layer_3/width_16k/average_l0_60")
    there = replace(listing(*folders), hashes=doubled(folders))
    assert choose(SAEId(RES, "layer_3/width_16k/canonical"), there) == folders[0]
    assert all(entry.same_as for entry in catalog(there).values())


def test_a_repository_without_saes_says_so():
    there = Listing(repo="google/gemma-2-2b", commit=COMMIT, files={"model.safetensors": 1})
    with pytest.raises(ValueError, match="google/gemma-2-2b holds no SAE in a format"):
        choose(SAEId("google/gemma-2-2b"), there)


def catalog(there: Listing, folder: str = "") -> dict[str, CatalogEntry]:
    sae_id = SAEId(there.repo, folder)
    return {entry.id.partition("/")[2]: entry for entry in catalog_of(sae_id, there)}


def test_catalog_names_site_width_and_l0_in_natural_order():
    result = catalog(listing(*reversed(LAYERS)))
    assert [*result][:4] == [
        "layer_0/width_16k/average_l0_18",
        "layer_0/width_16k/average_l0_71",
        "layer_0/width_16k/average_l0_143",
        "layer_0/width_65k/average_l0_18",
    ]
    assert [*result][12].startswith("layer_2/")
    entry = result["layer_20/width_65k/average_l0_71"]
    assert (entry.site, entry.width, entry.l0) == (Site("resid_post", 20), 65_536, 71)
    assert entry.bytes == 302_000_000
    assert entry.commit == COMMIT
    assert entry.canonical
    assert sum(entry.canonical for entry in result.values()) == 52


def test_catalog_of_a_part():
    there = listing(*LAYERS)
    assert len(catalog(there, "layer_2")) == 6
    assert [*catalog(there, "layer_2/width_16k/canonical")] == ["layer_2/width_16k/average_l0_71"]
    assert [*catalog(there, "layer_2/width_16k/average_l0_18")] == [
        "layer_2/width_16k/average_l0_18"
    ]


def test_files_cut_short_on_the_hub_are_marked():
    cut = {"layer_22/width_65k/average_l0_71/params.npz": 110_000_000}
    # A few bytes of header more or less are no difference.
    longer = {"layer_23/width_65k/average_l0_71/params.npz": 302_000_064}
    result = catalog(listing(*LAYERS, sizes=cut | longer))
    assert [name for name, entry in result.items() if not entry.whole] == [
        "layer_22/width_65k/average_l0_71"
    ]
    alone = catalog(listing(*LAYERS, sizes=cut), "layer_22/width_65k/average_l0_71")
    assert not alone["layer_22/width_65k/average_l0_71"].whole


def test_catalog_of_gemma_scope_2():
    names = [
        "resid_post/layer_5_width_16k_l0_small",
        "transcoder_all/layer_12_width_262k_l0_big_affine",
        "clt/width_262k_l0_medium",
    ]
    files = {f"{name}/params.safetensors": 100 for name in names}
    repo = "google/gemma-scope-2-1b-pt"
    result = catalog(Listing(repo=repo, commit=COMMIT, files=files))
    assert [*result] == names[:2]
    small, transcoder = result.values()
    assert (small.width, small.level, small.affine, small.l0) == (16_384, "small", False, None)
    assert (transcoder.width, transcoder.level, transcoder.affine) == (262_144, "big", True)
    assert (transcoder.site, transcoder.site_out) == (Site("mlp_in", 12), Site("mlp_out", 12))


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("4k", 4096),
        ("16k", 16_384),
        ("32K", 32_768),
        ("65k", 65_536),
        ("131k", 131_072),
        ("262k", 262_144),
        ("524k", 524_288),
        ("1m", 1_048_576),
        ("16384", 16_384),
        ("64", 64),
    ],
)
def test_widths_are_read_as_people_write_them(text, width):
    assert width_of(text) == width


@pytest.mark.parametrize("text", ["", "wide", "16 k", "0k", "-1", "1.5m"])
def test_other_widths_are_refused(text):
    with pytest.raises(ValueError, match="is not a number of features such as 16k"):
        width_of(text)
