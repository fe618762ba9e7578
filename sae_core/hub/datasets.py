"""Data sets on the Hugging Face hub: which Parquet files an id names, and fetching one.

    owner/name                       its training split, in Parquet files
    owner/name/folder@revision       of what lies below a folder
    owner/name/data/train-0000*      of a file or a pattern
    hf://datasets/owner/name@revision/path

A data set without Parquet files is read from those that the hub makes of it (the revision
refs/convert/parquet). Files are pinned to a commit, and fetched when they are read.
"""

import re
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from posixpath import dirname

from huggingface_hub import hf_hub_download

from sae_core.hub.failures import errors_explained
from sae_core.hub.listing import Listing, look

SCHEME = "hf://datasets/"
"""How the path of a data set's file begins."""

CONVERTED = "refs/convert/parquet"
"""The revision with the hub's own Parquet files of a data set."""

_NAME = r"\w[\w.-]{0,95}"
_ID = re.compile(
    rf"(?P<repo>{_NAME}/{_NAME})(?P<inside>(?:/[^@\\:\s]*)?)(?:@(?P<revision>[\w./-]+))?", re.ASCII
)
_URL = re.compile(
    rf"{SCHEME}(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>[^/]+))?(?P<inside>(?:/[^\s]*)?)", re.ASCII
)
_TRAINING = re.compile(r"(?:^|[/_.-])train(?:[/_.-]|$)")
_LISTED = 5


@dataclass(frozen=True)
class DataSetId:
    """A data set, or a part of it."""

    repo: str
    """`owner/name`."""
    inside: str = ""
    """A folder, a file or a pattern; "" is everything."""
    revision: str | None = None
    """A branch, a tag or a commit; None is the newest commit."""

    def __str__(self) -> str:
        path = "/".join(part for part in (self.repo, self.inside) if part)
        return f"{path}@{self.revision}" if self.revision else path


def parse_data_set(text: str) -> DataSetId | None:
    """`text` as an id; None if it has not the form of one (a path such as `./texts` has not)."""
    match = _URL.fullmatch(text) or _ID.fullmatch(text)
    if match is None:
        return None
    revision = match["revision"]
    return DataSetId(
        match["repo"], match["inside"].strip("/"), revision and revision.replace("%2F", "/")
    )


@lru_cache(maxsize=64)
def data_set_files(data_set: DataSetId) -> tuple[str, ...]:
    """The Parquet files that an id names, in order, as `hf://datasets/owner/name@commit/path`.

    Of several splits the training one. What a branch points to is looked up once in a process.
    ValueError with one sentence if there are none, if they are of several configurations, or for
    the reasons that `look` has.
    """
    listing = look(data_set.repo, data_set.revision, kind="dataset")
    files = _chosen(data_set, listing)
    if not files and data_set.revision is None:
        listing = look(data_set.repo, CONVERTED, kind="dataset")
        files = _chosen(data_set, listing)
    if not files:
        raise ValueError(
            f"the data set {data_set} has no Parquet files on the hub: name another part or "
            "revision of it, or download it and give its files."
        )
    return tuple(f"{SCHEME}{data_set.repo}@{listing.commit}/{path}" for path in files)


def pinned(data_set: DataSetId) -> str:
    """The same id with the commit that it stands for in this process."""
    commit = data_set_files(data_set)[0].removeprefix(f"{SCHEME}{data_set.repo}@").split("/")[0]
    return str(replace(data_set, revision=commit))


def _chosen(data_set: DataSetId, listing: Listing) -> list[str]:
    if listing.files is None:
        raise ValueError(
            f"what the data set {data_set.repo} holds cannot be told, for it was never listed and "
            "the hub cannot be reached: go online once."
        )
    parquet = sorted(path for path in listing.files if path.endswith(".parquet"))
    inside = data_set.inside
    exact = [path for path in parquet if path == inside or fnmatchcase(path, inside)]
    if exact:
        return exact
    below = [path for path in parquet if not inside or path.startswith(f"{inside}/")]
    files = [path for path in below if _TRAINING.search(path.removeprefix(inside))] or below
    folders = list(dict.fromkeys(map(dirname, files)))
    if len(folders) > 1:
        named = ", ".join(folders[:_LISTED]) + (" and more" if folders[_LISTED:] else "")
        raise ValueError(
            f"the data set {data_set} has Parquet files in {len(folders)} folders ({named}): name "
            f"one, such as {data_set.repo}/{folders[0]}."
        )
    return files


def fetch_file(url: str) -> Path:
    """The local copy of one of `data_set_files`, downloaded unless it was before.

    ValueError with one sentence if it cannot be had.
    """
    data_set = parse_data_set(url)
    assert data_set is not None, url
    with errors_explained(f"{data_set.repo}/{data_set.inside}", kind="dataset"):
        return Path(
            hf_hub_download(
                data_set.repo, data_set.inside, repo_type="dataset", revision=data_set.revision
            )
        )
