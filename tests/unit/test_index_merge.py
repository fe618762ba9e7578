"""Indexes of other texts, merged into what one pass over all of them writes."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from app.cli import main
from sae_core.bundle import Bundle
from sae_core.index import (
    Index,
    IndexConfig,
    build_index,
    gathered,
    kept_state,
    state_file,
    token_sample,
)
from sae_core.index.kept_state import path_of
from sae_core.index.merge import merge_indexes
from sae_core.sae import SAE
from tests import tiny
from tests.index_parts import SIZES, assert_same, make_parts, rows_of

Build = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def small_samples() -> Any:
    """So that histograms of pre-activations are made from a part of even such short texts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_sample, "MOST", 128)
        yield


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_parts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def build(tiny_model: Any, tiny_tokenizer: Any, tiny_sae: SAE) -> Build:
    """Indexes texts. Row by row, so that a row is computed in the same way wherever it stands."""

    def built(path: Path, *texts: Path, sae: SAE = tiny_sae, **settings: Any) -> Path:
        given = {"rows_per_batch": 1, "output_scores": "off", "keep_state": True} | settings
        cfg = IndexConfig(corpus=tuple(map(str, texts)), **given)
        build_index(tiny_model, tiny_tokenizer, sae, cfg, path)
        return path

    return built


@pytest.fixture(scope="module")
def parts(build: Build, texts: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("parts")
    return [build(folder / f"{n}.duckdb", text) for n, text in enumerate(texts)]


@pytest.fixture(scope="module")
def whole(build: Build, texts: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("whole") / "index.duckdb", *texts)


@pytest.fixture
def merge(tiny_model: Any, tiny_tokenizer: Any, tiny_sae: SAE) -> Callable[..., Path]:
    def merged(path: Path, indexes: Sequence[Path], **more: Any) -> Path:
        given = {"output_scores": "off", "sae": tiny_sae} | more
        sae = given.pop("sae")
        merge_indexes(tiny_model, tiny_tokenizer, sae, indexes, path, **given)
        return path

    return merged


def test_merged_is_what_one_pass_writes(
    merge: Callable[..., Path], parts: list[Path], whole: Path, tmp_path: Path
) -> None:
    assert_same(merge(tmp_path / "index.duckdb", parts), whole)
    index = Index.open(whole)
    assert index.meta["documents"] == sum(SIZES) + 1
    # There is something to be merged of every kind, and features that never fire.
    assert index.meta["tokens"] > 4 * token_sample.MOST
    assert [row["source"] for row in index.meta["sources"]][-1] == "diaries"
    assert index.feature(tiny.DEAD)["active_tokens"] == 0
    numbers = [row[1] for row in rows_of(whole, "documents")]
    assert max(numbers) >= sum(SIZES[:2]) + 4
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "index.duckdb",
        "index.state.safetensors",
    ]


def test_what_was_merged_can_be_merged_again_and_in_any_grouping(
    merge: Callable[..., Path], parts: list[Path], whole: Path, tmp_path: Path
) -> None:
    two = merge(tmp_path / "two.duckdb", parts[1:])
    assert_same(merge(tmp_path / "all.duckdb", [parts[0], two]), whole)


def test_the_order_is_that_of_the_parts(
    merge: Callable[..., Path],
    build: Build,
    texts: list[Path],
    parts: list[Path],
    tmp_path: Path,
) -> None:
    turned = build(tmp_path / "one.duckdb", *texts[::-1])
    assert_same(merge(tmp_path / "merged.duckdb", parts[::-1]), turned)


def test_batches_and_checkpoints_do_not_show(
    merge: Callable[..., Path],
    build: Build,
    texts: list[Path],
    parts: list[Path],
    whole: Path,
    tmp_path: Path,
) -> None:
    """Rows of other batches are computed with other roundings: counts are compared."""
    first = build(tmp_path / "0.duckdb", texts[0], rows_per_batch=9, checkpoint_tokens=200)
    merged = merge(tmp_path / "merged.duckdb", [first, *parts[1:]])
    indexes = [Index.open(path) for path in (merged, whole)]
    for feature in range(tiny.D_SAE):
        mine, theirs = (index.feature(feature) for index in indexes)
        for name in ("active_tokens", "signature", "fires_on"):
            assert mine[name] == theirs[name], name
        for name in ("activation_histogram", "pre_activation_histogram"):
            assert mine[name]["counts"] == theirs[name]["counts"], name
        assert mine["max_act"] == pytest.approx(theirs["max_act"], rel=1e-5)


def test_output_scores_are_measured_after_the_merge(
    merge: Callable[..., Path], parts: list[Path], tmp_path: Path
) -> None:
    path = merge(tmp_path / "index.duckdb", parts[:2], output_scores="on")
    assert Index.open(path).has_output_scores


def test_what_was_not_read_of_a_text_has_no_numbers(
    build: Build, texts: list[Path], tmp_path: Path
) -> None:
    """All of so short a corpus is tokenised at once, also where a part is enough."""
    for tokens, count in ((100, None), (10**6, SIZES[1] + 2)):
        path = build(tmp_path / "index.duckdb", texts[1], tokens=tokens, rows_per_batch=8)
        spool = kept_state.read(path)[1]["spool"]
        assert spool["documents_read"] == (count or spool["documents"][-1][0] + 1)
        assert count or len(spool["documents"]) < SIZES[1]


def test_without_the_option_no_state_is_kept(
    build: Build, texts: list[Path], tmp_path: Path
) -> None:
    path = build(tmp_path / "index.duckdb", texts[1])
    assert path_of(path).is_file()
    build(path, texts[1], keep_state=False)
    # One that is not of the index beside it would be merged in its place.
    assert not path_of(path).exists()


def test_what_cannot_be_merged_is_said(
    merge: Callable[..., Path],
    build: Build,
    texts: list[Path],
    parts: list[Path],
    tiny_sae: SAE,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out" / "index.duckdb"
    out.parent.mkdir()

    def refused(others: Sequence[Path], sentence: str, **more: Any) -> None:
        with pytest.raises(ValueError, match=sentence):
            merge(out, others, **more)
        assert list(out.parent.iterdir()) == []

    def other(name: str, **settings: Any) -> list[Path]:
        return [
            parts[0],
            build(tmp_path / f"{name}.duckdb", texts[1], rows_per_batch=8, **settings),
        ]

    refused(other("a", seed=3, context_size=16), "differ in context_size and seed.")
    refused(other("b", top=19), "cannot be merged: they differ in top.")
    refused([parts[0], tmp_path / "none.duckdb"], "to merge: build that index with --keep-state")
    metadata = tiny_sae.cfg.metadata | {"content_hash": "0000"}
    weights = SAE.build(replace(tiny_sae.cfg, metadata=metadata))
    refused(parts, "is of other weights of the SAE: build that index again", sae=weights)
    state = path_of(parts[1])

    def changed(**entries: Any) -> Callable[[Path], None]:
        """Writes the state with other entries; None leaves one out."""
        whole = state_file.read(state) | entries
        given = {name: entry for name, entry in whole.items() if entry is not None}
        return lambda path: state_file.write(path, given, state_file.read_marks(state))

    def without_json(path: Path) -> None:
        path.write_bytes(path.read_bytes().replace(b'"facts"', b'x"acts"'))

    facts = state_file.read(state)["facts"]
    [statistics] = state_file.read(state)["statistics"]

    for change, sentence in (
        (lambda p: p.write_bytes(p.read_bytes()[:5000]), "is damaged"),
        (lambda p: p.write_bytes(b"not a state"), "is damaged, or no safetensors file"),
        (lambda p: state_file.write(p, {}, {}), "is not the state of an index"),
        (
            lambda p: state_file.write(p, {}, {"format": kept_state._FORMAT, "version": "0"}),
            "by another version of Jumpscope",
        ),
        (changed(tokens=torch.zeros(4, dtype=torch.uint8)), "it lacks some of its tokens"),
        (changed(facts=facts | {"attention_sink": True}), "they differ in attention_sink."),
        (without_json, "is damaged: what it holds cannot be read."),
        (changed(spool=None), "is damaged: build that index again."),
        (changed(spool={"length": 5}), "is damaged: "),
        (changed(tokens=3), "is damaged: build that index again."),
        (changed(facts=facts | {"text": None}), "is damaged: build that index again."),
        (changed(token_counts=None), "is damaged: build that index again."),
        (changed(statistics=[]), "is damaged: build that index again."),
        (changed(statistics=[statistics | {"sums": {}}]), "is damaged: build that index again."),
    ):
        wrong = Path(shutil.copy(parts[1], tmp_path / "wrong.duckdb"))
        shutil.copy(state, path_of(wrong))
        change(path_of(wrong))
        refused([parts[0], wrong], sentence)


class Killed(BaseException):
    """What nothing between two steps can catch."""


def test_no_end_leaves_a_state_beside_another_index(
    merge: Callable[..., Path],
    build: Build,
    texts: list[Path],
    parts: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever fails or is killed: the pair is whole, or is refused."""
    both, path = SIZES[0] + SIZES[1], tmp_path / "index.duckdb"

    def documents(*indexes: Path) -> int:
        merge(tmp_path / "again.duckdb", indexes)
        return Index.open(tmp_path / "again.duckdb").meta["documents"]

    def begin() -> None:
        shutil.copy(parts[0], path)
        shutil.copy(path_of(parts[0]), path_of(path))

    def full(*_: Any) -> None:
        raise ValueError("no space left on the disk")

    # Before anything has taken its place: both are the old ones.
    for module, name in ((state_file, "write"), (gathered, "write_index")):
        begin()
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *_, **__: full())
            with pytest.raises(ValueError, match="no space"):
                merge(path, [path, parts[1]])
        assert Index.open(path).meta["documents"] == SIZES[0]
        assert documents(path, parts[1]) == both

    # After the index has, and before its state has.
    replace_file = os.replace

    def killed_at_state(source: Path, target: Path) -> None:
        if target == path_of(path):
            raise Killed
        replace_file(source, target)

    def killed_removing(_: Path) -> None:
        raise Killed

    def built(**settings: Any) -> None:
        build(path, *texts[:2], rows_per_batch=8, **settings)

    for work, module, name, instead in (
        (lambda: merge(path, [path, parts[1]]), os, "replace", killed_at_state),
        (built, os, "replace", killed_at_state),
        (lambda: built(keep_state=False), kept_state, "remove", killed_removing),
    ):
        begin()
        with monkeypatch.context() as patch:
            patch.setattr(module, name, instead)
            with pytest.raises(Killed):
                work()
        assert Index.open(path).meta["documents"] == both
        with pytest.raises(ValueError, match="is not the state of the index beside it"):
            documents(path, parts[2])
    built()
    assert documents(path, parts[2]) == sum(SIZES) + 1


def test_an_index_is_named_once(
    merge: Callable[..., Path], parts: list[Path], tmp_path: Path
) -> None:
    """By whatever name, and as a copy too."""
    linked, copied = tmp_path / "linked.duckdb", tmp_path / "copied.duckdb"
    linked.symlink_to(parts[0])
    path_of(linked).symlink_to(path_of(parts[0]))
    shutil.copy(parts[0], copied)
    shutil.copy(path_of(parts[0]), path_of(copied))
    for again in (parts[0], linked, copied):
        with pytest.raises(ValueError, match="are the same index: name it once"):
            merge(tmp_path / "index.duckdb", [parts[0], parts[1], again])
    assert not (tmp_path / "index.duckdb").exists()


def test_the_command(
    bundle: Bundle,
    texts: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Bundles, folders of indexes and indexes name parts; the result is the bundle's index."""
    other = Path(shutil.copytree(bundle.path, tmp_path / "other"))
    given = ["--device", "cpu", "--output-scores", "off"]
    for folder, text in ((bundle.path, texts[0]), (other, texts[1])):
        built = ["--bundle", str(folder), "--corpus", str(text), "--keep-state"]
        assert main(["index", *built, *given]) == 0
    capsys.readouterr()
    saes = [Bundle.open(folder).index_path(tiny.SAE_NAME) for folder in (bundle.path, other)]
    documents = SIZES[0] + SIZES[1]
    merged = ["index", "--bundle", str(bundle.path), *given, "--json", "--merge"]
    assert main([*merged, str(bundle.path), str(other)]) == 0
    [entry] = json.loads(capsys.readouterr().out)["indexes"]
    assert entry["documents"] == documents
    assert entry["path"] == str(saes[0])
    assert Index.open(saes[0]).meta["documents"] == documents
    # The bundle's index is now of both texts.
    assert main([*merged, str(saes[1].parent), str(saes[0])]) == 0
    assert Index.open(saes[0]).meta["documents"] == documents + SIZES[1]
    capsys.readouterr()
    for wrong, sentence in (
        ([str(other)], "--merge joins indexes: name two or more."),
        ([str(other), str(tmp_path)], "to merge: build that index with --keep-state."),
        ([str(other), str(saes[1])], "are the same index: name it once"),
        ([str(other), str(other), "--corpus", "a.txt"], "--merge reads no corpus"),
        ([str(other), str(other), "--add-output-scores"], "give either --add-output-scores or"),
        ([str(other), str(other), "--sae", "none"], "has no SAE 'none'"),
    ):
        assert main([*merged, *wrong]) == 2
        assert sentence in capsys.readouterr().err


def test_several_processes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of which would do all of the work, and write the same file."""
    # As torchrun sets them; whoever waited for the others would find nobody.
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    bundle = ["index", "--bundle", str(tmp_path / "none")]
    for option in (["--merge", "a", "b"], ["--add-output-scores"]):
        assert main([*bundle, *option]) == 2
        said = f"{option[0]} is the work of one process: leave torchrun out."
        assert said in capsys.readouterr().err
