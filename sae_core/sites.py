"""Where SAEs read in a Hugging Face decoder, and how to capture or replace activations there.

| site       | module                                        | side   |
| ---------- | --------------------------------------------- | ------ |
| resid_post | model.layers.L                                | output |
| mlp_out    | model.layers.L.post_feedforward_layernorm     | output |
| attn_out   | model.layers.L.self_attn.o_proj               | input  |

`mlp_out` is what is added to the residual stream: for models without a norm after the MLP that is
the output of `mlp` itself. Everything here is a context manager that removes its hooks whatever
happens inside it, and takes modules that return a tensor as well as those that return a tuple.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_core.config import Site

Side = Literal["input", "output"]
Replacement = Callable[[Tensor], Tensor | None]


class _Enough(Exception):  # noqa: N818 - it ends a forward, it is no error
    """Raised by a hook to end a forward whose remaining layers nobody needs."""


def layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Dotted path and list of the decoder's blocks; ValueError if the model has none we know."""
    for path in ("model.layers", "layers", "transformer.h", "h", "gpt_neox.layers"):
        try:
            found = model.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(found, nn.ModuleList):
            return path, found
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
    prefix = f"{path}.{site.layer}"
    if site.kind == "resid_post":
        return prefix, "output"
    candidates: dict[str, tuple[tuple[str, Side], ...]] = {
        "mlp_out": (("post_feedforward_layernorm", "output"), ("mlp", "output")),
        "attn_out": (("self_attn.o_proj", "input"), ("attn.c_proj", "input")),
    }
    for name, side in candidates[site.kind]:
        try:
            block.get_submodule(name)
        except AttributeError:
            continue
        return f"{prefix}.{name}", side
    raise ValueError(f"{type(model).__name__} has no module for site {site}.")


def site_width(model: nn.Module, site: Site) -> int:
    """Width of the activation at a site."""
    path, side = module_path(model, site)
    if side == "output":
        return int(model.config.hidden_size)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType, reportOptionalMemberAccess]
    weight = model.get_submodule(path).weight
    assert isinstance(weight, Tensor)
    # Linear keeps [out, in]; GPT-2's Conv1D keeps [in, out].
    transposed = type(model.get_submodule(path)).__name__ == "Conv1D"
    return weight.shape[0] if transposed else weight.shape[1]


@contextmanager
def _hook(model: nn.Module, site: Site, fn: Replacement) -> Iterator[None]:
    """Call `fn` with the activation at `site` in every forward; a tensor it returns replaces it."""
    path, side = module_path(model, site)
    module = model.get_submodule(path)

    def on_output(_module: nn.Module, _args: Any, output: Any) -> Any:
        activation = output[0] if isinstance(output, tuple) else output
        new = fn(activation)
        if new is None:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new

    def on_input(_module: nn.Module, args: tuple[Any, ...]) -> Any:
        new = fn(args[0])
        return None if new is None else (new, *args[1:])

    if side == "output":
        handle = module.register_forward_hook(on_output)
    else:
        handle = module.register_forward_pre_hook(on_input)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def capture(model: nn.Module, sites: Sequence[Site]) -> Iterator[dict[Site, Tensor]]:
    """Yield a dict that every forward inside the block fills with the activations at `sites`.

    Tensors are `[batch, pos, width]`, as the model made them (no copy). The model is left as found.
    """
    found: dict[Site, Tensor] = {}

    def keeper(site: Site) -> Replacement:
        def keep(x: Tensor) -> None:
            found[site] = x

        return keep

    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(_hook(model, site, keeper(site)))
        yield found


@contextmanager
def replace(model: nn.Module, site: Site, fn: Replacement) -> Iterator[None]:
    """Inside the block, the activation x `[batch, pos, width]` at `site` becomes `fn(x)`.

    `fn` returns a new tensor, or None to leave x as it is. The model is left as found.
    """
    with _hook(model, site, fn):
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

    with torch.no_grad(), capture(model, sites) as found:
        # Registered after the captures, so that it runs after them on the same block.
        handle = blocks[last].register_forward_hook(enough)
        try:
            model(input_ids=input_ids, use_cache=False)
        except _Enough:
            pass
        finally:
            handle.remove()
    return {site: found[site] for site in sites}
