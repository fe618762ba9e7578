"""SAEs of random weights for the tests of formats, one of each kind that a format may hold."""

from typing import Any

import torch

from sae_core.config import Architecture, SAEConfig, Site
from sae_core.sae import SAE

ALL: tuple[Architecture, ...] = ("jumprelu", "standard", "topk", "gated")
D_MODEL, D_SAE, D_OUT, K = 24, 50, 16, 7
SITE, SITE_OUT = Site("mlp_in", 2), Site("mlp_out", 2)


def random_sae(
    architecture: Architecture = "jumprelu",
    *,
    transcoder: bool = False,
    skip: bool = False,
    d_out: int | None = None,
    seed: int = 5,
    **fields: Any,
) -> SAE:
    """An SAE at resid_post/2, or a transcoder from mlp_in/2 to mlp_out/2.

    About half of the features are active, and b_dec is far from 0: what is not folded shows.
    """
    said = {"model_name": "google/gemma-2-2b", "context_size": 32} | fields
    cfg = SAEConfig(
        architecture=architecture,
        d_model=D_MODEL,
        d_sae=D_SAE,
        site=SITE if transcoder else Site("resid_post", 2),
        site_out=SITE_OUT if transcoder else None,
        d_out=d_out,
        skip=skip,
        k=K if architecture == "topk" else None,
        **said,
    )
    sae = SAE.build(cfg)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sae.named_parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 3
        if name == "threshold":
            parameter.data = torch.rand(D_SAE, generator=generator)
    return sae


def inputs(count: int = 64, seed: int = 9) -> torch.Tensor:
    """Activations `[count, D_MODEL]`."""
    return torch.randn(count, D_MODEL, generator=torch.Generator().manual_seed(seed))


def assert_same_weights(read: SAE, written: SAE) -> None:
    """Every parameter is equal, bit for bit."""
    named = dict(written.named_parameters())
    assert set(named) == {name for name, _ in read.named_parameters()}
    for name, parameter in read.named_parameters():
        assert torch.equal(parameter, named[name]), name


def assert_same_function(read: SAE, written: SAE) -> None:
    """Activations and outputs agree to 1e-5."""
    x = inputs()
    acts = written.encode(x)
    assert 0 < int(acts.count_nonzero()) < acts.numel()
    torch.testing.assert_close(read.encode(x), acts, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read(x), written(x), atol=1e-5, rtol=1e-5)


def assert_agree(encode: Any, decode: Any, ours: SAE) -> None:
    """Their functions and our SAE give the same activations and, from these, the same output."""
    x = inputs()
    acts = ours.encode(x)
    assert 0 < int(acts.count_nonzero()) < acts.numel()
    torch.testing.assert_close(encode(x), acts, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decode(acts), ours.decode(acts), atol=1e-5, rtol=1e-5)


def randomise(module: torch.nn.Module) -> None:
    """Random parameters; thresholds above 0."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in module.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator) / 3
        parameter.data = drawn.abs() if name == "threshold" else drawn
