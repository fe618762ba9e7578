"""Where weights come from: what is known of an SAE beyond its file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_core.config import SAEConfig, Site


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a hub id or a file's path says of an SAE; what the file itself says has precedence."""

    site: Site | None = None
    """Where it reads."""
    site_out: Site | None = None
    """Transcoders: what it reconstructs."""
    model_name: str = ""
    """Hub id of the language model."""
    context_size: int | None = None
    """Tokens per training prompt, BOS included."""
    prepend_bos: bool = True
    """Whether its training prompts began with BOS."""
    l0: float | None = None
    """Active features per token, as its makers state it."""
    k: int | None = None
    """TopK: active features per token, where only names say it."""
    width: int | None = None
    """Number of features, where names say it."""
    repo: str = ""
    """Hub repository, `owner/name`; "" for files that were not downloaded."""
    path: str = ""
    """Folder or file in the repository."""
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
            prepend_bos=self.prepend_bos if prepend_bos is None else prepend_bos,
            context_size=said.get("context_size") or self.context_size,
            metadata=metadata,
            **shape,
        )
