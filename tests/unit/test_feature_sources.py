"""An app notices an index that is rebuilt, replaced or removed, and weights that change."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.endpoints import Api
from app.engine import feature_sources
from app.engine.feature_sources import FeatureSources
from app.engine.indexes import NoIndexError, open_index
from app.requests import RequestError
from app.web.revision import revision_of
from sae_core import file_hashes
from sae_core.bundle import Bundle
from sae_core.files import data_folder, sha256
from sae_core.formats.saelens_config import CONFIG_FILE
from sae_core.index import Index
from tests import tiny
from tests.unit.service_support import FIRING, SETTINGS, api_of
from tests.unit.test_pages import ask

SAE = tiny.SAE_NAME


@pytest.fixture(autouse=True)
def _looks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_sources, "LOOK_SECONDS", 0.0)


@pytest.fixture
def sources(bundle: Bundle) -> FeatureSources:
    def load() -> None:
        raise AssertionError("the model was loaded")

    return FeatureSources(bundle, load)  # pyright: ignore[reportArgumentType]


def renamed(path: Path, signature: str) -> Path:
    """A copy of an index beside it, in which every feature has this signature."""
    copy = Path(shutil.copy(path, path.with_name("copy.duckdb")))
    with duckdb.connect(str(copy)) as connection:
        connection.execute("UPDATE features SET signature = ?", [signature])
    return copy


def said(index: Index) -> str:
    return index.summaries([FIRING])[FIRING]["signature"]


def test_an_index_that_is_replaced_is_read_and_who_holds_the_old_one_goes_on(
    sources: FeatureSources, bundle: Bundle
) -> None:
    path = bundle.index_path(SAE)
    old = sources.index(SAE)
    before, revision = old.feature(FIRING), sources.revision(SAE)
    assert sources.index(SAE) is old
    os.replace(renamed(path, "another"), path)
    new = sources.index(SAE)
    assert said(new) == "another"
    assert sources.revision(SAE) != revision
    assert old.feature(FIRING) == before
    assert sources.note(SAE) == ""


def test_an_index_that_goes_and_comes_is_noticed(sources: FeatureSources, bundle: Bundle) -> None:
    path = bundle.index_path(SAE)
    sources.index(SAE)
    path.rename(path.with_name("away"))
    with pytest.raises(NoIndexError, match="has no index yet"):
        sources.index(SAE)
    assert sources.revision(SAE) == ""
    path.with_name("away").rename(path)
    assert sources.missing(SAE) is None
    assert sources.revision(SAE)


def damaged(path: Path) -> Path:
    copy = path.with_name("copy.duckdb")
    copy.write_bytes(path.read_bytes()[:40_000])
    return copy


def of_other_weights(path: Path) -> Path:
    copy = Path(shutil.copy(path, path.with_name("copy.duckdb")))
    with duckdb.connect(str(copy)) as connection:
        connection.execute("UPDATE meta SET value = '\"0000\"' WHERE key = 'sae_hash'")
    return copy


@pytest.mark.parametrize(
    ("made", "reason"),
    [(damaged, "cannot be read"), (of_other_weights, "was built from other weights")],
)
def test_a_file_that_cannot_be_used_is_not_taken_and_that_is_said(
    made: Callable[[Path], Path], reason: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    workbench = api_of(bundle).workbench
    sources, path = workbench.sources, bundle.index_path(SAE)
    old, revision = sources.index(SAE), sources.revision(SAE)
    shutil.copy(path, path.with_name("kept"))
    os.replace(made(path), path)
    opened: list[str] = []

    def counted(*given: object) -> Index:
        opened.append(SAE)
        return open_index(*given)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(feature_sources, "open_index", counted)
    for _ in range(3):
        assert sources.index(SAE) is old
    # It is tried once, not for every request.
    assert len(opened) == 1
    reads = revision_of(workbench, "")
    assert reads["revision"] == f"{SAE}@{revision}"
    assert reason in reads["note"]
    assert "the one from before goes on" in reads["note"]
    assert "jumpscope index" in reads["note"]
    os.replace(path.with_name("kept"), path)
    assert sources.index(SAE) is not old
    assert revision_of(workbench, "")["note"] == ""


def test_queries_do_not_read_the_index_of_other_weights(bundle: Bundle) -> None:
    """Their process opens the file that is there now, while pages go on with the one before."""
    api = api_of(bundle)
    query = "SELECT signature FROM features WHERE feature = 5"
    before = api.sql(query=query)["rows"]
    path = bundle.index_path(SAE)
    other = renamed(path, "of other weights")
    with duckdb.connect(str(other)) as connection:
        connection.execute("UPDATE meta SET value = '\"other\"' WHERE key = 'sae_hash'")
    kept = shutil.copy(path, path.with_name("kept.duckdb"))
    os.replace(other, path)
    assert [[api.feature(feature=5)["signature"]]] == before
    with pytest.raises(RequestError, match="index of other weights, which queries do not read"):
        api.sql(query=query)
    page = ask(api.workbench, f"/sql.csv?q={query}")
    assert page.status_code == 400
    assert "of other weights" in page.text
    os.replace(kept, path)
    assert api.sql(query=query)["rows"] == before


def test_a_damaged_first_index_is_opened_once_and_read_when_it_is_repaired(
    sources: FeatureSources, bundle: Bundle
) -> None:
    path = bundle.index_path(SAE)
    shutil.copy(path, path.with_name("kept"))
    os.replace(damaged(path), path)
    for _ in range(2):
        with pytest.raises(NoIndexError, match="cannot be read"):
            sources.index(SAE)
    os.replace(path.with_name("kept"), path)
    assert said(sources.index(SAE))


def test_while_a_new_index_is_opened_others_have_the_old_one(
    sources: FeatureSources, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle.index_path(SAE)
    old = sources.index(SAE)
    os.replace(renamed(path, "another"), path)
    opening, enough = threading.Event(), threading.Event()

    def slowly(*given: object) -> Index:
        opening.set()
        assert enough.wait(60)
        return open_index(*given)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(feature_sources, "open_index", slowly)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(sources.index, SAE)
        assert opening.wait(60)
        assert sources.index(SAE) is old
        enough.set()
        assert said(first.result()) == "another"
    assert said(sources.index(SAE)) == "another"


def changed_weights(bundle: Bundle) -> None:
    """Other weights under the same cfg.json, which names the hash of the first ones."""
    folder = bundle.sae_path(SAE)
    config = (folder / CONFIG_FILE).read_bytes()
    tensors = load_file(folder / "sae_weights.safetensors")
    # Half as large: every threshold is passed as before by inputs twice as large alone.
    tensors["W_enc"], tensors["W_dec"] = tensors["W_enc"] / 2, tensors["W_dec"] * 2
    save_file(tensors, folder / "new.safetensors")
    os.replace(folder / "new.safetensors", folder / "sae_weights.safetensors")
    assert (folder / CONFIG_FILE).read_bytes() == config


def test_weights_that_change_under_the_same_configuration_are_noticed(
    bundle: Bundle,
) -> None:
    api = api_of(bundle)
    text = "The old clock measures two letters at noon."
    before = api.prompt_features(text=text)
    assert api.prompt_features(text=text) == before
    assert before["missing"] is None
    index = api.workbench.sources.index(SAE)
    changed_weights(bundle)
    after = api.prompt_features(text=text)
    assert "was built from other weights" in after["missing"]["reason"]
    with pytest.raises(NoIndexError, match="was built from other weights"):
        api.workbench.sources.index(SAE)
    assert index.feature(FIRING)["feature"] == FIRING
    weights = loaded(api)
    assert torch.equal(
        weights, load_file(bundle.sae_path(SAE) / "sae_weights.safetensors")["W_enc"]
    )
    assert after != before


def test_weights_that_changed_before_the_app_began_are_noticed_though_cfg_json_is_as_it_was(
    bundle: Bundle,
) -> None:
    declared = bundle.sae_config(SAE).metadata["content_hash"]
    assert bundle.content_hash(SAE) == declared
    changed_weights(bundle)
    api = api_of(Bundle.open(bundle.path))
    assert api.workbench.bundle.content_hash(SAE) != declared
    with pytest.raises(NoIndexError, match="was built from other weights"):
        api.workbench.sources.index(SAE)


def test_notes_of_other_weights_under_the_same_cfg_json_are_not_shown(
    bundle: Bundle, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, notes=str(tmp_path / "notes.duckdb"))
    api_of(bundle, settings).notes(1, label="of the first weights")
    changed_weights(bundle)
    api = api_of(Bundle.open(bundle.path), settings)
    assert api.notes(1)["label"] is None


def test_a_list_takes_features_of_the_weights_that_a_page_shows_and_of_no_others(
    bundle: Bundle, tmp_path: Path
) -> None:
    """A tray on a page that was opened before the weights were replaced holds their features."""
    api = api_of(bundle, replace(SETTINGS, notes=str(tmp_path / "notes.duckdb")))
    list_id = api.lists(action="make", name="gathered")["list"]["id"]
    shown = bundle.content_hash(SAE)
    added = api.lists(list_id, "add", features=[1, 2], sae=shown)["list"]["features"]
    assert [(each["sae_hash"], each["sae"]) for each in added] == [(shown, SAE)] * 2
    changed_weights(bundle)
    with pytest.raises(RequestError, match="No SAE has these weights any more: load the page"):
        api.lists(list_id, "add", features=[3], sae=shown)
    assert len(api.lists(list_id)["list"]["features"]) == 2
    # Those that are there already are told by their hash as before.
    assert len(api.lists(list_id, "take", feature=1, sae=shown)["list"]["features"]) == 1


def test_what_a_file_hashes_to_is_read_once_as_long_as_it_is_the_same(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    file = bundle.sae_path(SAE) / "sae_weights.safetensors"
    monkeypatch.setattr(file_hashes, "sha256", lambda path: read.append(path) or sha256(path))
    # One that was changed a moment ago may be changed again without a trace; here a moment is long.
    monkeypatch.setattr(file_hashes, "_SETTLED_NS", 10**13)
    os.utime(file)
    for times in (1, 2):
        assert Bundle.open(bundle.path).content_hash(SAE) == sha256(file)
        assert len(read) == times
    old = time.time_ns() - 10**11
    os.utime(file, ns=(old, old))
    assert Bundle.open(bundle.path).content_hash(SAE) == sha256(file)
    assert len(read) == 3, "it was changed now, whatever time it says"
    read.clear()
    monkeypatch.setattr(file_hashes, "_SETTLED_NS", 0)
    for _ in range(3):
        assert Bundle.open(bundle.path).content_hash(SAE) == sha256(file)
    assert len(read) == 1
    changed_weights(bundle)
    assert Bundle.open(bundle.path).content_hash(SAE) == sha256(file)
    assert len(read) == 2
    # Nothing hangs on the file that remembers.
    os.utime(file, ns=(old, old))
    kept = data_folder() / file_hashes.FILE
    right = json.loads(kept.read_text())[str(file.resolve())]
    wrong = [json.dumps({str(file.resolve()): right | {"sha256": no}}) for no in (3, "x" * 64)]
    for damaged in ("{", "[]", '{"a":' * 100_000, " " * 2**24 + json.dumps({}), *wrong):
        kept.write_text(damaged)
        assert Bundle.open(bundle.path).content_hash(SAE) == sha256(file)


def test_weights_written_into_the_same_file_at_the_same_time_are_noticed(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `cp -p` and `rsync --inplace --times` do: time, size and inode are those from before."""
    monkeypatch.setattr(file_hashes, "_SETTLED_NS", 0)
    file = bundle.sae_path(SAE) / "sae_weights.safetensors"
    os.utime(file, ns=(10**18, 10**18))
    time.sleep(0.02)  # longer than a tick of the file system's clock
    first, before = bundle.content_hash(SAE), file.stat()
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1
    with open(file, "r+b") as written:
        written.write(whole)
    os.utime(file, ns=(10**18, 10**18))
    after = file.stat()
    assert (before.st_ino, before.st_size, before.st_mtime_ns) == (
        after.st_ino,
        after.st_size,
        after.st_mtime_ns,
    )
    for each in (bundle, Bundle.open(bundle.path)):
        assert each.content_hash(SAE) == sha256(file) != first


def test_hashes_of_many_threads_are_all_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_hashes, "_SETTLED_NS", -(10**12))
    files = [tmp_path / f"{n}" for n in range(24)]
    for file in files:
        file.write_text(file.name)
    with ThreadPoolExecutor(8) as pool:
        hashes = list(pool.map(file_hashes.remembered_sha256, files))
    assert hashes == [sha256(file) for file in files]
    kept = json.loads((data_folder() / file_hashes.FILE).read_text())
    assert {str(file.resolve()) for file in files} <= kept.keys()


def test_where_nothing_can_be_remembered_weights_are_read(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> Path:
        raise PermissionError("no folder for temporary files either")

    monkeypatch.setattr(file_hashes, "data_folder", nowhere)
    file = bundle.sae_path(SAE) / "sae_weights.safetensors"
    assert Bundle.open(bundle.path).content_hash(SAE) == sha256(file)


def test_a_check_of_other_weights_is_not_shown(bundle: Bundle) -> None:
    api = api_of(bundle)
    first = api.check()["check"]["content_hash"]
    changed_weights(bundle)
    loaded(api)
    assert api.workbench.checker.state(SAE)["state"] == "unchecked"
    assert api.check()["check"]["content_hash"] == bundle.content_hash(SAE) != first


def loaded(api: Api) -> torch.Tensor:
    with api.workbench.load().spliced([SAE]) as lm:
        return lm.sae(SAE).W_enc.detach().clone()


def test_a_file_that_is_only_touched_changes_nothing(bundle: Bundle) -> None:
    api = api_of(bundle)
    digest = bundle.content_hash(SAE)
    index = api.workbench.sources.index(SAE)
    os.utime(bundle.sae_path(SAE) / "sae_weights.safetensors", ns=(1, 1))
    assert api.workbench.sources.index(SAE) is index
    assert bundle.content_hash(SAE) == digest


def test_an_index_that_is_not_finished_says_how_far_it_is(bundle: Bundle) -> None:
    workbench, path = api_of(bundle).workbench, bundle.index_path(SAE)
    copy = Path(shutil.copy(path, path.with_name("copy.duckdb")))
    with duckdb.connect(str(copy)) as connection:
        connection.execute("INSERT INTO meta VALUES ('planned_tokens', '1200000')")
    os.replace(copy, path)
    read = workbench.index().meta["tokens"]
    said = f"This index is not finished: so far {read:,} of 1,200,000 tokens are read."
    assert revision_of(workbench, "")["note"] == said
