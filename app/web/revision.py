"""Which index a page shows, so that it hears of another one while it is open."""

from typing import Final

from app.engine.workbench import Workbench
from app.sentences import without_paths

NOTHING_READ: Final = {"revision": "", "note": ""}


def revision_of(workbench: Workbench, sae: str) -> dict[str, str]:
    """`revision` is the SAE's name, @ and what changes when another index of it is read, nothing
    where there is none; `note` says that it is not finished, or that a file in its place is not
    read. Both are "" for an SAE that there is not or that cannot be read, which the page itself
    says.
    """
    try:
        name = workbench.sae_name(sae)
        sources = workbench.sources
        return {
            "revision": f"{name}@{sources.revision(name)}",
            "note": without_paths(sources.note(name)),
        }
    except ValueError:
        return NOTHING_READ
