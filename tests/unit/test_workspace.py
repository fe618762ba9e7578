"""Workspaces: bundles of models and SAEs that are named, kept in the user's data folder."""

import errno
import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sae_core.bundle import BUNDLE_FILE, Bundle, write_bundle
from sae_core.workspace import (
    folder_of,
    is_workspace,
    located_sae,
    model_slug,
    readable_name,
    workspace,
)
from tests import tiny


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's data folder."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "jumpscope"


@pytest.fixture
def saes(tiny_sae_folder: Path, tmp_path: Path) -> list[str]:
    """Four SAE folders of one content."""
    return [
        str(shutil.copytree(tiny_sae_folder, tmp_path / name))
        for name in ("first", "second", "third", "other/first")
    ]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (
            "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71",
            "gemma-scope-2b-pt-res-layer_20-width_16k-l0_71",
        ),
        (
            "gemma-scope-2b-pt-res/layer_20/width_16k/canonical@fd571b4",
            "gemma-scope-2b-pt-res-layer_20-width_16k-canonical-fd571b4",
        ),
        ("owner/some-saes/blocks.3.hook_mlp_out", "some-saes-blocks.3.hook_mlp_out"),
        ("owner/some-saes", "some-saes"),
        ("/home/me/runs/first", "first"),
        ("/home/me/runs/ae.pt", "runs"),
        ("/data/mine/layer_20/width_16k/average_l0_71", "mine-layer_20-width_16k-l0_71"),
        ("/data/mine/layer_20/width_16k/average_l0_71/params.npz", "mine-layer_20-width_16k-l0_71"),
        ("/data/run 1/trainer_0", "run-1-trainer_0"),
        ("/data/.hidden", "hidden"),
        ("/saes", "saes"),
    ],
)
def test_names_can_be_read(source: str, name: str) -> None:
    assert readable_name(source) == name


def test_a_workspace_is_a_bundle_where_the_model_says(
    tiny_bundle: Bundle, saes: list[str], data: Path
) -> None:
    model = str(tiny_bundle.path / "model")
    bundle = workspace(model, saes[:2])
    assert bundle.path == folder_of(model) == data / "bundles" / model_slug(model)
    assert is_workspace(bundle)
    assert not is_workspace(tiny_bundle)
    assert bundle.sae_names == ("first", "second")
    assert bundle.sources == {"first": saes[0], "second": saes[1]}
    assert not bundle.sae_path("first").exists()
    assert bundle.sae_config("second").d_sae == tiny.D_SAE
    assert bundle.load().sae_names == ["first", "second"]
    again = Bundle.open(bundle.path)
    assert (again.sae_names, again.sources) == (bundle.sae_names, bundle.sources)


def test_a_workspace_grows_and_shows_what_is_asked_for(
    tiny_bundle: Bundle, saes: list[str]
) -> None:
    model = str(tiny_bundle.path / "model")
    workspace(model, saes[:2])
    bundle = workspace(model, [saes[3], saes[1], saes[3]])
    assert bundle.sae_names == ("first-2", "second")
    assert Bundle.open(bundle.path).sae_names == ("first", "second", "first-2")
    # What somebody wrote into it stays.
    file = bundle.path / BUNDLE_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"title": "Mine"}))
    assert workspace(model, saes[2:3]).title == "Mine"


def test_those_who_extend_it_at_once_lose_nothing(
    tiny_bundle: Bundle, tiny_sae_folder: Path, tmp_path: Path
) -> None:
    """The lock is on a file: it holds between threads as between processes."""
    model = str(tiny_bundle.path / "model")
    sources = [str(shutil.copytree(tiny_sae_folder, tmp_path / f"sae{n}")) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda source: workspace(model, [source]), sources))
    bundle = Bundle.open(folder_of(model))
    assert bundle.sources == {each.sae_names[0]: s for each, s in zip(made, sources, strict=True)}
    assert len(bundle.sae_names) == 8


def test_what_is_neither_path_nor_id_gets_one_sentence(
    tiny_bundle: Bundle, saes: list[str], data: Path
) -> None:
    model = str(tiny_bundle.path / "model")
    with pytest.raises(ValueError, match="neither a model's folder nor a hub id"):
        workspace("gemma", saes[:1])
    with pytest.raises(ValueError, match="neither an SAE's folder nor a hub id"):
        workspace(model, ["./nowhere"])
    with pytest.raises(ValueError, match="at least one SAE"):
        workspace(model, [])
    Path(saes[0], "sae_weights.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"first"):
        workspace(model, saes[:1])
    assert not data.exists()


def test_ids_are_written_alike_whoever_types_them() -> None:
    short = "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"
    assert located_sae(f"google/{short}") == located_sae(short) == short


# Sources in a bundle.json


@pytest.fixture
def moved(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle whose SAE's weights lie in its folder `weights`."""
    folder = tmp_path / "moved"
    shutil.copytree(tiny_bundle.path, folder)
    shutil.move(folder / "saes" / tiny.SAE_NAME, folder / "weights")
    (folder / "saes" / tiny.SAE_NAME).mkdir()
    shutil.move(folder / "weights" / "index.duckdb", folder / "saes" / tiny.SAE_NAME)
    return folder


def rewrite(folder: Path, source: str) -> None:
    write_bundle(
        folder,
        name="moved",
        title="",
        model="model",
        saes=[{"name": tiny.SAE_NAME, "source": source}],
    )


def test_weights_may_lie_elsewhere_in_the_bundle(moved: Path) -> None:
    rewrite(moved, "weights")
    bundle = Bundle.open(moved)
    assert bundle.index_path(tiny.SAE_NAME).is_file()
    assert bundle.load_sae(tiny.SAE_NAME).cfg.site == tiny.SITE
    digest = bundle.sae_config(tiny.SAE_NAME).metadata["content_hash"]
    assert bundle.content_hash(tiny.SAE_NAME) == digest


def test_a_relative_source_stays_in_the_bundle(moved: Path, tiny_sae_folder: Path) -> None:
    with pytest.raises(ValueError, match="outside the bundle"):
        rewrite(moved, "../elsewhere")
    rewrite(moved, str(tiny_sae_folder))  # an absolute one goes where it says
    assert Bundle.open(moved).sae_config(tiny.SAE_NAME).d_sae == tiny.D_SAE


def test_a_source_means_the_same_wherever_one_stands(
    moved: Path, tiny_sae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of that name where the process happens to be is not the one that is meant."""
    shutil.copytree(tiny_sae_folder, tmp_path / "here" / "owner" / "name")
    monkeypatch.chdir(tmp_path / "here")
    rewrite(moved, "owner/name")
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE"):
        Bundle.open(moved).sae_config(tiny.SAE_NAME)
    rewrite(moved, "nowhere")
    with pytest.raises(ValueError, match="neither a path in it nor a hub id"):
        Bundle.open(moved).sae_config(tiny.SAE_NAME)


# A data folder that cannot be written


@pytest.fixture
def read_only(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing can be made in the data folder; temporary files go to the folder that is returned."""
    make = Path.mkdir

    def refuse(self: Path, *args: Any, **options: Any) -> None:
        if self.is_relative_to(data):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        make(self, *args, **options)

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return temporary


def test_where_the_data_folder_is_read_only_a_temporary_one_is_used_and_said_once(
    tiny_bundle: Bundle, saes: list[str], read_only: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = str(tiny_bundle.path / "model")
    bundle = workspace(model, saes[:1])
    assert bundle.path.is_relative_to(read_only)
    assert bundle.load_sae("first").cfg.d_sae == tiny.D_SAE
    # Commands by the model's name go there as well, and so does the next process.
    assert is_workspace(bundle)
    assert workspace(model, saes[:2]).sae_names == ("first", "second")
    assert caplog.text.count("cannot be written: what is built for this model goes to") == 1
    assert (read_only / f"jumpscope-{os.getuid()}").stat().st_mode & 0o077 == 0


def test_a_workspace_that_holds_all_is_only_read(
    tiny_bundle: Bundle, saes: list[str], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(tiny_bundle.path / "model")
    made = workspace(model, saes[:2])
    (made.path / "bundle.lock").unlink(missing_ok=True)
    again = workspace(model, saes[1:2])
    assert (again.path, again.sae_names) == (made.path, ("second",))
    assert not (made.path / "bundle.lock").exists()


def test_a_user_without_a_home_gets_a_temporary_folder(
    tiny_bundle: Bundle, saes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    bundle = workspace(str(tiny_bundle.path / "model"), saes[:1])
    assert bundle.path.is_relative_to(tmp_path / f"jumpscope-{os.getuid()}")
    assert is_workspace(bundle)


def test_a_temporary_folder_that_somebody_else_made_is_refused(
    saes: list[str], tiny_bundle: Bundle, read_only: Path, tmp_path: Path
) -> None:
    (read_only / f"jumpscope-{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="belongs to somebody else: set XDG_DATA_HOME"):
        workspace(str(tiny_bundle.path / "model"), saes[:1])
