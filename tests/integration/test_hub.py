"""The real client against the tests' hub: fetching, offline, revisions, gates, and listing."""

import json
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import hf_hub_download

from app.cli import main
from sae_core.config import Site
from sae_core.hub import SAEId, fetch, parse_id, read_catalog
from sae_core.language_model import load_language_model
from sae_core.sources import is_id, load_sae, sae_config
from tests.hub import Hub
from tests.hub_protocol import MEMBER_TOKEN, Asked
from tests.hub_repos import CHAT_MODEL, MODEL, TRUNCATED

RES = "google/gemma-scope-2b-pt-res"
FOLDER = "layer_1/width_16k/average_l0_71"
ID = f"gemma-scope-2b-pt-res/{FOLDER}"


def sae_id(text: str) -> SAEId:
    result = parse_id(text)
    assert result is not None
    return result


def files_asked(seen: list[Asked]) -> list[str]:
    """The names of the files that were sent."""
    return [a.path for a in seen if a.method == "GET" and not a.path.startswith("/api/")]


@pytest.fixture
def moving(hub: Hub, tmp_path: Path) -> tuple[str, str, str]:
    """A repository with an old commit, tagged v1, and a newer one on main: its name and both."""
    folder = tmp_path / "moving" / "sae"
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text('{"d_sae": 1}')
    (folder / "sae_weights.safetensors").write_bytes(b"old")
    repo = f"example/{tmp_path.name}"
    old = hub.publish(repo, folder.parent)
    hub.publish(repo, folder.parent, revision="v1")
    (folder / "sae_weights.safetensors").write_bytes(b"new")
    return repo, old, hub.publish(repo, folder.parent)


def test_only_what_is_needed_is_fetched_and_only_once(hub, client):
    with hub.watch() as seen:
        folder, origin = fetch(sae_id(ID))
    assert [Path(path).name for path in files_asked(seen)] == ["params.npz"]
    commit = hub.repositories[RES].revisions["main"]
    assert (folder / "params.npz").read_bytes() == commit.files[f"{FOLDER}/params.npz"]
    assert (origin.repo, origin.path, origin.revision) == (RES, FOLDER, commit.id)
    with hub.watch() as seen:
        assert fetch(sae_id(ID)) == (folder, origin)
    assert [str(asked) for asked in seen] == [f"GET /api/models/{RES}"]  # whether main has moved
    with hub.watch() as seen:
        assert fetch(sae_id(f"{ID}@{commit.id}"))[0] == folder
    assert seen == []  # a commit does not move


def test_offline_afterwards_nothing_is_asked(hub, client):
    folder, origin = fetch(sae_id(ID))
    listed = read_catalog(RES)
    client.offline()
    with hub.watch() as seen:
        assert fetch(sae_id(ID)) == (folder, origin)
        assert fetch(sae_id("gemma-scope-2b-pt-res/layer_1/width_16k/canonical")) == (
            folder,
            origin,
        )
        assert read_catalog(RES) == listed
        with pytest.raises(ValueError, match="average_l0_22 is not among the files downloaded"):
            fetch(sae_id("gemma-scope-2b-pt-res/layer_1/width_16k/average_l0_22"))
    assert seen == []
    # Other libraries, which ask for the branch, find it too.
    assert hf_hub_download(RES, f"{FOLDER}/params.npz") == str(folder / "params.npz")


def test_offline_without_a_list_only_full_ids_are_known(hub, client):
    hf_hub_download(RES, f"{FOLDER}/params.npz")  # by hand, or by another library
    client.offline()
    folder, origin = fetch(sae_id(ID))
    assert (folder / "params.npz").is_file()
    assert origin.l0 == 71
    for last, sentence in (
        ("canonical", "cannot be told, for HF_HUB_OFFLINE is set and the repository was never"),
        ("average_l0_22", "not among the files downloaded before, and HF_HUB_OFFLINE is set"),
    ):
        with pytest.raises(ValueError, match=sentence):
            fetch(sae_id(f"gemma-scope-2b-pt-res/layer_1/width_16k/{last}"))
    with pytest.raises(ValueError, match="was never listed and the hub cannot be reached"):
        read_catalog(RES)
    with pytest.raises(ValueError, match=r"mlp is not among the files .* HF_HUB_OFFLINE is set"):
        fetch(sae_id("gemma-scope-2b-pt-mlp/layer_1/width_16k/average_l0_85"))


def test_a_hub_that_is_down_is_done_without(hub, client, caplog):
    folder, origin = fetch(sae_id(ID))
    with hub.trouble("status", value=503):
        assert fetch(sae_id(ID)) == (folder, origin)
    assert f"going on with {RES} as of {origin.revision[:8]}" in caplog.text
    client.endpoint("http://127.0.0.1:9")  # nobody listens there
    assert fetch(sae_id(ID)) == (folder, origin)


def test_a_revision_is_pinned(hub, client, moving):
    repo, old, new = moving
    for revision, commit, content in (
        (None, new, b"new"),
        ("main", new, b"new"),
        ("v1", hub.repositories[repo].revisions["v1"].id, b"old"),
        (old, old, b"old"),
    ):
        folder, origin = fetch(SAEId(repo, "sae", revision))
        assert (folder / "sae_weights.safetensors").read_bytes() == content
        assert origin.revision == commit
        assert (folder / "cfg.json").is_file()


def test_main_may_move_between_two_fetches(hub, client, moving, tmp_path):
    repo, _, new = moving
    assert fetch(SAEId(repo))[1].revision == new
    (tmp_path / "moving" / "sae" / "sae_weights.safetensors").write_bytes(b"newer")
    newer = hub.publish(repo, tmp_path / "moving")
    folder, origin = fetch(SAEId(repo))
    assert origin.revision == newer
    assert (folder / "sae_weights.safetensors").read_bytes() == b"newer"
    client.offline()
    assert fetch(SAEId(repo))[1].revision == newer


def test_a_damaged_list_is_fetched_again(hub, client):
    read_catalog(RES)
    (kept,) = client.cache.rglob("assets/jumpscope/*/files/*.json")
    kept.write_text('{"a":')
    assert len(read_catalog(RES)) == 9
    assert json.loads(kept.read_text())


def test_a_cut_connection_is_taken_up_where_it_broke(hub, client):
    client.small_pieces()
    with hub.watch() as seen, hub.trouble("cut", "params.npz", 50_000, times=1, methods=("GET",)):
        folder, _ = fetch(sae_id(ID))
    first, second = (asked for asked in seen if asked.method == "GET" and "/cdn/" in asked.path)
    assert first.range is None
    assert second.range is not None
    assert 0 < int(second.range.removeprefix("bytes=").removesuffix("-")) <= 50_000
    content = hub.repositories[RES].revisions["main"].files[f"{FOLDER}/params.npz"]
    assert (folder / "params.npz").read_bytes() == content


def test_the_store_of_large_files_gets_no_token(hub, client):
    client.token(MEMBER_TOKEN)
    with hub.watch() as seen:
        fetch(sae_id(ID))
    for asked in seen:
        assert asked.token == (None if asked.path.startswith("/cdn/") else MEMBER_TOKEN), asked


@pytest.mark.parametrize(
    ("text", "site", "site_out", "l0"),
    [
        (ID, "resid_post/1", None, 71),
        ("gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6", "resid_pre/0", None, 6),
        ("gemma-scope-2b-pt-mlp/layer_1/width_16k/canonical", "mlp_out/1", None, 85),
        ("gemma-scope-2b-pt-att/layer_1/width_16k/average_l0_80", "attn_out/1", None, 80),
        (
            "gemma-scope-2b-pt-transcoders/layer_1/width_16k/average_l0_22",
            "mlp_in_unit/1",
            "mlp_out/1",
            22,
        ),
        ("gemma-scope-2-1b-pt/resid_post/layer_1_width_16k_l0_small", "resid_post/1", None, 15),
        (
            "gemma-scope-2-1b-pt/transcoder_all/layer_1_width_16k_l0_medium_affine",
            "mlp_in/1",
            "mlp_out/1",
            50,
        ),
        ("example/saelens", "resid_post/1", None, None),
        ("example/sparsify/layers.1", "resid_post/1", None, None),
        ("example/dictionary-learning/resid_post_layer_1/trainer_0", "resid_post/1", None, None),
    ],
)
def test_every_layout_loads_by_its_id(text, site, site_out, l0, hub, client):
    sae = load_sae(text)
    assert sae.cfg == sae_config(text) or sae.cfg.metadata.pop("content_hash")
    assert sae.cfg.site == Site.parse(site)
    assert sae.cfg.site_out == (Site.parse(site_out) if site_out else None)
    assert sae.cfg.metadata.get("declared") == (None if l0 is None else {"l0": l0})
    source = sae.cfg.metadata["source"]
    assert source["repo"] == sae_id(text).repo
    assert source["revision"] == hub.repositories[source["repo"]].revisions["main"].id
    assert all(bool(p.isfinite().all()) for p in sae.parameters())


def test_a_file_cut_short_on_the_hub_itself_is_pointed_out(hub, client, caplog):
    sentence = (
        r"params\.npz is damaged or cut short \(.*\), and as long as on the hub: "
        r"google/gemma-scope-2b-pt-res's own file is not whole, so choose another folder"
    )
    for read in (load_sae, sae_config):
        with pytest.raises(ValueError, match=sentence):
            read(f"gemma-scope-2b-pt-res/{TRUNCATED}")
    assert "smaller on the hub than others of its kind" in caplog.text


@pytest.mark.parametrize("kept", [50_000, 0])
def test_a_file_that_is_shorter_than_the_hubs_is_to_be_downloaded_again(kept, hub, client):
    folder, _ = fetch(sae_id(ID))
    os.truncate(folder / "params.npz", kept)
    for read in (load_sae, sae_config):
        with pytest.raises(ValueError, match=r"params\.npz is .*: copy or download it again\.$"):
            read(ID)


def test_a_path_that_exists_wins_over_an_id(hub, client, tiny_sae_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_id("example/saelens")
    (tmp_path / "example").mkdir()
    (tmp_path / "example" / "saelens").symlink_to(tiny_sae_folder)
    assert not is_id("example/saelens")
    with hub.watch() as seen:
        assert load_sae("example/saelens").cfg.d_sae == 64
        with pytest.raises(ValueError, match=r"^\./example/sae does not exist: give a folder or"):
            load_sae("./example/sae")
    assert seen == []


def test_list_shows_l0s_by_site_and_width_and_downloads_no_weights(hub, client, capsys):
    with hub.watch() as seen:
        assert main(["list", "gemma-scope-2b-pt-res"]) == 0
    assert files_asked(seen) == []
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    pattern = "gemma-scope-2b-pt-res/layer_1/width_16k/average_l0_N"
    assert ["resid_post/1", "16,384", "22", "71*", "176", "136.5", "kB", pattern] in lines
    assert ["!", "its", "size", "is", "not", "that", "of", "a", "whole", "file"] in lines
    marked = next(line for line in lines if "53!" in line)
    assert marked[:4] == ["resid_post/2", "65,536", "53!", "105*"]


def test_list_as_json_with_filters(hub, client, capsys):
    argv = ["list", "gemma-scope-2b-pt-res", "--layer", "1", "--width", "16k", "--json"]
    assert main(argv) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["commit"] == hub.repositories[RES].revisions["main"].id
    assert [sae["l0"] for sae in result["saes"]] == [22, 71, 176]
    assert [sae["canonical"] for sae in result["saes"]] == [False, True, False]
    content = hub.repositories[RES].revisions["main"].files
    assert result["saes"][1] == {
        "id": ID,
        "site": "resid_post/1",
        "site_out": None,
        "width": 16_384,
        "l0": 71,
        "level": None,
        "affine": False,
        "canonical": True,
        "bytes": len(content[f"{FOLDER}/params.npz"]),
        "whole": True,
        "same_as": None,
    }
    assert main(["list", "gemma-scope-2b-pt-res", "--layer", "9"]) == 2
    assert "offers 9 SAEs, but none of this kind: of layers 0, 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("repo", "rows"),
    [
        ("example/saelens", [("resid_post/1", 64)]),
        ("example/sparsify", [("resid_post/0", 128), ("resid_post/1", 128)]),
        ("example/dictionary-learning", [("resid_post/1", 128), ("resid_post/1", 128)]),
    ],
)
def test_list_reads_settings_files_where_names_say_nothing(repo, rows, hub, client):
    with hub.watch() as seen:
        result = read_catalog(repo)
    assert [(str(entry.site), entry.width) for entry in result] == rows
    assert all(path.endswith(".json") for path in files_asked(seen))
    assert all(fetch(sae_id(entry.id))[0].is_dir() for entry in result)


def test_list_of_a_folder_on_disk(tiny_bundle, capsys):
    assert main(["list", str(tiny_bundle.path)]) == 0
    out = capsys.readouterr().out
    assert f"resid_post/1  64     -   17.4 kB       {tiny_bundle.path}/saes/tiny" in out
    assert main(["list", str(tiny_bundle.path / "model")]) == 2
    assert "holds no SAE" in capsys.readouterr().err


def test_a_gated_model_is_had_with_a_login_and_then_offline(hub, client, tiny_model):
    client.token(MEMBER_TOKEN)
    model, _ = load_language_model(MODEL, torch.float32)
    ids = torch.tensor([[2, 5, 6, 7]])
    assert torch.equal(model(ids).logits, tiny_model(ids).logits)
    client.offline()
    client.token(None)
    with hub.watch() as seen:
        load_language_model(MODEL, torch.float32)
    assert seen == []


def test_the_chat_model_has_gemmas_template(hub, client):
    client.token(MEMBER_TOKEN)
    _, tokenizer = load_language_model(CHAT_MODEL, torch.float32)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": " hi "}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n"


def test_the_environment_alone_decides(hub, tmp_path):
    def listing(offline: bool) -> tuple[int, str, str]:
        done = hub.python("-m", "app.cli", "list", ID, "--json", cache=tmp_path, offline=offline)
        return done.returncode, done.stdout, done.stderr

    with hub.watch() as seen:
        status, out, err = listing(offline=False)
    assert status == 0, err
    assert err == ""  # a line for each request would be noise
    assert len(seen) == 3
    with hub.watch() as seen:
        assert listing(offline=True) == (0, out, "")
    assert seen == []
