"""An SAE from wherever it is: a folder or file of any supported format, or an id on the hub."""

from pathlib import Path
from typing import TYPE_CHECKING

from sae_core.config import SAEConfig
from sae_core.formats.configs import read_config
from sae_core.formats.origin import Origin
from sae_core.hub import CatalogEntry, fetch, parse_id
from sae_core.hub.choice import sae_places

if TYPE_CHECKING:
    # Where an SAE is can be told without PyTorch, whose import takes seconds.
    import torch

    from sae_core.sae import SAE


def load_sae(source: str, device: "str | torch.device" = "cpu") -> "SAE":
    """The SAE that `source` names, in float32 on `device`; from the hub, downloaded if need be.

    A path that exists is taken before an id of the same spelling. ValueError with one sentence if
    it is neither, cannot be had, or is damaged.
    """
    from sae_core.formats.registry import read_sae

    path, origin = locate(source)
    return read_sae(path, device, origin=origin)


def sae_config(source: str) -> SAEConfig:
    """The configuration of the SAE that `source` names, without reading its weights.

    From the hub, the weights are downloaded nevertheless: shapes stand in their headers.
    """
    path, origin = locate(source)
    return read_config(path, origin=origin)


def is_id(source: str) -> bool:
    """Whether `source` is an id on the hub and not a path that exists."""
    return not Path(source).exists() and parse_id(source) is not None


def locate(source: str) -> tuple[Path, Origin | None]:
    """The local folder or file of an SAE, and for one from the hub what its id says of it."""
    path = Path(source)
    if path.exists():
        return path, None
    sae_id = parse_id(source)
    if sae_id is None:
        raise ValueError(
            f"{source} does not exist: give a folder or file with an SAE, or a hub id such as "
            "gemma-scope-2b-pt-res/layer_20/width_16k/canonical."
        )
    return fetch(sae_id)


def folder_catalog(folder: Path) -> list[CatalogEntry]:
    """The SAEs in a folder on disk and in those below it; ValueError if there are none."""
    # What is not to be seen, a temporary file or a cache of metadata, is no one's SAE.
    files = [
        path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()
    ]
    places = sae_places(f for f in files if not any(p.startswith(".") for p in f.split("/")))
    if not places:
        raise ValueError(f"{folder} holds no SAE in a format that Jumpscope reads.")
    entries = []
    for place, path in places.items():
        cfg = read_config(folder / place)
        l0 = cfg.metadata.get("declared", {}).get("l0")
        entries.append(
            CatalogEntry(
                id=str(folder / place),
                site=cfg.site,
                site_out=cfg.site_out,
                width=cfg.d_sae,
                l0=l0,
                bytes=(folder / path).stat().st_size,
            )
        )
    return entries
