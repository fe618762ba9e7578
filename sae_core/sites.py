"""Where SAEs read in a Hugging Face decoder, and how to capture or replace activations there.

| site        | what                                | Gemma 2: module of `model.layers.L` | side   |
| ----------- | ----------------------------------- | ----------------------------------- | ------ |
| resid_pre   | residual stream before the block    | the block                           | input  |
| resid_mid   | between attention and MLP           | pre_feedforward_layernorm           | input  |
| resid_post  | after the block                     | the block                           | output |
| mlp_in      | what the MLP reads                  | mlp                                 | input  |
| mlp_in_unit | the same without the norm's gain    | pre_feedforward_layernorm, by RMS   | input  |
| mlp_proj    | what the MLP writes                 | mlp                                 | output |
| mlp_out     | what it adds to the stream          | post_feedforward_layernorm          | output |
| attn_out    | heads' outputs, side by side        | self_attn.o_proj                    | input  |
| attn_proj   | their projection                    | self_attn.o_proj                    | output |
| attn_add    | what attention adds to the stream   | post_attention_layernorm            | output |

For models without norms after attention and MLP, `mlp_out` is `mlp_proj` and `attn_add` is
`attn_proj`. `resid_mid` and `mlp_in_unit` can be read but not replaced: the block uses the stream
there twice, and no module hands on the normalised one. Everything here is a context manager that
removes its hooks whatever happens inside it, and takes modules that return a tensor as well as
those that return a tuple.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_core.config import SAEConfig, Site

Side = Literal["input", "output"]
_Modules = tuple[tuple[str, Side], ...]
Replacement = Callable[[Tensor], Tensor | None]


class _Enough(Exception):  # noqa: N818 - it ends a forward, it is no error
    """Raised by a hook to end a forward whose remaining layers nobody needs."""


_UNREPLACEABLE = ("resid_mid", "mlp_in_unit")


def layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Dotted path and list of the decoder's blocks; ValueError if the model has none we know."""
    for path in (
        "model.layers",
        "model.language_model.layers",
        "layers",
        "transformer.h",
        "h",
        "gpt_neox.layers",
    ):
        try:
            blocks = model.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(blocks, nn.ModuleList):
            return path, blocks
    raise ValueError(
        f"{type(model).__name__} has no list of decoder layers that Jumpscope knows: "
        "use a Gemma, Llama, Mistral, Qwen or GPT-2 style causal language model."
    )


def module_path(model: nn.Module, site: Site) -> tuple[str, Side]:
    """Dotted module path and side of a site; ValueError if this model has no such site."""
    path, blocks = layers(model)
    if site.layer >= len(blocks):
        raise ValueError(
            f"site {site} is beyond the model's {len(blocks)} layers: use 0 to {len(blocks) - 1}."
        )
    block = blocks[site.layer]
    for name, side in _candidates(model, block)[site.kind]:
        if _has(block, name):
            return ".".join(part for part in (path, str(site.layer), name) if part), side
    raise ValueError(f"{type(model).__name__} has no module for site {site}.")


def _candidates(model: nn.Module, block: nn.Module) -> dict[str, _Modules]:
    """For each kind of site the modules of a block that may show it, the first that exists."""
    projections = ("self_attn.o_proj", "attn.c_proj", "self_attn.dense", "attention.dense")
    attn_proj: _Modules = tuple((name, "output") for name in projections)
    before_mlp: _Modules
    resid_mid: _Modules
    attn_add: _Modules
    if _has(block, "post_feedforward_layernorm"):
        # Norms after attention and MLP (Gemma 2 and 3); OLMo 2 has them in place of those before.
        before_mlp = (("pre_feedforward_layernorm", "input"),)
        resid_mid = (*before_mlp, ("mlp", "input"))
        attn_add = (("post_attention_layernorm", "output"),)
    elif getattr(getattr(model, "config", None), "use_parallel_residual", False):
        before_mlp = resid_mid = ()
        attn_add = attn_proj
    else:
        # Llama's norm before the MLP is named after what precedes it.
        before_mlp = resid_mid = (("post_attention_layernorm", "input"), ("ln_2", "input"))
        attn_add = attn_proj
    return {
        "resid_pre": (("", "input"),),
        "resid_mid": resid_mid,
        "resid_post": (("", "output"),),
        "mlp_in": (("mlp", "input"),),
        "mlp_in_unit": before_mlp,
        "mlp_proj": (("mlp", "output"),),
        "mlp_out": (("post_feedforward_layernorm", "output"), ("mlp", "output")),
        "attn_out": tuple((name, "input") for name in projections),
        "attn_proj": attn_proj,
        "attn_add": attn_add,
    }


def _has(block: nn.Module, name: str) -> bool:
    try:
        block.get_submodule(name)
    except AttributeError:
        return False
    return True


def site_width(model: nn.Module, site: Site) -> int:
    """Width of the activation at a site."""
    path, _ = module_path(model, site)
    if site.kind != "attn_out":
        return int(model.config.get_text_config().hidden_size)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue, reportOptionalMemberAccess]
    weight = model.get_submodule(path).weight
    assert isinstance(weight, Tensor)
    # Linear keeps [out, in]; GPT-2's Conv1D keeps [in, out].
    transposed = type(model.get_submodule(path)).__name__ == "Conv1D"
    return weight.shape[0] if transposed else weight.shape[1]


def check_widths(model: nn.Module, cfg: SAEConfig, name: str) -> None:
    """ValueError if an SAE, called `name` in the sentence, does not fit its sites in this model."""
    for verb, site, width in (
        ("reads", cfg.site, cfg.d_model),
        ("writes", cfg.site_out, cfg.width_out),
    ):
        if site is not None and (actual := site_width(model, site)) != width:
            raise ValueError(
                f"{name} {verb} {width} numbers but site {site} of this model has {actual}: "
                "it belongs to another model."
            )


def site_device(model: nn.Module, site: Site) -> torch.device:
    """Device of the block that a site belongs to."""
    _, blocks = layers(model)
    return next(blocks[site.layer].parameters()).device


@contextmanager
def _hook(model: nn.Module, site: Site, fn: Replacement) -> Iterator[None]:
    """Call `fn` with the activation at `site` in every forward; a tensor it returns replaces it."""
    path, side = module_path(model, site)
    module = model.get_submodule(path)
    eps = _rms_eps(module, site) if site.kind == "mlp_in_unit" else None

    def on_output(_module: nn.Module, _args: Any, output: Any) -> Any:
        activation = output[0] if isinstance(output, tuple) else output
        new = fn(activation)
        if new is None:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new

    def on_input(_module: nn.Module, args: tuple[Any, ...]) -> Any:
        x = args[0]
        if eps is not None:
            wide = x.float()
            x = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).type_as(x)
        new = fn(x)
        return None if new is None else (new, *args[1:])

    if side == "output":
        handle = module.register_forward_hook(on_output)
    else:
        handle = module.register_forward_pre_hook(on_input)
    try:
        yield
    finally:
        handle.remove()


def _rms_eps(norm: nn.Module, site: Site) -> float:
    """The eps of an RMS norm; ValueError for another kind of norm."""
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if "RMSNorm" not in type(norm).__name__ or not isinstance(eps, float):
        raise ValueError(f"site {site} needs an RMS norm, which this model does not have there.")
    return eps


@contextmanager
def capture(model: nn.Module, sites: Sequence[Site]) -> Iterator[dict[Site, Tensor]]:
    """Yield a dict that every forward inside the block fills with the activations at `sites`.

    Tensors are `[batch, pos, width]`, as the model made them (no copy). The model is left as it
    was.
    """
    captured: dict[Site, Tensor] = {}

    def keeper(site: Site) -> Replacement:
        def keep(x: Tensor) -> None:
            captured[site] = x

        return keep

    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(_hook(model, site, keeper(site)))
        yield captured


@contextmanager
def replace(model: nn.Module, site: Site, fn: Replacement) -> Iterator[None]:
    """Inside the block, the activation x `[batch, pos, width]` at `site` becomes `fn(x)`.

    `fn` returns a new tensor, or None to leave x as it is. The model is left as it was. ValueError
    for a site that can only be read.
    """
    if site.kind in _UNREPLACEABLE:
        raise ValueError(f"the activation at {site} can be read but not replaced.")
    with _hook(model, site, fn):
        yield


@contextmanager
def rewrite(
    model: nn.Module, read: Site, write: Site, fn: Callable[[Tensor, Tensor], Tensor | None]
) -> Iterator[None]:
    """Inside the block, the activation y at `write` becomes `fn(x, y)`, x being that at `read`.

    The two may be one site: then x is y. `read` must come no later in a forward than `write`.
    """
    # Captures come first, so that x is what the model made.
    with capture(model, [read]) as captured, replace(model, write, lambda y: fn(captured[read], y)):
        yield


def activations(
    model: nn.Module,
    input_ids: Int[Tensor, "batch pos"],
    sites: Sequence[Site],
) -> dict[Site, Float[Tensor, "batch pos width"]]:
    """Activations at `sites` without gradient, running the model no further than the last of them.

    Rows are right-padded: in a causal model padding changes no earlier position.
    """
    if not sites:
        return {}
    last = max(site.layer for site in sites)
    _, blocks = layers(model)

    def enough(_module: nn.Module, _args: Any, _output: Any) -> None:
        raise _Enough

    with torch.no_grad(), capture(model, sites) as captured:
        # Registered after the captures, so that it runs after them on the same block.
        handle = blocks[last].register_forward_hook(enough)
        try:
            model(input_ids=input_ids, use_cache=False)
        except _Enough:
            pass
        finally:
            handle.remove()
    return {site: captured[site] for site in sites}
