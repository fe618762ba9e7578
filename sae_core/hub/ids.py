"""Ids of SAEs on the Hugging Face hub: a repository, a folder in it, and a revision.

    gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71
    gemma-scope-2b-pt-res/layer_20/width_16k/canonical       the folder whose L0 is nearest 100
    gemma-scope-2-1b-pt/resid_post/layer_12_width_16k_l0_medium
    owner/repository/folder@revision

Gemma Scope's repositories may do without their owner, google. Without a revision (a branch, a tag
or a commit) the newest commit is meant.
"""

import re
from dataclasses import dataclass, replace

from sae_core.formats.names import origin_of
from sae_core.formats.origin import Origin

_SITES = ("res", "mlp", "att")
_SIZES_2 = ("270m", "1b", "4b", "12b", "27b")

CANONICAL = "canonical"
"""Last part of an id that stands for the folder whose declared L0 is nearest `CANONICAL_L0`."""

CANONICAL_L0 = 100

GEMMA_SCOPE = (
    *(f"google/gemma-scope-{size}-pt-{site}" for size in ("2b", "9b") for site in _SITES),
    "google/gemma-scope-27b-pt-res",
    "google/gemma-scope-9b-it-res",
    "google/gemma-scope-2b-pt-transcoders",
    *(f"google/gemma-scope-2-{size}-{kind}" for size in _SIZES_2 for kind in ("pt", "it")),
)
"""The published repositories."""

_GOOGLE = "google/"
_SCOPE = re.compile(r"gemma-scope-[\w.-]+")
# The hub's own rule for names of owners and repositories, and for the parts of a path.
_NAME = re.compile(r"\w[\w.-]{0,95}", re.ASCII)
_PART = re.compile(r"[^/\\:*?\"<>|@\s]+")


@dataclass(frozen=True)
class SAEId:
    """One SAE on the hub, or, with a folder that is not an SAE's, all those below it."""

    repo: str
    """`owner/name`."""
    folder: str = ""
    """Path in the repository; "" is its root."""
    revision: str | None = None
    """A branch, a tag or a commit; None is the newest commit."""

    def __str__(self) -> str:
        repo = self.repo.removeprefix(_GOOGLE) if is_gemma_scope(self.repo) else self.repo
        path = "/".join(part for part in (repo, self.folder) if part)
        return f"{path}@{self.revision}" if self.revision else path

    def within(self, folder: str) -> "SAEId":
        """The same repository and revision with another folder."""
        return replace(self, folder=folder)


def parse_id(text: str) -> SAEId | None:
    """`text` as an id; None if it has not the form of one (a path such as `./runs/a` has not)."""
    path, at, revision = text.partition("@")
    if at and not re.fullmatch(r"[\w./-]+", revision):
        return None
    parts = path.removesuffix("/").split("/")
    if _SCOPE.fullmatch(parts[0]):
        parts = ["google", *parts]
    if len(parts) < 2 or not all(_NAME.fullmatch(name) for name in parts[:2]):
        return None
    if not all(_PART.fullmatch(part) and part not in (".", "..") for part in parts[2:]):
        return None
    return SAEId("/".join(parts[:2]), "/".join(parts[2:]), revision or None)


def is_gemma_scope(repo: str) -> bool:
    """Whether this is one of Google's Gemma Scope repositories."""
    return repo.startswith(_GOOGLE) and bool(_SCOPE.fullmatch(repo.removeprefix(_GOOGLE)))


def origin(sae_id: SAEId, commit: str) -> Origin:
    """What the id's names say of the SAE: model, sites and L0 of a Gemma Scope SAE.

    Other repositories' files say so themselves; of these only the source is given.
    """
    return origin_of(sae_id.repo, sae_id.folder, commit)
