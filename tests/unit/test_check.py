"""The whole check on the tiny model, and what is kept of it."""

import copy
import json
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from sae_core.bundle import Bundle
from sae_core.check import CHECK_FILE, Check, check, check_sae, save_check, saved_check
from sae_core.check.sae_check import TEXT
from sae_core.config import SAEConfig
from sae_core.sae import SAE
from sae_core.splice import SplicedLM
from tests import tiny

TEXTS = [row["text"] for row in tiny.tiny_documents()]


@pytest.fixture
def lm(tiny_model: Any, tiny_tokenizer: Any, tiny_sae: SAE) -> SplicedLM:
    return SplicedLM(tiny_model, tiny_tokenizer, {"tiny": tiny_sae})


def changed(sae: SAE, change: Callable[[Any], object] = lambda sae: None, **cfg: Any) -> SAE:
    """A copy of an SAE with other weights, another configuration, or both."""
    other = copy.deepcopy(sae)
    change(other)
    other.cfg = replace(other.cfg, **cfg)
    return other


def with_declared(sae: SAE, l0: float | None, fvu: float | None) -> SAE:
    return changed(sae, metadata={"measured": {"l0": l0, "fvu": fvu}})


def test_the_sample_s_own_numbers_are_green_and_nothing_else_is_tried(lm: SplicedLM) -> None:
    bare = check(lm, "tiny", text=TEXTS, tokens=1000)
    assert (bare.verdict, bare.declared_l0) == ("amber", None)  # mediocre, nothing to compare with
    assert "nothing is declared" in bare.sentence
    sae = with_declared(lm.sae("tiny"), bare.l0, bare.fvu)
    actual = check_sae(lm, sae, text=TEXTS, tokens=1000)
    assert (actual.verdict, actual.convention, actual.tried) == ("green", None, ())
    assert 1000 <= actual.tokens < 1032
    assert actual.site == "resid_post/1"
    assert actual == check_sae(lm, sae, text=TEXTS, tokens=1000)


def test_json_values_hold_no_nan(lm: SplicedLM) -> None:
    actual = check(lm, "tiny", text="x", tokens=1).as_dict()
    assert (actual["verdict"], actual["fvu"]) == ("amber", None)  # one token has no variance
    assert json.loads(json.dumps(actual, allow_nan=False)) == actual


def test_json_keeps_the_keys_of_saved_checks(lm: SplicedLM) -> None:
    sae = with_declared(lm.sae("tiny"), 30.0, 0.001)
    result = check_sae(lm, sae, text=TEXTS, tokens=600)
    written = result.as_dict()
    assert written["reading"] == result.convention
    assert [tried["reading"] for tried in written["tried"]] == [t.convention for t in result.tried]
    assert result.tried
    assert "convention" not in {*written, *written["tried"][0]}


def test_the_shipped_text_is_long_and_varied_enough(lm: SplicedLM) -> None:
    text = TEXT.read_text(encoding="utf-8").strip()
    passages = text.split("\n%\n")
    assert 17_000 < len(text.encode()) < 20_000
    assert len(passages) == 20
    assert all(passage == passage.strip() and passage for passage in passages)
    assert check(lm, "tiny").tokens >= 4000


def test_few_tokens_are_never_red(lm: SplicedLM) -> None:
    dead = changed(lm.sae("tiny"), lambda sae: sae.threshold.data.fill_(1e9))
    assert check_sae(lm, dead, text=TEXTS, tokens=1000).verdict == "red"
    few = check_sae(lm, dead, text=TEXTS, tokens=200)
    assert few.verdict == "amber"
    assert "tokens are too few" in few.sentence
    assert few.tried == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda sae: sae.threshold.data.fill_(1e9), "hardly anything fires"),
        (lambda sae: sae.threshold.data.fill_(-1e9), "nothing is sparse"),
        (lambda sae: sae.W_dec.data.mul_(-9), "worse than the mean activation"),
        (lambda sae: sae.W_dec.data.fill_(3e38), "not made of finite numbers"),
    ],
)
def test_hopeless_weights_are_red(lm: SplicedLM, change: Any, words: str) -> None:
    actual = check_sae(lm, changed(lm.sae("tiny"), change), text=TEXTS, tokens=600)
    assert actual.verdict == "red"
    assert words in actual.sentence
    assert actual.convention is None


def test_activations_that_overflow_are_named(tiny_tokenizer: Any, tiny_sae: SAE) -> None:
    model: Any = tiny.make_model()
    model.model.layers[1].mlp.down_proj.weight.data[0, 0] = math.inf
    lm = SplicedLM(model, tiny_tokenizer, {"tiny": tiny_sae})
    actual = check(lm, "tiny", text=TEXTS, tokens=600)
    assert actual.verdict == "red"
    assert "not finite numbers: run it in bfloat16" in actual.sentence


def test_an_sae_without_a_site_is_found(lm: SplicedLM) -> None:
    right = check(lm, "tiny", text=TEXTS, tokens=600)
    sae = changed(lm.sae("tiny"), site=None, metadata={"declared": {"l0": right.l0}})
    actual = check_sae(lm, sae, text=TEXTS, tokens=600)
    assert (actual.verdict, actual.site, actual.convention) == ("amber", None, "resid_post/1")
    assert "look like an SAE of resid_post/1 (layer 1's output)" in actual.sentence
    assert (actual.l0, actual.fvu) == (right.l0, right.fvu)
    nowhere = changed(sae, lambda sae: sae.W_dec.data.mul_(-9))
    assert check_sae(lm, nowhere, text=TEXTS, tokens=600).verdict == "red"


def test_a_command_is_saved_without_a_path_and_shown_as_it_is_typed(
    bundle: Bundle, result: Check
) -> None:
    command = "jumpscope convert SOURCE TARGET --site mlp_out/1 writes a copy that does."
    save_check(bundle, tiny.SAE_NAME, replace(result, sentence=f"To say so: {command}"))
    assert str(bundle.path) not in (bundle.sae_path(tiny.SAE_NAME) / "cfg.json").read_text()
    kept = saved_check(bundle, tiny.SAE_NAME)
    assert kept is not None
    words = f"jumpscope convert {bundle.sae_path(tiny.SAE_NAME)} tiny-corrected --site mlp_out/1"
    assert kept["sentence"] == f"To say so: {words} writes a copy that does."


def test_the_lock_is_free_while_the_sae_computes(lm: SplicedLM) -> None:
    sae, free = changed(lm.sae("tiny")), []
    encode, forward = sae.encode, lm.model.model.forward
    lengths = []

    def from_another_thread() -> None:
        if lm.lock.acquire(blocking=False):
            lm.lock.release()
            free.append(True)
        else:
            free.append(False)

    def watched(x: torch.Tensor) -> torch.Tensor:
        thread = threading.Thread(target=from_another_thread)
        thread.start()
        thread.join()
        return encode(x)

    sae.encode = watched  # pyright: ignore[reportAttributeAccessIssue]
    hook = lm.model.model.embed_tokens.register_forward_pre_hook(
        lambda _module, args: lengths.append(args[0].shape[1])
    )
    try:
        check_sae(lm, sae, text=TEXTS, tokens=600)
    finally:
        hook.remove()
    assert free
    assert all(free)
    assert max(lengths) == sae.cfg.context_size  # 32, and the model reads up to 256
    assert lm.model.model.forward == forward


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"text": ""}, "no token that counts"),
        ({"text": []}, "no token that counts"),
        ({"tokens": 0}, "tokens is 0 but must be between 1 and 50,000"),
        ({"tokens": 10**6}, "tokens is 1000000 but must be between"),
    ],
)
def test_mistakes_get_a_sentence(lm: SplicedLM, options: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check(lm, "tiny", **options)


def test_an_sae_of_another_width_fits_nowhere(lm: SplicedLM) -> None:
    cfg = SAEConfig(architecture="standard", d_model=48, d_sae=64)
    with pytest.raises(ValueError, match="no activation of this model has that width"):
        check_sae(lm, SAE.build(cfg), text=TEXTS)


@pytest.fixture
def result(lm: SplicedLM, bundle: Bundle) -> Check:
    actual = check(lm, "tiny", text=TEXTS, tokens=100)
    return replace(actual, content_hash=bundle.content_hash(tiny.SAE_NAME))


def test_a_check_is_kept_in_the_metadata_of_our_own(bundle: Bundle, result: Check) -> None:
    folder = bundle.sae_path(tiny.SAE_NAME)
    before = bundle.sae_config(tiny.SAE_NAME)
    weights = (folder / "sae_weights.safetensors").read_bytes()
    assert saved_check(bundle, tiny.SAE_NAME) is None
    assert save_check(bundle, tiny.SAE_NAME, result) == folder / "cfg.json"
    kept = saved_check(bundle, tiny.SAE_NAME)
    assert kept is not None
    assert len(kept.pop("date")) == len("2026-01-31")
    assert kept == result.as_dict()
    after = bundle.sae_config(tiny.SAE_NAME)
    assert (folder / "sae_weights.safetensors").read_bytes() == weights
    metadata = {key: value for key, value in after.metadata.items() if key != "check"}
    assert replace(after, metadata=metadata) == before


@pytest.mark.parametrize("other", [{"content_hash": "0" * 64}, {"site": "mlp_proj/1"}])
def test_a_check_of_other_weights_or_sites_is_not_shown(
    bundle: Bundle, result: Check, other: Any
) -> None:
    save_check(bundle, tiny.SAE_NAME, replace(result, **other))
    assert saved_check(bundle, tiny.SAE_NAME) is None


def test_a_check_of_somebody_else_s_files_lies_beside_them(bundle: Bundle, result: Check) -> None:
    elsewhere = replace(bundle, sources={tiny.SAE_NAME: f"saes/{tiny.SAE_NAME}"})
    file = save_check(elsewhere, tiny.SAE_NAME, result)
    assert file == bundle.sae_path(tiny.SAE_NAME) / CHECK_FILE
    kept = saved_check(elsewhere, tiny.SAE_NAME)
    assert kept is not None
    assert kept["sentence"] == result.sentence
    file.write_text("{")
    with pytest.raises(ValueError, match=r"check.json is damaged"):
        saved_check(elsewhere, tiny.SAE_NAME)
