"""A CUDA device's memory: what is counted is what is allocated, and a full one is a sentence."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from app.engine.engine import Engine
from app.settings import Settings
from sae_core.bundle import Bundle, write_bundle
from sae_core.config import SAEConfig
from sae_core.formats.saelens import save_sae
from sae_core.sae import SAE
from tests import tiny

pytestmark = pytest.mark.gpu

WIDE = 2**18
"""Features of the SAEs here: 68 MB of weights, and 1 MB of activations for each token."""


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Any, tiny_tokenizer: Any
) -> Bundle:
    """The tiny model with two wide SAEs, without indexes."""
    folder = tmp_path_factory.mktemp("wide")
    tiny_model.save_pretrained(folder / "model")
    tiny_tokenizer.save_pretrained(folder / "model")
    for name in ("one", "other"):
        cfg = SAEConfig(
            architecture="jumprelu",
            d_model=tiny.D_MODEL,
            d_sae=WIDE,
            site=tiny.SITE,
            model_name="tiny-gemma-2",
        )
        save_sae(SAE.build(cfg), folder / "saes" / name)
    return write_bundle(folder, name="wide", title="Wide.", model="model", saes=["one", "other"])


def engine(bundle: Bundle, **changed: Any) -> Engine:
    return Engine(Settings(threads=1, device="cuda", dtype="float32", **changed), bundle)


@contextmanager
def little_room(megabytes: int) -> Iterator[None]:
    """Inside the block PyTorch may take only so much more of the device."""
    gc.collect()
    torch.cuda.empty_cache()
    total, reserved = torch.cuda.mem_get_info()[1], torch.cuda.memory_reserved()
    filler = []
    try:
        # What earlier tests left free in memory that PyTorch holds is no room here.
        torch.cuda.set_per_process_memory_fraction(reserved / total)
        size = 2**30
        while size >= 2**20:
            try:
                filler.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
            except torch.cuda.OutOfMemoryError:
                size //= 2
        torch.cuda.set_per_process_memory_fraction((reserved + megabytes * 10**6) / total)
        yield
    finally:
        filler.clear()
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_what_is_counted_is_what_is_allocated(bundle: Bundle) -> None:
    before = torch.cuda.memory_allocated()
    running = engine(bundle, max_sae_memory=0.1)
    model = torch.cuda.memory_allocated() - before
    memory = running.memory()
    assert memory["device"] == "cuda:0"
    # The allocator rounds each tensor up to 512 bytes.
    assert memory["model"] <= model < memory["model"] + 512 * 60
    sizes = []
    for name in ("one", "other", "one"):
        with running.spliced([name]) as lm:
            assert lm.sae(name).W_enc.is_cuda
        (row,) = running.memory()["saes"]
        sizes.append((row["name"], torch.cuda.memory_allocated() - before - model))
        assert row["bytes"] <= sizes[-1][1] < row["bytes"] + 512 * 10
    assert [name for name, _ in sizes] == ["one", "other", "one"]
    free, total = running.memory()["free"], running.memory()["total"]
    assert 0 < free < total == torch.cuda.mem_get_info()[1]


def test_a_text_too_long_for_the_device_is_refused_and_the_next_goes_on(bundle: Bundle) -> None:
    running = engine(bundle)
    ids = running.token_ids("The river follows the harbour. " * 20)
    short = running.token_ids("The river")
    expected = running.analyse(short, "one", None).totals["ce_base"]
    allocated = torch.cuda.memory_allocated()
    # The splice of a prompt this long takes several times 1 MB for each token.
    with little_room(60), pytest.raises(ValueError, match="too long for the memory of cuda") as no:
        running.analyse(ids, "one", None)
    assert "\n" not in str(no.value)
    # Nothing is left of arrays of 1 MB a token.
    assert torch.cuda.memory_allocated() < allocated + 10**6
    assert not any(row["in_use"] for row in running.memory()["saes"])
    running._analyses.clear()
    assert running.analyse(short, "one", None).totals["ce_base"] == expected
    assert running.analyse(ids, "one", None).totals["tokens"] == len(ids) - 1


def test_an_sae_that_does_not_fit_is_refused_and_fits_later(bundle: Bundle) -> None:
    running = engine(bundle)
    with (
        little_room(20),
        pytest.raises(ValueError, match=r"SAE one of 69.* does not fit .* lower max_sae_memory"),
        running.spliced(["one"]),
    ):
        pass
    with running.spliced(["one"]) as lm:
        assert lm.sae_names == ["one"]
