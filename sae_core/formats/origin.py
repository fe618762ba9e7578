"""Where weights come from, for weights that say nothing themselves.

Gemma Scope's `params.npz` is five arrays: the model, the layer and the site stand in the names of
its repository and folder, `gemma-scope-2b-pt-res` and `layer_20/width_16k/average_l0_71`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sae_core.config import SAEConfig, Site, SiteKind

_CONTEXT = 1024  # of both releases
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
}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a hub id or a folder's name says of an SAE; what its file says has precedence."""

    site: Site | None = None
    """Where it reads."""
    site_out: Site | None = None
    """Transcoders: what it reconstructs."""
    model_name: str = ""
    """Hub id of the language model."""
    context_size: int | None = None
    """Tokens per training prompt, BOS included."""
    l0: float | None = None
    """Active features per token, as its makers state it."""
    repo: str = ""
    """Hub repository, `owner/name`; "" for files that were not downloaded."""
    path: str = ""
    """Folder in the repository."""
    revision: str = ""
    """Commit of the repository."""
    bytes: int | None = None
    """Size of its weights file there; None where it was not listed."""

    @property
    def is_embedding(self) -> bool:
        """Whether it is one of Gemma Scope's SAEs of the token embedding."""
        return self.path.startswith("embedding/")

    def configure(
        self, path: Path, said: Mapping[str, Any], *, transcoder: bool = False, **shape: Any
    ) -> SAEConfig:
        """The configuration of the SAE in the file at `path`.

        `shape` has its architecture and sizes, `said` what the file says beyond these (entries may
        be None); the rest is from here. ValueError for a transcoder that names no sites.
        """
        metadata = dict(said.get("metadata") or {})
        if self.l0 is not None:
            metadata.setdefault("declared", {"l0": self.l0})
        if self.repo:
            metadata["source"] = {"repo": self.repo, "path": self.path, "revision": self.revision}
        site_out = said.get("site_out") or self.site_out
        if shape.get("d_out") == shape["d_model"]:
            shape["d_out"] = None
        if site_out is None and (transcoder or shape.get("d_out") or shape.get("skip")):
            raise ValueError(
                f"{path} is a transcoder but does not say which activation it reconstructs: "
                "name it, as in jumpscope convert --site mlp_in/5 --site-out mlp_out/5."
            )
        prepend_bos = said.get("prepend_bos")
        return SAEConfig(
            site=said.get("site") or self.site,
            site_out=site_out,
            model_name=said.get("model_name") or self.model_name,
            prepend_bos=True if prepend_bos is None else prepend_bos,
            context_size=said.get("context_size") or self.context_size,
            metadata=metadata,
            **shape,
        )


def origin_of(repo: str, path: str, revision: str = "") -> Origin:
    """What the names of a hub repository and of a folder in it say; nothing for other names."""
    named = _of_names(f"{repo}/{path}") or Origin()
    return replace(named, repo=repo, path=path, revision=revision)


def origin_of_path(path: Path) -> Origin:
    """The same for an SAE on disk, folder or file, under folders that are named as on the hub."""
    folder = path if path.is_dir() else path.parent
    return _of_names(folder.absolute().as_posix()) or Origin()


def _of_names(names: str) -> Origin | None:
    return _gemma_scope(names) or _gemma_scope_2(names)


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
