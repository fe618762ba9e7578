"""Which folder of a repository an id means, and what to say when it means none."""

import difflib
import re

from sae_core.hub.ids import CANONICAL, CANONICAL_L0, SAEId, is_gemma_scope
from sae_core.hub.listing import Listing

NEEDED: dict[str, tuple[str, ...]] = {
    "params.npz": (),
    "params.safetensors": ("config.json",),
    "sae_weights.safetensors": ("cfg.json",),
    "ae.pt": ("config.json",),
    "sae.safetensors": ("cfg.json", "../config.json", "../../config.json"),
}
"""Weights of the supported formats -> the files read with them, as far as they exist."""

_AVERAGE_L0 = re.compile(r"average_l0_(\d+)")
_REFUSED = {"clt": "cross-layer transcoders", "crosscoder": "crosscoders"}


def sae_folders(files: dict[str, int]) -> dict[str, str]:
    """Folders that hold an SAE -> the path of its weights; in natural order (layer_2, layer_10)."""
    weights: dict[str, str] = {}
    for path in sorted(files, key=_natural):
        folder, _, name = path.rpartition("/")
        if name in NEEDED and folder.partition("/")[0] not in _REFUSED:
            weights.setdefault(folder, path)
    return weights


def choose(sae_id: SAEId, listing: Listing) -> str:
    """The folder that `sae_id` means; ValueError naming what there is if it is none's."""
    assert listing.files is not None
    folders = list(sae_folders(listing.files))
    if sae_id.folder in folders:
        return sae_id.folder
    if not sae_id.folder and len(folders) == 1:
        return folders[0]
    above, _, last = sae_id.folder.rpartition("/")
    if last == CANONICAL and (folder := canonical(above, folders)):
        return folder
    raise ValueError(_advice(sae_id, folders))


def canonical(above: str, folders: list[str]) -> str | None:
    """The folder under `above` whose L0 is nearest 100, the sparser one of two equally near."""
    candidates = []
    for folder in folders:
        parent, _, name = folder.rpartition("/")
        if parent == above and (match := _AVERAGE_L0.fullmatch(name)):
            l0 = int(match[1])
            candidates.append((abs(l0 - CANONICAL_L0), l0, folder))
    return min(candidates)[2] if candidates else None


def _advice(sae_id: SAEId, folders: list[str]) -> str:
    """One sentence for an id that is incomplete or names what does not exist."""
    top = sae_id.folder.partition("/")[0]
    if is_gemma_scope(sae_id.repo) and top in _REFUSED:
        return (
            f"{sae_id} is one of Gemma Scope 2's {_REFUSED[top]}, which read several layers at "
            "once and are not supported: choose a transcoder or an SAE."
        )
    if not folders:
        return f"{sae_id.repo} holds no SAE in a format that Jumpscope reads."
    matched, inside = "", folders
    for part in sae_id.folder.split("/") if sae_id.folder else []:
        path = f"{matched}/{part}" if matched else part
        below = [folder for folder in inside if folder == path or folder.startswith(f"{path}/")]
        if not below:
            wrong = part
            break
        matched, inside = path, below
    else:
        examples = ", ".join(str(sae_id.within(folder)) for folder in inside[:2])
        return (
            f"{sae_id} is not one SAE but {len(inside)}, e.g. {examples}: jumpscope list {sae_id} "
            "shows them all."
        )
    parts = dict.fromkeys(
        folder.removeprefix(matched).strip("/").split("/")[0] for folder in inside
    )
    nearest = sorted(parts, key=lambda part: _distance(part, wrong))[:3]
    where = sae_id.within(matched)
    return (
        f"{where} has no {wrong}, but e.g. {', '.join(nearest)}: jumpscope list {where} shows all."
    )


def _distance(part: str, wanted: str) -> tuple[float, int]:
    """How unlike two names of folders are: in their words first, then in their numbers."""
    numbers = [int(n) if (n := "".join(re.findall(r"\d+", p)[-1:])) else 0 for p in (part, wanted)]
    words = [re.sub(r"\d+", "", p) for p in (part, wanted)]
    ratio = difflib.SequenceMatcher(None, words[0], words[1]).ratio()
    return 1 - ratio, abs(numbers[0] - numbers[1])


def _natural(path: str) -> list[tuple[int, str | int]]:
    return [(1, int(p)) if p.isdigit() else (0, p) for p in re.split(r"(\d+)", path)]
