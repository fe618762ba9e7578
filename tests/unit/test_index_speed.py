"""The benchmark of indexing runs and ends in time; text is made ahead in order."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import index_speed
from sae_core.index.ahead import ahead


def test_the_benchmark_measures_every_part(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("The old clock measures two letters at noon. " * 200)
    settings = ["--shape", "tiny", "--layer", "1", "--d-sae", "64", "--l0", "5", "--row", "16"]
    corpus = ["--corpus", str(tmp_path / "text.txt"), "--tokens", "600", "--device", "cpu"]
    result = index_speed.main([*settings, *corpus, "--out", str(tmp_path / "speed.json")])
    measured = result["features_64"]
    assert measured["finished"]
    assert measured["tokens"] >= 600
    assert 1 < measured["l0"] < 32
    parts = measured["parts_s"]
    named = {name for name, _, _ in (*index_speed.DEVICE_PARTS, *index_speed.HOST_PARTS)}
    assert set(parts) == named
    assert parts["statistics/lists"] < parts["statistics"] < measured["index_s"]
    assert (tmp_path / "speed.json").is_file()


def test_work_is_stopped_when_time_is_up() -> None:
    with pytest.raises(index_speed.TimeUpError), index_speed.limit(0.01):
        time.sleep(5)
    with index_speed.limit(60):
        pass


def test_items_made_ahead_come_in_order_and_no_further_than_allowed() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for n in range(50):
            made.append(n)
            yield n

    taken = ahead(items(), 3)
    assert [next(taken) for _ in range(10)] == list(range(10))
    # Ten were taken, three wait, and one is in the maker's hands.
    assert len(made) <= 14
    assert list(taken) == list(range(10, 50))


def test_what_goes_wrong_ahead_is_raised_where_items_are_taken() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no text")

    taken = ahead(items(), 2)
    assert next(taken) == 1
    with pytest.raises(ValueError, match="no text"):
        next(taken)


def test_the_maker_ends_with_what_takes_from_it() -> None:
    before = set(threading.enumerate())
    taken = ahead(iter(range(1000)), 2)
    next(taken)
    taken.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert set(threading.enumerate()) <= before
