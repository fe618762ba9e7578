"""Known pairs of a language model and SAEs on the hub, to begin with: `known_pairs.json`.

What the makers' pages, their files and the layouts say; nothing here was measured, and a license is
given only where it is stated. Sizes are those of the files that are downloaded.
"""

import json
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sae_core.hub.ids import SAEId, parse_id

_FILE = Path(__file__).with_name("known_pairs.json")


@dataclass(frozen=True, kw_only=True)
class KnownPair:
    """A language model and one of the SAEs that were published for it."""

    family: str
    """Under which name, or by whom, it was published."""
    model: str
    """Hub id of the language model."""
    model_gb: float | None
    """Size of its weights; None where it is not known here, as in all that follow."""
    model_license: str | None
    gated: bool
    """Whether the model is to be had with a login alone, its terms accepted."""
    sae: str
    """Id of one SAE, for --sae."""
    sites: str
    """What the repository has, in words."""
    features: str | None
    activation: str
    sae_gb: float | None
    """Size of this SAE's file."""
    sae_license: str | None
    context_size: int | None
    """Tokens per training prompt."""
    note: str

    @property
    def repository(self) -> str:
        """The repository's id, for `jumpscope list`."""
        sae_id = parse_id(self.sae)
        assert sae_id is not None
        return str(SAEId(sae_id.repo))

    @property
    def command(self) -> str:
        """What opens the app on the pair."""
        return shlex.join(["jumpscope", "serve", "--model", self.model, "--sae", self.sae])

    @property
    def list_command(self) -> str:
        """What shows the other SAEs of the repository."""
        return shlex.join(["jumpscope", "list", self.repository])


@cache
def known_pairs() -> tuple[KnownPair, ...]:
    """All of them, the smallest and most complete first within a model's family."""
    return tuple(KnownPair(**entry) for entry in json.loads(_FILE.read_text(encoding="utf-8")))
