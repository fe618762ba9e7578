"""Indexes that can be used, and what is said in their place: why there is none, and what to do."""

import shlex
from dataclasses import dataclass

from sae_core.bundle import Bundle
from sae_core.index import Index
from sae_core.index.schema import IndexBusyError
from sae_core.workspace import check_command, is_workspace

CORPUS = "'texts/*.parquet'"
"""Stands for the user's own text in commands."""

CONTEXT_SIZE = 1024
"""Tokens of a prompt in commands for SAEs that do not say theirs, as Gemma Scope's do not."""


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Why the index of an SAE cannot be used, and the command that is to be given next."""

    reason: str
    command: str
    does: str = "builds it from text of yours"
    """What that command does."""

    @property
    def sentence(self) -> str:
        """All as one sentence."""
        return f"{self.reason}: {self.command} {self.does}."


class NoIndexError(ValueError):
    """An SAE has no index that can be used."""

    def __init__(self, missing: Missing) -> None:
        super().__init__(missing.sentence)
        self.missing = missing


def open_index(bundle: Bundle, sae: str) -> Index:
    """The index of an SAE; NoIndexError if there is none, a damaged one or one of other weights."""

    def no_index(reason: str) -> NoIndexError:
        return NoIndexError(Missing(reason=reason, command=index_command(bundle, sae)))

    if bundle.sae_config(sae).site is None:
        raise NoIndexError(no_site(bundle, sae))
    path = bundle.index_path(sae)
    if not path.is_file():
        raise no_index(f"SAE {sae} has no index yet")
    try:
        index = Index.open(path)
    except IndexBusyError as error:
        busy = Missing(
            reason=f"The index of SAE {sae} is in use by a program that writes to it",
            command=shlex.join(["lsof", str(path)]),
            does="shows which; end that and reload the page",
        )
        raise NoIndexError(busy) from error
    except ValueError as error:
        raise no_index(f"The index of SAE {sae} cannot be read") from error
    indexed = index.meta.get("sae_hash")
    if indexed and indexed != bundle.content_hash(sae):
        raise no_index(f"The index of SAE {sae} was built from other weights")
    return index


def no_site(bundle: Bundle, sae: str) -> Missing:
    """What is said of an SAE that no index can be built of, and nothing else be done with, until
    its site is known.
    """
    return Missing(
        reason=f"SAE {sae} does not say at which site it reads",
        command=check_command(bundle, sae),
        does="finds it",
    )


def index_command(bundle: Bundle, sae: str) -> str:
    """The command that builds the index of an SAE, as it is typed."""
    words = shlex.join(["jumpscope", "index", *_named(bundle, sae)])
    # Of an SAE that does not say how long its training prompts were, people choose.
    context = "" if bundle.sae_config(sae).context_size else f" --context-size {CONTEXT_SIZE}"
    return f"{words} --corpus {CORPUS}{context}"


def scores_command(bundle: Bundle, sae: str) -> str:
    """The command that adds output scores to the index of an SAE, as it is typed."""
    return shlex.join(["jumpscope", "index", *_named(bundle, sae), "--add-output-scores"])


def map_command(bundle: Bundle, sae: str) -> str:
    """The command that adds a map to the index of an SAE, as it is typed."""
    return shlex.join(["jumpscope", "index", *_named(bundle, sae), "--add-map"])


def _named(bundle: Bundle, sae: str) -> list[str]:
    """An SAE as commands name it."""
    if is_workspace(bundle):
        return ["--model", bundle.model, "--sae", bundle.sae_source(sae)]
    return ["--bundle", str(bundle.path), "--sae", sae]
