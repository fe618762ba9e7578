"""The sites of other models than Gemma 2: the right tensors, the right widths, or a clear refusal.

Every model is tiny and random. What stands at a site is checked by arithmetic that knows nothing of
module names: the stream after a block is the stream before it and what attention and MLP add.
"""

import copy
from dataclasses import dataclass
from typing import Any, get_args

import pytest
import torch
import transformers
from torch import Tensor, nn

from sae_core.config import SAEConfig, Site, SiteKind
from sae_core.generation import generate
from sae_core.joined_cache import joins
from sae_core.residual_stream import check_stream
from sae_core.sae import SAE
from sae_core.shared_generation import SharedGeneration
from sae_core.sites import activations, capture, module_path, rewrite, site_width
from sae_core.splice import SplicedLM
from tests import tiny

LAYER = 1
WIDTH, HEADS_WIDTH, MLP_WIDTH = 32, 48, 40
"""Of the residual stream, of all heads together, and inside the MLP: all different."""

IDS = torch.tensor([[2, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50]])


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of model and what is to be found in it."""

    config: str
    changes: dict[str, Any]
    attn_width: int = HEADS_WIDTH
    parallel: bool = False
    """Attention and MLP both read the stream before the block."""


DECODER: dict[str, Any] = {
    "vocab_size": tiny.VOCAB_SIZE,
    "hidden_size": WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": MLP_WIDTH,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
WITH_HEAD_DIM = DECODER | {"head_dim": 12}
WITH_WINDOW = WITH_HEAD_DIM | {"sliding_window": 8}
GPT2_NAMES = {
    "vocab_size": tiny.VOCAB_SIZE,
    "n_embd": WIDTH,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "n_inner": MLP_WIDTH,
    "initializer_range": 0.2,
    "bos_token_id": 2,
    "eos_token_id": 1,
}
NEOX_NAMES = {k: v for k, v in DECODER.items() if k != "num_key_value_heads"}

FAMILIES = {
    "llama": Family(config="LlamaConfig", changes=WITH_HEAD_DIM),
    "mistral": Family(config="MistralConfig", changes=WITH_WINDOW),
    "qwen2": Family(config="Qwen2Config", changes=DECODER, attn_width=WIDTH),
    "qwen3": Family(config="Qwen3Config", changes=WITH_HEAD_DIM),
    "gpt2": Family(config="GPT2Config", changes=GPT2_NAMES, attn_width=WIDTH),
    "gemma": Family(config="GemmaConfig", changes=WITH_HEAD_DIM),
    "gemma2": Family(config="Gemma2Config", changes=WITH_WINDOW),
    "gemma3": Family(config="Gemma3TextConfig", changes=WITH_WINDOW),
    "phi": Family(config="PhiConfig", changes=DECODER, attn_width=WIDTH, parallel=True),
    "phi3": Family(config="Phi3Config", changes=DECODER, attn_width=WIDTH),
    "olmo2": Family(config="Olmo2Config", changes=DECODER, attn_width=WIDTH),
    "gpt_neox": Family(config="GPTNeoXConfig", changes=NEOX_NAMES, attn_width=WIDTH, parallel=True),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def model(family: Family) -> Any:
    return made(family.config, family.changes)


def made(config: str, changes: dict[str, Any]) -> Any:
    settings = getattr(transformers, config)(**changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(settings)
        # Norms start as no change at all: then one tensor would be as good as its neighbour.
        for name, parameter in model.named_parameters():
            if "norm" in name or ".ln_" in name:
                nn.init.normal_(parameter, mean=0.5, std=0.5)
    return model.float().eval().requires_grad_(False)


def close(result: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def at(model: Any, *kinds: SiteKind) -> list[Tensor]:
    sites = [Site(kind, LAYER) for kind in kinds]
    result = activations(model, IDS, sites)
    return [result[site] for site in sites]


def test_the_stream_adds_up(model: Any, family: Family) -> None:
    before, after, mlp_out, attn_add = at(model, "resid_pre", "resid_post", "mlp_out", "attn_add")
    close(before + attn_add + mlp_out, after)
    assert not torch.allclose(before, after, atol=0.1)
    assert mlp_out.abs().max() > 0.1
    assert attn_add.abs().max() > 0.1
    if family.parallel:
        for kind in ("resid_mid", "mlp_in_unit"):
            with pytest.raises(ValueError, match=f"has no module for site {kind}/1"):
                module_path(model, Site(kind, LAYER))
    else:
        (middle,) = at(model, "resid_mid")
        close(before + attn_add, middle)


def test_attention_is_read_before_its_projection(model: Any, family: Family) -> None:
    heads, projected = at(model, "attn_out", "attn_proj")
    path, side = module_path(model, Site("attn_out", LAYER))
    assert side == "input"
    assert heads.shape[-1] == family.attn_width
    with torch.no_grad():
        again = model.get_submodule(path)(heads)
    close(again, projected)


def test_the_mlp_makes_its_output_from_its_input(model: Any) -> None:
    read, written = at(model, "mlp_in", "mlp_proj")
    path, _ = module_path(model, Site("mlp_in", LAYER))
    with torch.no_grad():
        close(model.get_submodule(path)(read), written)


@pytest.mark.parametrize("kind", ["resid_post", "mlp_out", "attn_out"])
def test_captures_are_what_a_plain_hook_sees(model: Any, family: Family, kind: SiteKind) -> None:
    site, seen = Site(kind, LAYER), []
    path, side = module_path(model, site)
    module = model.get_submodule(path)

    def on_output(_module: nn.Module, args: Any, output: Any) -> None:
        value = args[0] if side == "input" else output
        seen.append(value[0] if isinstance(value, tuple) else value)

    handle = module.register_forward_hook(on_output)
    try:
        with capture(model, [site]) as result, torch.no_grad():
            model(input_ids=IDS, use_cache=False)
    finally:
        handle.remove()
    assert torch.equal(result[site], seen[0])
    width = family.attn_width if kind == "attn_out" else WIDTH
    assert result[site].shape[-1] == site_width(model, site) == width


@pytest.mark.parametrize("kind", ["resid_post", "mlp_out", "attn_out"])
def test_a_splice_that_changes_nothing_leaves_the_logits(model: Any, kind: SiteKind) -> None:
    site = Site(kind, LAYER)

    def logits() -> Tensor:
        with torch.no_grad():
            return model(input_ids=IDS, use_cache=False).logits

    before = logits()
    with rewrite(model, site, site, lambda _x, y: y.clone()):
        assert torch.equal(logits(), before)
    with rewrite(model, site, site, lambda _x, y: -y):
        assert not torch.allclose(logits(), before, atol=1e-3)
    assert torch.equal(logits(), before)


@pytest.mark.parametrize("kind", ["resid_post", "mlp_out", "attn_out"])
def test_analysis_and_generation(model: Any, kind: SiteKind) -> None:
    """Losses are those of the model's own forward; an arm without edits is the model."""
    site = Site(kind, LAYER)
    width = site_width(model, site)
    sae = SAE.build(SAEConfig(architecture="jumprelu", d_model=width, d_sae=16, site=site))
    generator = torch.Generator().manual_seed(0)
    for weight in (sae.W_enc, sae.W_dec):
        weight.data = torch.randn(weight.shape, generator=generator) / width**0.5
    lm = SplicedLM(model, tiny.make_tokenizer(), {"sae": sae})
    ids = IDS[0].tolist()
    analysis = lm.analyse(ids, "sae")
    with torch.no_grad():
        logits = model(input_ids=IDS, use_cache=False).logits[0]
    expected = nn.functional.cross_entropy(logits[:-1], IDS[0, 1:], reduction="none")
    close(torch.tensor(analysis.base_loss[1:]), expected)
    assert analysis.totals["l0"] > 0
    assert abs(analysis.totals["delta_lm_loss"]) > 1e-4
    steps = list(generate(lm, ids, [[]], max_new_tokens=5, watch=[("sae", 3)]))
    written = model.generate(
        IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=5, do_sample=False
    )
    assert [s.tokens[0].id for s in steps if s.tokens[0]] == written[0, len(ids) :].tolist()


def test_generations_are_joined(model: Any) -> None:
    """Prompts of several lengths, shorter and longer than a window, as rows of one forward."""
    lm = SplicedLM(model, tiny.make_tokenizer(), {})
    shared = SharedGeneration(lm)
    assert joins(model)
    prompts = [IDS[:, :length] for length in (3, 12, 7)]
    going = [
        shared.generate(ids[0].tolist(), [[]], max_new_tokens=6, eos=frozenset()) for ids in prompts
    ]
    steps = [[next(each) for each in going] for _ in range(6)]
    for k, ids in enumerate(prompts):
        written = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=None,
        )
        tokens = [step[k].tokens[0] for step in steps]
        assert [token.id for token in tokens if token] == written[0, ids.shape[1] :].tolist()


def test_what_a_model_does_not_have_is_said() -> None:
    family = FAMILIES["gpt2"]
    model = made(family.config, family.changes)
    with pytest.raises(ValueError, match="needs an RMS norm"):
        at(model, "mlp_in_unit")
    opt = {"ffn_dim": 48, "word_embed_proj_dim": 32, "num_hidden_layers": 2}
    opt |= {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 2}
    opt |= {"max_position_embeddings": 64}
    with pytest.raises(ValueError, match="OPTForCausalLM has no list of decoder layers"):
        module_path(made("OPTConfig", opt), Site("resid_post", 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_site_that_exists_passes_the_check(model: Any, dtype: torch.dtype) -> None:
    other = copy.deepcopy(model).to(dtype)
    for kind in get_args(SiteKind):
        site = Site(kind, LAYER)
        try:
            module_path(model, site)
        except ValueError:
            continue
        check_stream(other, site, None)


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        ("Glm4Config", WITH_HEAD_DIM),  # norms after attention and MLP that are not named so
        ("GraniteConfig", DECODER | {"residual_multiplier": 0.2}),
        ("BloomConfig", GPT2_NAMES | {"hidden_size": WIDTH}),  # the MLP adds the stream itself
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sites_of_models_that_add_otherwise_are_refused(
    config: str, changes: dict[str, Any], dtype: torch.dtype
) -> None:
    model = made(config, changes).to(dtype)
    cfg = SAEConfig(architecture="jumprelu", d_model=WIDTH, d_sae=8, site=Site("mlp_out", LAYER))
    with pytest.raises(ValueError, match="do not add up as site mlp_out/1"):
        SplicedLM(model, tiny.make_tokenizer(), {"sae": SAE.build(cfg)})
    check_stream(model, Site("resid_post", LAYER))


def test_an_sae_of_another_width_is_refused(model: Any, family: Family) -> None:
    site = Site("attn_out", LAYER)
    cfg = SAEConfig(architecture="jumprelu", d_model=family.attn_width + 1, d_sae=8, site=site)
    with pytest.raises(ValueError, match=f"but site attn_out/1 .* {family.attn_width}"):
        SplicedLM(model, tiny.make_tokenizer(), {"sae": SAE.build(cfg)})
