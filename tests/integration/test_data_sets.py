"""Data sets of the hub by their ids: the real client against the tests' hub."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from sae_core.corpus import documents, expand
from sae_core.hub.datasets import CONVERTED, data_set_files, parse_data_set
from tests import tiny
from tests.hub import Hub
from tests.hub_client import Client
from tests.hub_protocol import MEMBER_TOKEN
from training.run_provenance import file_names


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """As in a new process, where nothing was looked up."""
    data_set_files.cache_clear()
    yield
    data_set_files.cache_clear()


def parquet(path: Path, texts: list[str], column: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE t ({column} TEXT)")
        connection.executemany("INSERT INTO t VALUES (?)", [[text] for text in texts])
        connection.execute("COPY t TO ? (FORMAT parquet)", [str(path)])


@pytest.fixture
def novels(hub: Hub, tmp_path: Path) -> str:
    """A data set with two splits, its training one in two files; its id."""
    folder = tmp_path / "novels"
    for number in range(2):
        texts = [f"Train {number}.{i}\r\n" for i in range(3)]
        parquet(folder / "data" / f"train-0000{number}-of-00002.parquet", texts)
    parquet(folder / "data" / "test-00000-of-00001.parquet", ["Test."])
    (folder / "README.md").write_text("A card.")
    repo = f"example/{tmp_path.name}"
    hub.publish(f"datasets/{repo}", folder)
    return repo


TRAINING = [f"Train {number}.{i}\n" for number in range(2) for i in range(3)]


def test_the_training_split_is_read_and_files_fetched_as_they_are_needed(
    hub: Hub, client: Client, novels: str
) -> None:
    with hub.watch() as seen:
        stream = documents([novels])
        assert next(stream).text == "Train 0.0\n"
    sent = [a.path for a in seen if a.method == "GET" and not a.path.startswith("/api/")]
    assert len([p for p in sent if "train-00000" in p and "/cdn/" in p]) == 1
    assert not [p for p in sent if "train-00001" in p or "test" in p]
    assert [d.text for d in documents([novels])] == TRAINING


@pytest.mark.parametrize(
    ("inside", "texts"),
    [
        ("/data/test-00000-of-00001.parquet", ["Test."]),
        ("/data/test-*", ["Test."]),
        ("/data/train-00001*", TRAINING[3:]),
        ("/data", TRAINING),
    ],
)
def test_a_part_of_a_data_set(client: Client, novels: str, inside: str, texts: list[str]) -> None:
    given = f"hf://datasets/{novels}{inside}"
    assert [d.text for d in documents([given])] == texts
    if not inside.endswith(".parquet"):  # which would be a file here
        assert [d.text for d in documents([f"{novels}{inside}"])] == texts


def test_offline_afterwards_and_a_commit_pinned(
    hub: Hub, client: Client, novels: str, tmp_path: Path
) -> None:
    commit = hub.repositories[f"datasets/{novels}"].revisions["main"].id
    list(documents([novels]))
    assert file_names([novels, "/a/b.txt", "https://x/y.parquet"]) == [
        f"{novels}@{commit}",
        "b.txt",
        "https://x/y.parquet",
    ]
    parquet(tmp_path / "new" / "train.parquet", ["New."])
    hub.publish(f"datasets/{novels}", tmp_path / "new")
    assert [d.text for d in documents([f"{novels}@{commit}"])] == TRAINING
    # A run reads one commit, wherever the branch moves meanwhile.
    assert [d.text for d in documents([novels])] == TRAINING
    client.offline()
    data_set_files.cache_clear()
    with hub.watch() as seen:
        assert [d.text for d in documents([novels])] == TRAINING
        with pytest.raises(ValueError, match=r"test-.* not among the files downloaded before"):
            list(documents([f"hf://datasets/{novels}/data/test-00000-of-00001.parquet"]))
    assert seen == []


def test_gates_and_names_that_do_not_exist(hub: Hub, client: Client, tmp_path: Path) -> None:
    parquet(tmp_path / "gated" / "train.parquet", ["Secret."])
    repo = f"example/gated-{tmp_path.name}"
    hub.publish(f"datasets/{repo}", tmp_path / "gated", gated=True)
    with pytest.raises(
        ValueError, match=rf"{repo} is gated: accept its terms on .*/datasets/{repo}"
    ):
        list(documents([repo]))
    client.token(MEMBER_TOKEN)
    assert [d.text for d in documents([repo])] == ["Secret."]
    with pytest.raises(ValueError, match="the hub has no data set example/nothing: check the name"):
        expand(["example/nothing"])
    with pytest.raises(ValueError, match="no such revision of example/gated"):
        expand([f"{repo}@v9"])


def test_configurations_are_not_mixed(hub: Hub, client: Client, tmp_path: Path) -> None:
    for language in ("en", "de"):
        parquet(tmp_path / "many" / language / "train-0.parquet", [language])
    repo = f"example/many-{tmp_path.name}"
    hub.publish(f"datasets/{repo}", tmp_path / "many")
    with pytest.raises(ValueError, match=rf"in 2 folders \(de, en\): name one, such as {repo}/de"):
        expand([repo])
    assert [d.text for d in documents([f"{repo}/en"])] == ["en"]


def test_what_has_no_parquet_is_read_as_the_hub_converted_it(
    hub: Hub, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train.csv").write_text("text\nraw\n")
    repo = f"example/raw-{tmp_path.name}"
    hub.publish(f"datasets/{repo}", tmp_path / "raw")
    parquet(tmp_path / "made" / "default" / "train" / "0000.parquet", ["converted"])
    hub.publish(f"datasets/{repo}", tmp_path / "made", revision=CONVERTED)
    assert [d.text for d in documents([repo])] == ["converted"]
    with pytest.raises(ValueError, match="has no Parquet files on the hub"):
        expand([f"{repo}@main"])


@pytest.mark.parametrize("text", ["./texts", "/data/texts", "texts", "a b/c", "../x/y"])
def test_what_is_no_id(text: str) -> None:
    assert parse_data_set(text) is None


def test_a_folder_here_comes_first(
    client: Client, novels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(novels)
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("Here.")
    assert [d.text for d in documents([novels])] == ["Here."]
    with pytest.raises(ValueError, match=r"no corpus file matches example/missing\.parquet"):
        expand(["example/missing.parquet"])


def test_the_commands_read_a_data_set_with_messages(
    hub: Hub, tmp_path: Path, chat_bundle: Any
) -> None:
    """From the hub to numbers, in a process of its own, also offline."""
    said = [
        [
            {"role": "user", "content": row["text"]},
            {"role": "assistant", "content": "The river follows the harbour."},
        ]
        for row in tiny.tiny_documents(40)
    ]
    jsonl = tmp_path / "chats.jsonl"
    jsonl.write_text("".join(json.dumps({"chat": messages}) + "\n" for messages in said))
    folder = tmp_path / "chats"
    folder.mkdir()
    duckdb.sql(f"COPY (FROM read_json('{jsonl}')) TO '{folder}/train.parquet' (FORMAT parquet)")
    repo = f"example/chats-{tmp_path.name}"
    hub.publish(f"datasets/{repo}", folder)
    read = ["--text-column", "chat", "--tokens", "2000", "--device", "cpu", "--json"]
    bundle = ["--bundle", str(chat_bundle.path), "--sae", "late"]
    results = [
        hub.python(
            *["-m", "app.cli", "eval", *bundle, "--text", repo, *read],
            cache=tmp_path / "cache",
            offline=offline,
        )
        for offline in (False, True)
    ]
    for result in results:
        assert result.returncode == 0, result.stderr
    numbers = json.loads(results[0].stdout)
    assert numbers == json.loads(results[1].stdout)
    assert numbers["tokens"] > 1500
