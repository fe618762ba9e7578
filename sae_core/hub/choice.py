"""Which folder of a repository an id means, and what to say when it means none."""

import difflib
import re
from collections.abc import Iterable, Mapping

from sae_core.formats.layouts import layout_of, natural, refused
from sae_core.hub.ids import CANONICAL, CANONICAL_L0, SAEId
from sae_core.hub.listing import Listing

_AVERAGE_L0 = re.compile(r"average_l0_(\d+)")


def sae_places(files: Iterable[str]) -> dict[str, str]:
    """What names each SAE -> the path of its weights; in natural order (layer_2, layer_10).

    A folder names the SAE in it, or, where several lie in one, their files do.
    """
    weights: dict[str, str] = {}
    for path in sorted(files, key=natural):
        layout = layout_of(path)
        if layout is not None and not refused([path]):
            weights.setdefault(layout.place(path), path)
    return weights


def choose(sae_id: SAEId, listing: Listing) -> str:
    """The place that `sae_id` means; ValueError naming what there is if it is none's."""
    assert listing.files is not None
    places = sae_places(listing.files)
    folders = list(places)
    if sae_id.folder in folders:
        return sae_id.folder
    if not sae_id.folder and len(folders) == 1:
        return folders[0]
    above, _, last = sae_id.folder.rpartition("/")
    if last == CANONICAL and (folder := canonical(above, places, listing.hashes)):
        return folder
    raise ValueError(_advice(sae_id, listing.files, folders))


def canonical(
    above: str, places: Mapping[str, str], hashes: Mapping[str, str] | None = None
) -> str | None:
    """The folder under `above` whose L0 is nearest 100, the sparser one of two equally near.

    A file that also lies under another layer or width has one wrong label of two: such a folder is
    taken only if there is no other.
    """
    doubted = {
        place
        for group in same_files(places, hashes or {})
        if len({place.rpartition("/")[0] for place in group}) > 1
        for place in group
    }
    candidates = []
    for folder in places:
        parent, _, name = folder.rpartition("/")
        if parent == above and (match := _AVERAGE_L0.fullmatch(name)):
            l0 = int(match[1])
            candidates.append((folder in doubted, abs(l0 - CANONICAL_L0), l0, folder))
    return min(candidates)[3] if candidates else None


def same_files(places: Mapping[str, str], hashes: Mapping[str, str]) -> list[list[str]]:
    """Places whose weights are one file, as the hub's hashes tell; each group in natural order."""
    groups: dict[str, list[str]] = {}
    for place, path in places.items():
        if path in hashes:
            groups.setdefault(hashes[path], []).append(place)
    return [group for group in groups.values() if len(group) > 1]


def twins(place: str, places: Mapping[str, str], hashes: Mapping[str, str]) -> list[str]:
    """The other places whose weights are the very file of this one's."""
    for group in same_files(places, hashes):
        if place in group:
            return [other for other in group if other != place]
    return []


def _advice(sae_id: SAEId, files: Mapping[str, int], folders: list[str]) -> str:
    """One sentence for an id that is incomplete or names what does not exist."""
    under = [path for path in files if f"{path}/".startswith(f"{sae_id.folder}/")]
    inside = [folder for folder in folders if f"{folder}/".startswith(f"{sae_id.folder}/")]
    if sae_id.folder and under and not inside:
        if reason := refused(under):
            return f"{sae_id} is {reason}. Choose a transcoder or an SAE of one layer."
        names = ", ".join(sorted(path.rpartition("/")[2] for path in under)[:3])
        return (
            f"{sae_id} holds no weights on the hub, only {names}: jumpscope list {sae_id.repo} "
            "shows what does."
        )
    if not folders:
        reason = refused(files)
        return f"{sae_id.repo} " + (
            f"holds parts of {reason}."
            if reason
            else "holds no SAE in a format that Jumpscope reads."
        )
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
