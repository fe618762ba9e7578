"""The names that other libraries give to sites: TransformerLens' hooks, Hugging Face's modules."""

import re

from sae_core.config import Site, SiteKind

_HOOKS: dict[str, SiteKind] = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "mlp.hook_in": "mlp_in",
    "ln2.hook_normalized": "mlp_in_unit",
    "mlp.hook_out": "mlp_proj",
    "hook_mlp_out": "mlp_out",
    "attn.hook_z": "attn_out",
    "attn.hook_out": "attn_proj",
    "hook_attn_out": "attn_add",
    "hook_mlp_in": "resid_mid",  # before the norm, whatever it is called
}

# Of Gemma 2 and 3. `mlp_in_unit` is no module's input or output, and a `post_attention_layernorm`
# comes after attention here but before the MLP in a Llama, so that its name alone says nothing.
_GEMMA: dict[str, SiteKind] = {
    "input": "resid_pre",
    "pre_feedforward_layernorm.input": "resid_mid",
    "output": "resid_post",
    "pre_feedforward_layernorm.output": "mlp_in",
    "mlp.output": "mlp_proj",
    "post_feedforward_layernorm.output": "mlp_out",
    "self_attn.o_proj.input": "attn_out",
    "self_attn.o_proj.output": "attn_proj",
}
_OTHERS: dict[str, SiteKind] = {
    "mlp.input": "mlp_in",
    "self_attn.output": "attn_proj",
    "attn.c_proj.input": "attn_out",
    "attn.c_proj.output": "attn_proj",
    "attention.dense.input": "attn_out",
    "attention.dense.output": "attn_proj",
}


def transformer_lens_name(site: Site) -> str:
    """The site's hook in TransformerLens, `blocks.20.hook_resid_post`."""
    return f"blocks.{site.layer}.{_first(_HOOKS, site.kind)}"


def gemma_module_name(site: Site) -> str:
    """The site's module in Gemma 2 and 3, `model.layers.20.output`; "" if it is none's."""
    name = _first(_GEMMA, site.kind)
    return f"model.layers.{site.layer}.{name}" if name else ""


def site_of_hook(name: str, model_name: str = "") -> Site | None:
    """The site that a TransformerLens hook or a Hugging Face module names; None if we know none.

    A module without `.input` or `.output` at its end means its output.
    """
    if name == "hook_embed":
        # Behind it models with learned positions, GPT-2 for one, add these.
        return Site("resid_pre", 0) if "gemma" in model_name.lower() else None
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
        kind = _HOOKS.get(match[2])
    elif match := re.fullmatch(r"(?:[a-z_]+\.)*(?:layers|h)\.(\d+)(?:\.(.+))?", name):
        side = match[2] or "output"
        if not re.search(r"(^|\.)(input|output)$", side):
            side += ".output"
        kind = (_GEMMA | _OTHERS).get(side)
    else:
        return None
    return Site(kind, int(match[1])) if kind else None


def _first(names: dict[str, SiteKind], kind: SiteKind) -> str:
    return next((name for name, other in names.items() if other == kind), "")
