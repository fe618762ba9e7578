"""The engine: what it says of its memory, what happens when that is full, SAEs in many threads."""

import gc
import random
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from app.engine.engine import Engine
from app.engine.memory import free_and_total, gigabytes, refused_when_full
from app.service import overview
from app.settings import Settings
from sae_core.bundle import Bundle
from tests import tiny
from tests.tiny_chat import SAES
from tests.unit.service_support import FIRING, SETTINGS, api_of

ONE = 4 * (2 * tiny.D_MODEL * tiny.D_SAE + 2 * tiny.D_SAE + tiny.D_MODEL)
"""Bytes of one of the tiny SAEs."""

CPU = torch.device("cpu")


def full(*_args: Any, **_kwargs: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines")


def test_memory_is_what_the_tensors_take(chat_bundle: Bundle) -> None:
    engine = Engine(SETTINGS, chat_bundle)
    before = engine.memory()
    assert before["device"] == "cpu"
    assert before["saes"] == []
    parameters = sum(4 * p.numel() for p in engine.model.parameters())
    assert parameters <= before["model"] < 1.1 * parameters
    assert 0 < before["free"] < before["total"]
    # Half of what was free once the model was loaded, which may have changed a little since.
    assert before["sae_limit"] == pytest.approx(before["free"] / 2, rel=0.3)
    with engine.spliced(["late"]) as lm:
        loaded = sum(tensor.nbytes for tensor in lm.sae("late").parameters())
        assert engine.memory()["saes"] == [{"name": "late", "bytes": loaded, "in_use": True}]
    assert loaded == ONE
    chosen = Engine(Settings(threads=1, device="cpu", max_sae_memory=2.5), chat_bundle)
    assert chosen.memory()["sae_limit"] == 2_500_000_000


def test_bytes_in_words() -> None:
    assert [gigabytes(n) for n in (999, 1_540, 17_200_000, 5.24e9, 141e9)] == [  # pyright: ignore
        "0.999 kB",
        "1.54 kB",
        "17.2 MB",
        "5.24 GB",
        "141 GB",
    ]


def test_the_processor_s_memory_is_known() -> None:
    free, total = free_and_total([CPU])
    assert 10**8 < free < total
    assert free_and_total([CPU, CPU])[1] == 2 * total


def test_a_full_device_is_one_sentence_that_holds_on_to_nothing() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def compute() -> None:
        tensor = torch.zeros(3)
        held.append(weakref.ref(tensor))
        full()

    with (
        pytest.raises(ValueError, match=r"^Shorten it\.$") as caught,
        refused_when_full("Shorten it."),
    ):
        compute()
    gc.collect()
    assert caught.value.__suppress_context__
    assert held[0]() is None
    with pytest.raises(RuntimeError, match="other"), refused_when_full("Shorten it."):
        raise RuntimeError("other")


def test_a_text_that_fills_the_device_is_refused_and_the_next_goes_on(
    chat_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = api_of(chat_bundle)
    model = api.workbench.load().model
    with monkeypatch.context() as patched:
        patched.setattr(model.base_model.layers[1], "forward", full)
        asks: list[Any] = [
            lambda: api.prompt_features("The river"),
            lambda: api.delta_loss("The river"),
            lambda: api.test_text("The river", FIRING, "late"),
        ]
        for ask in asks:
            with pytest.raises(ValueError, match=r"A text of \d+ tokens is too long .* shorten it"):
                ask()
        with pytest.raises(ValueError, match=r"10 new ones are too many .* ask for fewer"):
            api.steer("The river", [{"feature": FIRING}], max_new_tokens=10)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    memory = overview.memory(api.workbench)
    assert memory is not None
    assert not any(row["in_use"] for row in memory["saes"])
    assert api.prompt_features("The river")["totals"]["tokens"] > 0
    assert api.steer("The river", [{"feature": FIRING}], max_new_tokens=3)["done"]


def test_an_sae_that_does_not_fit_is_refused_and_may_fit_later(
    chat_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = api_of(chat_bundle)
    with monkeypatch.context() as patched:
        patched.setattr(Bundle, "load_sae", full)
        with pytest.raises(ValueError, match=r"^SAE early of 17 kB does not fit .* lower max_sae_"):
            api.prompt_features("The river")
    assert api.prompt_features("The river")["sae"] == "early"


def test_a_model_that_does_not_fit_is_refused(
    chat_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bundle, "load_model", full)
    with pytest.raises(ValueError, match="does not fit into the memory of cpu: choose a smaller"):
        api_of(chat_bundle).workbench.load()


def test_threads_that_want_different_saes_get_their_own(
    chat_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit holds one SAE, so that every other request makes another one go."""
    settings = Settings(threads=1, device="cpu", max_sae_memory=1.5 * ONE / 1e9, cached_analyses=1)
    engine = Engine(settings, chat_bundle)
    texts = ["The river", "A student returns", "The old clock", "My neighbour"]
    mean = {name: torch.zeros(tiny.D_MODEL).numpy() for name in SAES}
    alone = {
        (name, text): engine.analyse(engine.token_ids(text), name, mean[name]).activation
        for name in SAES
        for text in texts
    }
    assert len(engine.sae_cache.loaded()) == 1

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(12):
            name, text = rng.choice(list(SAES)), rng.choice(texts)
            actual = engine.analyse(engine.token_ids(text), name, mean[name])
            assert (actual.activation == alone[name, text]).all()

    with ThreadPoolExecutor(6) as pool:
        for job in [pool.submit(work, seed) for seed in range(6)]:
            job.result(60)
    assert len(engine.sae_cache.loaded()) == len(engine.lm.sae_names) == 1
