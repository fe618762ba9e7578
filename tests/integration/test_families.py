"""Small Llama and Mistral models: trained by training.lm, and all that follows works on them."""

from typing import Any

import pytest
import torch

from sae_core.bundle import Bundle
from sae_core.config import Site
from sae_core.corpus import documents, token_rows
from sae_core.edits import Edit, Steering
from sae_core.effects import effects
from sae_core.evaluation import evaluate, take_tokens
from sae_core.generation import generate
from sae_core.index import IndexConfig, build_index
from sae_core.sites import activations, replace
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text
from tests import tiny
from tests.unit.service_support import api_of
from training.lm import train_lm
from training.lm_config import LMConfig
from training.lm_model import Family, LMShape
from training.loop import train
from training.train_config import short_run

SITES = ("resid_post/1", "mlp_out/1", "attn_out/1")
TEXT = "The river remembers two letters in the winter of 1912, and the old clock returns it again!"
WINDOW = 8


@pytest.fixture(scope="module", params=["llama", "mistral"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of a language model and SAEs at three sites, both trained here, with indexes."""
    family: Family = request.param
    folder = tmp_path_factory.mktemp(family)
    corpus = str(tiny.make_corpus(folder / "text.parquet", count=120, seed=1))
    report = train_lm(
        LMConfig(
            corpus=(corpus,),
            validation=(corpus,),
            out=folder / "lm",
            shape=LMShape(
                family=family,
                vocab_size=320,
                hidden_size=32,
                layers=2,
                heads=4,
                kv_heads=2,
                head_dim=12,
                intermediate_size=48,
                sliding_window=WINDOW,
                max_positions=64,
            ),
            context=32,
            batch_rows=8,
            steps=60,
            device="cpu",
        )
    )
    assert report["config"]["shape"]["family"] == family
    assert report["training_curve"][0]["loss"] > report["training_curve"][-1]["loss"] + 0.3
    out = folder / "run"
    train(
        short_run(
            model=str(folder / "lm" / "model"),
            corpus=(corpus,),
            sites=SITES,
            d_sae=64,
            out=str(out),
            l0_targets=(6,),
            batch=128,
            tokens=40 * 128,
            context_size=32,
            buffer_tokens=1_024,
            lrs=(5e-3,),
        )
    )
    bundle = Bundle.open(out)
    model, tokenizer = bundle.load_model(torch.float32, torch.device("cpu"))
    for name in bundle.sae_names:
        cfg = IndexConfig(corpus=(corpus,), tokens=1_000)
        build_index(model, tokenizer, bundle.load_sae(name), cfg, bundle.index_path(name))
    return Bundle.open(out)


@pytest.fixture(scope="module")
def lm(trained: Bundle) -> SplicedLM:
    model, tokenizer = trained.load_model(torch.float32, torch.device("cpu"))
    return SplicedLM(model, tokenizer, {name: trained.load_sae(name) for name in trained.sae_names})


def test_the_sites_are_those_of_the_architecture(lm: SplicedLM) -> None:
    assert {str(lm.site(name)) for name in lm.sae_names} == set(SITES)
    for name in lm.sae_names:
        width = 48 if lm.site(name).kind == "attn_out" else 32  # 4 heads of 12
        assert lm.sae(name).cfg.d_model == width


def test_a_window_hides_what_lies_before_it(lm: SplicedLM) -> None:
    """The saved model attends as the trained one did: through one layer, Mistral sees 8 tokens."""
    ids = torch.tensor([encode_text(lm.tokenizer, TEXT)])
    other = ids.clone()
    other[0, 1] = ids[0, 1] + 1
    site = Site("resid_post", 0)
    before, after = (activations(lm.model, each, [site])[site][0] for each in (ids, other))
    reached = [bool((a != b).any()) for a, b in zip(before, after, strict=True)]
    assert reached[1]
    assert any(reached[1 + WINDOW :]) == (lm.model.config.model_type == "llama")


def test_no_edit_is_the_model_bit_for_bit(lm: SplicedLM) -> None:
    ids = encode_text(lm.tokenizer, TEXT)
    special = [lm.is_special(ids)]

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits

    before = logits()
    for name in lm.sae_names:
        for edits in ([], [Edit(sae=name, feature=3, mode="scale", value=1.0)]):

            def edit(x: torch.Tensor, name: str = name, edits: list = edits) -> Any:
                return Steering(lm.sae(name), [edits], len(ids))(x, x, 0, special)

            with replace(lm.model, lm.site(name), edit):
                assert torch.equal(logits(), before)
    assert torch.equal(logits(), before)


def test_generation_without_edits_is_the_models_own(lm: SplicedLM) -> None:
    """Longer than the window, with and without the cache that SAEs are spliced into."""
    ids = encode_text(lm.tokenizer, TEXT)
    name = lm.sae_names[0]
    push = Edit(sae=name, feature=3, mode="add", value=40.0)
    steps = list(generate(lm, ids, [[], [push]], max_new_tokens=12))
    prompt = torch.tensor([ids])
    written = lm.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False
    )
    own = [step.tokens[0].id for step in steps if step.tokens[0]]
    assert own == written[0, len(ids) :].tolist()
    assert own != [step.tokens[1].id for step in steps if step.tokens[1]]


def test_an_sae_is_measured_and_its_features_have_effects(lm: SplicedLM, trained: Bundle) -> None:
    ids = encode_text(lm.tokenizer, TEXT)
    corpus = [str(trained.path.parent / "text.parquet")]
    rows = take_tokens(token_rows(documents(corpus), lm.tokenizer, 32), 400)
    for name in lm.sae_names:
        measured = evaluate(lm, name, rows)
        assert 0 < measured.l0 < 64
        assert 0 < measured.fvu < 1
        assert measured.kl > 0
        found = effects(lm, ids, name, len(ids) - 2)
        assert len(found.feature) > 0
        assert float(found.kl.max()) > 0


def test_the_app_works_on_it(trained: Bundle) -> None:
    api = api_of(trained)
    for name in trained.sae_names:
        analysed = api.prompt_features(TEXT, sae=name)
        assert analysed["totals"]["l0"] > 0
        listed = api.search_features(sae=name)
        assert listed["total"] > 0
        feature = listed["features"][0]["feature"]
        assert api.feature(feature, sae=name)["max_act"] > 0
        carried = api.effects(TEXT, sae=name)
        assert carried["effects_total"] > 0
        edits = [{"feature": feature, "mode": "set", "strength": 3.0}]
        steered = api.steer(TEXT, edits, sae=name, max_new_tokens=3, temperature=0)
        assert len(steered["steered"]) == 3
