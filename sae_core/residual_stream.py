"""Whether a model's blocks add up as our sites say, tested by running it on a few tokens.

    resid_mid  = resid_pre + attn_add
    resid_post = resid_mid + mlp_out        or, side by side, resid_pre + attn_add + mlp_out

Module names do not tell: some models scale what a module returns before they add it, normalise it
in modules of other names, or add the stream inside the module. An SAE trained on what is added
would then read another tensor, and nothing else would notice.
"""

import torch
from torch import Tensor, nn

from sae_core.config import Site, SiteKind
from sae_core.placement import in_float64, wide_device
from sae_core.sites import activations, module_path

_TOKENS = 4
_Sum = tuple[tuple[SiteKind, ...], SiteKind]
_SUMS: tuple[_Sum, ...] = (
    (("resid_pre", "attn_add", "mlp_out"), "resid_post"),
    (("resid_pre", "attn_add"), "resid_mid"),
    (("resid_mid", "mlp_out"), "resid_post"),
)
_CHECKED = ("resid_mid", "mlp_in_unit", "mlp_out", "attn_add")


def check_stream(model: nn.Module, *sites: Site | None) -> None:
    """ValueError if the tensor at one of `sites` is not what the site's name says.

    The stream before and after a block and the inputs and outputs of attention and MLP themselves
    need no check. Runs a forward of a few tokens, no further than the site's layer.
    """
    for site in sites:
        if site is not None and site.kind in _CHECKED:
            module_path(model, site)  # says so if there is none
            if not _adds_up(model, site):
                raise ValueError(
                    f"the blocks of {type(model).__name__} do not add up as site {site} would have "
                    "it: use an SAE of resid_pre, resid_post or attn_out."
                )


def _adds_up(model: nn.Module, site: Site) -> bool:
    """Whether every sum that the site takes part in holds, and there is one."""
    kind: SiteKind = "resid_mid" if site.kind == "mlp_in_unit" else site.kind
    stream = _stream(model, site.layer)
    # The model rounds the stream to its dtype at every sum.
    tolerance = max(1e-4, 1.5 * torch.finfo(next(model.parameters()).dtype).eps)
    there = set(stream)
    sums: list[_Sum] = [
        (terms, total)
        for terms, total in _SUMS
        if kind in (*terms, total) and there.issuperset((*terms, total))
    ]
    for terms, total in sums:
        added = torch.stack([stream[term] for term in terms]).sum(dim=0)
        error = (added - stream[total]).norm(dim=-1)
        scale = torch.stack([stream[term].norm(dim=-1) for term in terms]).amax(dim=0)
        if not bool((error <= tolerance * scale).all()):
            return False
    return bool(sums)


def _stream(model: nn.Module, layer: int) -> dict[SiteKind, Tensor]:
    """What stands at those sites of a layer that exist, in float64."""
    kinds: tuple[SiteKind, ...] = ("resid_pre", "attn_add", "resid_mid", "mlp_out", "resid_post")
    there = []
    for kind in kinds:
        try:
            module_path(model, Site(kind, layer))
        except ValueError:
            continue
        there.append(Site(kind, layer))
    device = model.get_input_embeddings().weight.device  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue, reportOptionalMemberAccess]
    ids = torch.arange(_TOKENS, device=device)[None]
    captured = activations(model, ids, there)
    home = wide_device(next(iter(captured.values())).device)
    return {site.kind: in_float64(x).to(home) for site, x in captured.items()}
