"""SAEs that come and go: room is made in order of use, and never at a request's expense."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from app.engine.sae_cache import SAECache

SIZES = {"a": 40_000, "b": 40_000, "c": 40_000, "small": 10_000, "huge": 101_000}
LIMIT = 100_000


class Device:
    """Notes what is loaded, and fails a test that releases or loads out of turn."""

    def __init__(self, patience: float = 5.0) -> None:
        self.present: set[str] = set()
        self.most = 0
        self.loads = 0
        self.damaged: set[str] = set()
        self.weights = "first"
        self.before_load: Callable[[str], None] = lambda _name: None
        self.cache = SAECache(
            LIMIT,
            size=SIZES.__getitem__,
            load=self.load,
            release=self.release,
            patience=patience,
            weights=lambda _name: self.weights,
        )

    def load(self, name: str) -> str:
        assert name not in self.present
        self.before_load(name)
        if name in self.damaged:
            raise ValueError(f"{name} is damaged.")
        self.loads += 1
        self.present.add(name)
        self.most = max(self.most, sum(SIZES[each] for each in list(self.present)))
        return self.weights

    def release(self, name: str) -> None:
        self.present.remove(name)

    def use(self, *names: str) -> None:
        with self.cache.leased(names):
            assert self.present.issuperset(names)


@contextmanager
def held(device: Device, *names: str) -> Iterator[None]:
    """A lease of another thread."""
    taken, enough = threading.Event(), threading.Event()

    def hold() -> None:
        with device.cache.leased(names):
            taken.set()
            enough.wait(10)

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(hold)
        try:
            assert taken.wait(10)
            yield
        finally:
            enough.set()
            job.result(10)


def test_it_is_known_whether_one_is_being_loaded() -> None:
    device, seen = Device(), []
    device.before_load = lambda _name: seen.append(device.cache.loading())
    assert not device.cache.loading()
    with device.cache.leased(["a"]):
        assert seen == [True]
        assert not device.cache.loading()
    device.damaged.add("b")
    with pytest.raises(ValueError, match="damaged"), device.cache.leased(["b"]):
        pass
    assert not device.cache.loading()


def test_the_least_recently_used_makes_room() -> None:
    device = Device()
    for name in ("a", "b", "a", "c"):
        device.use(name)
    assert device.present == {"a", "c"}
    assert device.loads == 3
    assert list(device.cache.loaded()) == ["c", "a"]
    # Only as much is released as is needed.
    device.use("small")
    assert device.present == {"a", "c", "small"}


def test_one_larger_than_the_limit_is_refused_in_one_sentence() -> None:
    device = Device()
    device.use("a")
    with pytest.raises(ValueError, match=r"^SAE huge needs 101 kB, more than the 100 kB") as one:
        device.use("huge")
    with pytest.raises(ValueError, match=r"^SAEs a, b, c need 120 kB together, .*: raise max_sae_"):
        device.use("a", "b", "c")
    assert "\n" not in str(one.value)
    assert device.present == {"a"}


def test_a_leased_one_stays_and_others_go() -> None:
    device = Device()
    device.use("a")
    device.use("b")
    with held(device, "a"):
        assert device.cache.loaded() == {"a": (40_000, True), "b": (40_000, False)}
        device.use("c")
        assert device.present == {"a", "c"}
    assert device.cache.loaded()["a"] == (40_000, False)


def test_whoever_finds_no_room_waits_for_it() -> None:
    device = Device()
    with ThreadPoolExecutor(1) as pool:
        with held(device, "a", "b"):
            waiting = pool.submit(device.use, "c")
            time.sleep(0.05)
            assert not waiting.done()
            assert device.present == {"a", "b"}
            # An SAE that is in use already needs no room.
            device.use("a")
        waiting.result(10)
    assert "c" in device.present


def test_whoever_waits_too_long_is_told() -> None:
    device = Device(patience=0.01)
    with held(device, "a", "b"), pytest.raises(ValueError, match="leave no room for c: try again"):
        device.use("c")
    device.use("c")


def test_the_second_to_ask_waits_for_the_first_to_load() -> None:
    device = Device()
    with ThreadPoolExecutor(4) as pool:
        device.before_load = lambda _name: time.sleep(0.05)
        for job in [pool.submit(device.use, "a") for _ in range(4)]:
            job.result(10)
    assert device.loads == 1


def test_loading_one_keeps_nobody_else_waiting() -> None:
    device = Device()
    device.use("a")
    begun, go_on = threading.Event(), threading.Event()

    def slow(name: str) -> None:
        if name == "b":
            begun.set()
            assert go_on.wait(10)

    device.before_load = slow
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(device.use, "b")
        assert begun.wait(10)
        device.use("a")
        device.use("small")
        assert "b" not in device.cache.loaded()
        go_on.set()
        loading.result(10)


def test_one_that_cannot_be_loaded_leaves_nothing_behind() -> None:
    device = Device()
    device.damaged = {"a"}
    with pytest.raises(ValueError, match="a is damaged"):
        device.use("small", "a")
    assert list(device.cache.loaded()) == ["small"]
    device.damaged = set()
    device.use("a", "b")
    assert device.present == {"small", "a", "b"}


def test_an_error_in_the_block_gives_the_lease_back() -> None:
    device = Device()
    with pytest.raises(RuntimeError), device.cache.leased(["a", "b"]):
        raise RuntimeError
    device.use("c")
    assert device.present == {"b", "c"}


def test_many_threads_never_exceed_the_limit_nor_lose_one_in_use() -> None:
    device = Device()

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(60):
            names = rng.sample(["a", "b", "c", "small"], rng.choice([1, 1, 2]))
            with device.cache.leased(names):
                for _ in range(3):
                    assert device.present.issuperset(names)
                    time.sleep(0)

    with ThreadPoolExecutor(8) as pool, ExitStack() as errors:
        for job in [pool.submit(work, seed) for seed in range(8)]:
            errors.callback(job.result, 60)
    assert device.most <= LIMIT
    assert all(not in_use for _, in_use in device.cache.loaded().values())
    assert set(device.cache.loaded()) == device.present


def test_weights_that_have_changed_are_loaded_anew_once_nobody_uses_the_old_ones() -> None:
    device = Device()
    device.use("a")
    device.use("a")
    assert device.loads == 1
    with held(device, "a"):
        device.weights = "second"
        device.use("a")
        assert device.loads == 1
    device.use("a")
    device.use("a")
    assert device.loads == 2
