"""What the names of repositories, folders and files say of SAEs whose files do not say it.

Gemma Scope's `params.npz` is five arrays, Qwen-Scope's `layer0.sae.pt` four tensors: the model, the
layer, the site and even a TopK SAE's k stand in the names alone.
"""

import re
from dataclasses import replace
from pathlib import Path

from sae_core.config import Site, SiteKind
from sae_core.formats.origin import Origin

_CONTEXT = 1024  # of Gemma Scope 1 and 2, Llama Scope and Qwen-Scope
_KINDS: dict[str, SiteKind] = {
    "res": "resid_post",
    "mlp": "mlp_out",
    "att": "attn_out",
    # Trained on the norm's output without its gain, which is folded into the MLP.
    "transcoders": "mlp_in_unit",
    "resid_post": "resid_post",
    "mlp_out": "mlp_out",
    "attn_out": "attn_out",
    "transcoder": "mlp_in",  # gain included, unlike Gemma Scope 1's
    # Llama Scope's letters.
    "R": "resid_post",
    "A": "attn_add",
    "M": "mlp_out",
    "TC": "mlp_in_unit",
}
_LLAMA_SCOPE_WIDTH = 4096
_LLAMA_SCOPE_L0 = 50.0
_CRV_K = 128
"""k of facebook/crv-8b-instruct-transcoders, which stands in the program that reads them."""


def origin_of(repo: str, path: str, revision: str = "") -> Origin:
    """What the names of a hub repository and of a place in it say; nothing for other names."""
    named = _of_names(f"{repo}/{path}") or Origin()
    return replace(named, repo=repo, path=path, revision=revision)


def origin_of_path(path: Path) -> Origin:
    """The same for an SAE on disk, folder or file, under folders that are named as on the hub."""
    whole = path.absolute()
    # Weights may lie in a folder of the SAE's own.
    for named in (whole, *whole.parents[:2]):
        if origin := _of_names(named.as_posix()):
            return origin
    return Origin()


def _of_names(names: str) -> Origin | None:
    for of_family in (
        _gemma_scope,
        _gemma_scope_2,
        _llama_scope,
        _llama_scope_distill,
        _qwen_scope,
        _one_layer_file,
        _gpt_oss,
        _transcoder_file,
    ):
        if named := of_family(names):
            return named
    return None


def _gemma_scope(names: str) -> Origin | None:
    repo = re.search(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)/", names)
    place = re.search(
        r"/((?:layer_(\d+)|embedding)/width_\w+/(?:average_l0_(\d+)|canonical))$", names
    )
    if not repo or not place:
        return None
    size, variant, kind = repo.groups()
    path, layer, l0 = place.groups()
    site = Site("resid_pre", 0) if layer is None else Site(_KINDS[kind], int(layer))
    return Origin(
        site=site,
        site_out=Site("mlp_out", site.layer) if kind == "transcoders" else None,
        model_name=f"google/gemma-2-{size}" + ("-it" if variant == "it" else ""),
        context_size=_CONTEXT,
        l0=None if l0 is None else float(l0),
        path=path,
    )


def _gemma_scope_2(names: str) -> Origin | None:
    repo = re.search(r"gemma-scope-2-(270m|1b|4b|12b|27b)-(pt|it)/", names)
    place = re.search(
        r"/((resid_post|attn_out|mlp_out|transcoder)(?:_all)?/layer_(\d+)_width_\w+_l0_\w+)$", names
    )
    if not repo or not place:
        return None
    size, variant = repo.groups()
    path, kind, layer = place.groups()
    # The smallest base model's repository has no suffix.
    suffix = "" if (size, variant) == ("270m", "pt") else f"-{variant}"
    return Origin(
        site=Site(_KINDS[kind], int(layer)),
        site_out=Site("mlp_out", int(layer)) if kind == "transcoder" else None,
        model_name=f"google/gemma-3-{size}{suffix}",
        context_size=_CONTEXT,
        path=path,
    )


def _llama_scope(names: str) -> Origin | None:
    place = re.search(r"(Llama3_1-8B-Base-L(\d+)(R|A|M|TC)-(\d+)x)$", names)
    if not place:
        return None
    path, layer, kind, times = place.groups()
    return Origin(
        site=Site(_KINDS[kind], int(layer)),
        site_out=Site("mlp_out", int(layer)) if kind == "TC" else None,
        model_name="meta-llama/Llama-3.1-8B",
        context_size=_CONTEXT,
        l0=_LLAMA_SCOPE_L0,
        width=_LLAMA_SCOPE_WIDTH * int(times),
        path=path,
    )


def _llama_scope_distill(names: str) -> Origin | None:
    place = re.search(r"Llama-Scope-R1-Distill/(.+/L(\d+)R)$", names)
    return place and Origin(
        site=Site("resid_post", int(place[2])),
        model_name="deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        context_size=_CONTEXT,
        path=place[1],
    )


def _qwen_scope(names: str) -> Origin | None:
    place = re.search(
        r"SAE-Res-(.+?)-W(\d+)K-L0_(\d+)/(?:.*/)?(layer(\d+)\.sae\.pt)$", names
    ) or re.search(r"/()()()(layer(\d+)\.sae\.pt)$", names)
    if not place:
        return None
    model, width, k, path, layer = place.groups()
    return Origin(
        site=Site("resid_post", int(layer)),
        model_name=f"Qwen/{model}" if model else "",
        context_size=_CONTEXT,
        prepend_bos=False,  # these models have none
        l0=float(k) if k else None,
        k=int(k) if k else None,
        width=1024 * int(width) if width else None,
        path=path,
    )


_OWNERS = {"Llama": "meta-llama", "DeepSeek": "deepseek-ai", "Qwen": "Qwen", "gemma": "google"}


def _one_layer_file(names: str) -> Origin | None:
    """`Llama-3.1-8B-Instruct-SAE-l19.pth`."""
    place = re.search(r"/(([\w.-]+?)-SAE-l(\d+)\.pth?)$", names)
    if not place:
        return None
    path, model, layer = place.groups()
    owner = next((owner for start, owner in _OWNERS.items() if model.startswith(start)), "")
    return Origin(
        site=Site("resid_post", int(layer)),
        model_name=f"{owner}/{model}" if owner else "",
        path=path,
    )


def _gpt_oss(names: str) -> Origin | None:
    place = re.search(r"/(topk_sae_l(\d+)_exp\d+_k(\d+)\.pt)$", names)
    model = re.search(r"(gpt-oss-\d+b)", names)
    return place and Origin(
        site=Site("resid_post", int(place[2])),
        model_name=f"openai/{model[1]}" if model else "",
        prepend_bos=False,
        l0=float(place[3]),
        k=int(place[3]),
        path=place[1],
    )


def _transcoder_file(names: str) -> Origin | None:
    """circuit-tracer's, whose settings say the same where there are any."""
    place = re.search(r"/(layer_(\d+)\.safetensors)$", names)
    if not place:
        return None
    layer = int(place[2])
    qwen = re.search(r"qwen3-(\d+(?:\.\d+)?)b", names)
    crv = "crv-8b-instruct-transcoders" in names
    model = f"Qwen/Qwen3-{qwen[1]}B" if qwen else ""
    return Origin(
        site=Site("mlp_in", layer),
        site_out=Site("mlp_out", layer),
        model_name="meta-llama/Llama-3.1-8B-Instruct" if crv else model,
        prepend_bos=qwen is None,
        l0=float(_CRV_K) if crv else None,
        k=_CRV_K if crv else None,
        path=place[1],
    )
