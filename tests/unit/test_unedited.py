"""What the unedited model makes of generated texts, against one plain forward for each text."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_core import unedited as module
from sae_core.config import Site
from sae_core.edits import Edit
from sae_core.generation import generate
from sae_core.sae import SAE
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text
from sae_core.unedited import Reading, readback
from tests import tiny, tiny_sink
from tests.arms_reference import MODULES, WINDOW, slow_acts, windowed_mistral
from tests.tiny import ALWAYS, make_sae

WATCH = [("attn_out/0", ALWAYS), ("resid_post/1", 7), ("mlp_out/2", ALWAYS), ("resid_post/1", 3)]


@pytest.fixture(scope="module")
def lm(tiny_model: Any, tiny_tokenizer: Any) -> SplicedLM:
    sites = dict.fromkeys(name for name, _ in WATCH)
    saes = {site: make_sae(tiny_model, tiny_tokenizer, Site.parse(site)) for site in sites}
    return SplicedLM(tiny_model, tiny_tokenizer, saes)


@pytest.fixture(scope="module")
def prompt(tiny_tokenizer: Any) -> list[int]:
    return encode_text(tiny_tokenizer, "The river remembers two letters in the winter of 1912.")


@pytest.fixture(scope="module")
def texts(tiny_tokenizer: Any) -> list[list[int]]:
    """Of different lengths; one has a special token inside, one is empty."""
    words = ["A ship", "My neighbour returns the harbour at noon. It", "", "The old clock carries"]
    ids = [encode_text(tiny_tokenizer, word)[1:] for word in words]
    ids[3].insert(2, 2)
    assert len(ids[1]) > WINDOW
    assert len({len(each) for each in ids}) == len(ids)
    return ids


def slow_reading(
    model: Any, saes: Sequence[tuple[SAE, int]], prompt: list[int], text: list[int]
) -> tuple[Tensor, Tensor]:
    """Activations `[n, watched]` and log-probabilities `[n]` by a forward of the whole text."""
    ids = prompt + text
    acts = torch.zeros(len(text), len(saes))

    def keep(column: int, x: Tensor) -> None:
        sae, feature = saes[column]
        acts[:, column] = slow_acts(sae, x[0].float())[len(prompt) :, feature]

    handles = []
    for column, (sae, _) in enumerate(saes):
        assert sae.cfg.site is not None
        name, side = MODULES[sae.cfg.site.kind]
        block = model.get_submodule(name.format(sae.cfg.site.layer))
        if side == "input":
            handle = block.register_forward_pre_hook(lambda _m, a, c=column: keep(c, a[0]))
        else:
            handle = block.register_forward_hook(
                lambda _m, _a, out, c=column: keep(c, out[0] if isinstance(out, tuple) else out)
            )
        handles.append(handle)
    try:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()
    finally:
        for handle in handles:
            handle.remove()
    logp = logits.log_softmax(-1)
    new = range(len(prompt), len(ids))
    acts[[token in (0, 1, 2) for token in text]] = 0
    return acts, torch.tensor([float(logp[t - 1, ids[t]]) for t in new])


def assert_read(reading: Reading, expected: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(torch.tensor(reading.acts), expected[0], atol=1e-5, rtol=1e-5)
    logp = torch.tensor(reading.logp, dtype=torch.float32)
    torch.testing.assert_close(logp, expected[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("memory", [None, 1, 200_000])
@pytest.mark.parametrize("prompt_length", [1, 2, 9, None])
def test_each_text_equals_a_forward_of_its_own(
    lm: SplicedLM,
    prompt: list[int],
    texts: list[list[int]],
    memory: int | None,
    prompt_length: int | None,
) -> None:
    """Whatever its place in a batch, what stands beside it and how long the prompt is."""
    ids = prompt[:prompt_length]
    saes = [(lm.sae(name), feature) for name, feature in WATCH]
    readings = readback(lm, ids, texts, WATCH, memory=memory)
    expected = [slow_reading(lm.model, saes, ids, text) for text in texts]
    assert sum(int((acts > 0).sum()) for acts, _ in expected) > 5, "a feature must fire"
    for reading, slow in zip(readings, expected, strict=True):
        assert_read(reading, slow)
    assert readings[3].special.tolist() == [token == 2 for token in texts[3]]


def test_it_takes_few_forwards_and_reads_the_prompt_once(
    lm: SplicedLM, prompt: list[int], texts: list[list[int]]
) -> None:
    shapes: list[tuple[int, ...]] = []
    layer = lm.model.model.layers[0]
    handle = layer.mlp.register_forward_pre_hook(lambda _m, a: shapes.append(tuple(a[0].shape[:2])))
    try:
        readback(lm, prompt, texts, WATCH)
    finally:
        handle.remove()
    assert shapes == [(1, len(prompt) - 1), (len(texts), 1 + max(map(len, texts)))]


def test_shares_and_likelihood_by_hand() -> None:
    reading = Reading(
        acts=np.array([[0.5, 0], [0, 0], [0, 0], [2, 1]], dtype=np.float32),
        logp=np.array([-1.0, -2.0, -3.0, -6.0]),
        special=np.array([False, False, True, False]),
    )
    assert reading.firing_share() == pytest.approx(2 / 3), "the special token does not count"
    assert reading.firing_share(1) == pytest.approx(1 / 3)
    assert reading.nll == 3.0, "but it was generated, and had a likelihood"
    empty = Reading(
        acts=np.zeros((0, 1), dtype=np.float32), logp=np.zeros(0), special=np.zeros(0, dtype=bool)
    )
    assert np.isnan(empty.firing_share())
    assert np.isnan(empty.nll)


def test_a_steered_text_is_read_without_its_edits(lm: SplicedLM, prompt: list[int]) -> None:
    """While it was generated the feature was set; read afresh it fires where the text has it."""
    edit = Edit(feature=7, mode="set", value=8.0, sae="resid_post/1")
    watch = [("resid_post/1", 7)]
    steps = list(generate(lm, prompt, [[edit]], max_new_tokens=12, watch=watch))
    tokens = [token for step in steps for token in step.tokens if token is not None]
    (reading,) = readback(lm, prompt, [[t.id for t in tokens]], watch)
    assert np.mean([t.after[0] > 0 for t in tokens]) > 0.8
    assert reading.firing_share() < 0.2
    sae = lm.sae("resid_post/1")
    text = [t.id for t in tokens]
    assert_read(reading, slow_reading(lm.model, [(sae, 7)], prompt, text))


def test_a_topk_sae_and_a_window_of_another_model(
    prompt: list[int], tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = windowed_mistral()
    plain = make_sae(model, tiny_tokenizer, Site("resid_post", 1))
    topk = SAE.build(dataclasses.replace(plain.cfg, architecture="topk", k=6))
    topk.load_state_dict({n: p for n, p in plain.state_dict().items() if n != "threshold"})
    lm = SplicedLM(model, tiny_tokenizer, {"plain": plain, "topk": topk})
    texts = [prompt[1:15], prompt[4:8]]
    # Encoded five tokens at a time.
    monkeypatch.setattr(module, "_ENCODED", 5 * tiny.D_SAE)
    readings = readback(lm, prompt, texts, [("plain", ALWAYS), ("topk", 4)])
    for reading, text in zip(readings, texts, strict=True):
        slow_plain = slow_reading(model, [(plain, ALWAYS)], prompt, text)
        x = _stream(model, prompt + text)
        pre = (x @ topk.W_enc + topk.b_enc).relu()
        kept = torch.where(pre >= pre.topk(6).values[:, -1:], pre, 0)[len(prompt) :, 4]
        assert_read(reading, (torch.stack([slow_plain[0][:, 0], kept], dim=1), slow_plain[1]))


def _stream(model: Any, ids: list[int]) -> Tensor:
    kept: list[Tensor] = []
    handle = model.model.layers[1].register_forward_hook(
        lambda _m, _a, out: kept.append(out[0] if isinstance(out, tuple) else out)
    )
    try:
        with torch.no_grad():
            model(input_ids=torch.tensor([ids]), use_cache=False)
    finally:
        handle.remove()
    return kept[0].reshape(len(ids), -1)


def test_a_model_without_bos_is_read_like_any_other() -> None:
    """Its sink is the prompt's first token, never a new one."""
    tokenizer = tiny_sink.make_tokenizer()
    model = tiny_sink.make_model(50)
    sae = tiny_sink.make_sae(model, tokenizer)
    lm = SplicedLM(model, tokenizer, {"sae": sae})
    ids = encode_text(tokenizer, "The ship")
    text = encode_text(tokenizer, " returns at noon")
    (reading,) = readback(lm, ids, [text], [("sae", 3)])
    assert reading.acts.shape == (len(text), 1)
    (whole,) = readback(lm, ids[:1], [ids[1:] + text], [("sae", 3)])
    np.testing.assert_allclose(reading.acts, whole.acts[len(ids) - 1 :], atol=1e-4)
    np.testing.assert_allclose(reading.logp, whole.logp[len(ids) - 1 :], atol=1e-4)


@pytest.mark.parametrize(
    ("ids", "watch", "sentence"),
    [
        ([], [("resid_post/1", 1)], "without tokens"),
        ([2, 5], [("resid_post/1", tiny.D_SAE)], f"feature {tiny.D_SAE} does not exist"),
        ([2, 5], [("other", 1)], "unknown SAE 'other'"),
    ],
)
def test_mistakes_are_one_sentence(
    lm: SplicedLM, ids: list[int], watch: list[tuple[str, int]], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        readback(lm, ids, [[5]], watch)
