"""Capturing and replacing activations leaves the model as found."""

from typing import Any, get_args

import pytest
import torch
from torch import nn

from sae_core.config import Site, SiteKind
from sae_core.sites import activations, capture, module_path, replace, site_width

KINDS: tuple[SiteKind, ...] = get_args(SiteKind)
SITES = [Site("resid_post", 1), Site("mlp_out", 0), Site("attn_out", 2), Site("mlp_in", 1)]
IDS = torch.tensor([[2, 40, 41, 42, 43, 44], [2, 50, 51, 52, 53, 54]])


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("site", SITES, ids=str)
def test_a_replacement_by_itself_is_bit_identical(tiny_model: Any, site: Site) -> None:
    before = logits(tiny_model)
    for same in (lambda x: None, lambda x: x, lambda x: x.clone()):
        with replace(tiny_model, site, same):
            assert torch.equal(logits(tiny_model), before)
    with replace(tiny_model, site, lambda x: x * 1.5):
        assert not torch.equal(logits(tiny_model), before)
    assert torch.equal(logits(tiny_model), before)


def test_sites_are_the_documented_tensors(tiny_model: Any) -> None:
    """One block's arithmetic, redone from the captured activations."""
    layer = tiny_model.model.layers[1]
    with torch.no_grad(), capture(tiny_model, [Site(kind, 1) for kind in KINDS]) as result:
        logits(tiny_model)
        x = {site.kind: activation for site, activation in result.items()}
        assert torch.equal(layer.self_attn.o_proj(x["attn_out"]), x["attn_proj"])
        assert torch.equal(layer.post_attention_layernorm(x["attn_proj"]), x["attn_add"])
        assert torch.equal(x["resid_pre"] + x["attn_add"], x["resid_mid"])
        norm = layer.pre_feedforward_layernorm
        assert torch.equal(norm(x["resid_mid"]), x["mlp_in"])
        torch.testing.assert_close(x["mlp_in_unit"] * (1 + norm.weight), x["mlp_in"])
        torch.testing.assert_close(
            x["mlp_in_unit"].square().mean(-1), torch.ones(2, 6), atol=1e-4, rtol=0
        )
        assert torch.equal(layer.mlp(x["mlp_in"]), x["mlp_proj"])
        assert torch.equal(layer.post_feedforward_layernorm(x["mlp_proj"]), x["mlp_out"])
        assert torch.equal(x["resid_mid"] + x["mlp_out"], x["resid_post"])


@pytest.mark.parametrize("kind", ["resid_mid", "mlp_in_unit"])
def test_what_the_block_hands_on_twice_cannot_be_replaced(tiny_model: Any, kind: SiteKind) -> None:
    with pytest.raises(ValueError, match=f"{kind}/1 can be read but not replaced"):
        replace(tiny_model, Site(kind, 1), torch.zeros_like).__enter__()
    assert hooks(tiny_model) == 0


@pytest.mark.parametrize("site", SITES, ids=str)
def test_hooks_are_gone_after_an_exception(tiny_model: Any, site: Site) -> None:
    def broken(_x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("inside the hook")

    assert hooks(tiny_model) == 0
    with replace(tiny_model, site, broken):
        assert hooks(tiny_model) == 1
    with pytest.raises(RuntimeError, match="inside"), replace(tiny_model, site, broken):
        logits(tiny_model)
    with pytest.raises(KeyError), capture(tiny_model, SITES):
        raise KeyError("in the block")
    with pytest.raises(IndexError):
        activations(tiny_model, torch.tensor([[10**6]]), SITES)
    assert hooks(tiny_model) == 0


def test_activations_stop_after_the_last_layer_needed(tiny_model: Any) -> None:
    ran: list[int] = []
    handles = [
        layer.register_forward_pre_hook(lambda _m, _a, i=i: ran.append(i))
        for i, layer in enumerate(tiny_model.model.layers)
    ]
    try:
        result = activations(tiny_model, IDS, [Site("resid_post", 1), Site("mlp_out", 0)])
        assert ran == [0, 1]
        with capture(tiny_model, list(result)) as whole:
            logits(tiny_model)
    finally:
        for handle in handles:
            handle.remove()
    assert all(torch.equal(result[site], whole[site]) for site in result)
    assert hooks(tiny_model) == 0


class TupleLayer(nn.Module):
    """A decoder block that returns a tuple, as older models do."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str]:
        return x + self.mlp(x), "cache"


class TupleModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([TupleLayer(), TupleLayer()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.model.layers:  # pyright: ignore[reportGeneralTypeIssues]
            x, kept = layer(x)
            assert kept == "cache"
        return x


def test_tuple_outputs_are_captured_and_replaced() -> None:
    model, x = TupleModel(), torch.randn(1, 3, 4)
    with capture(model, [Site("resid_post", 0)]) as result:
        model(x)
    assert torch.equal(result[Site("resid_post", 0)], model.model.layers[0](x)[0])  # pyright: ignore
    with replace(model, Site("resid_post", 1), torch.zeros_like):
        assert not model(x).any()
    # Without a norm after the MLP, mlp_out is the MLP's own output.
    assert module_path(model, Site("mlp_out", 0)) == ("model.layers.0.mlp", "output")


def test_widths_and_unknown_sites(tiny_model: Any) -> None:
    assert [site_width(tiny_model, site) for site in SITES] == [32, 32, 32, 32]
    assert module_path(tiny_model, Site("mlp_out", 0)) == (
        "model.layers.0.post_feedforward_layernorm",
        "output",
    )
    with pytest.raises(ValueError, match=r"beyond the model's 3 layers"):
        module_path(tiny_model, Site("resid_post", 3))
    with pytest.raises(ValueError, match="has no list of decoder layers"):
        module_path(nn.Linear(2, 2), Site("resid_post", 0))
    with pytest.raises(ValueError, match="has no module for site attn_out/0"):
        module_path(TupleModel(), Site("attn_out", 0))
