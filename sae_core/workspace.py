"""Workspaces: the bundles of models and SAEs that are named on the command line.

A workspace is a bundle like any other, in the user's data folder, one for each model. It holds the
indexes of all SAEs ever named with that model; weights stay in the hub's cache, or where their path
says. So `jumpscope index --model M --sae ID` and `jumpscope serve --model M --sae ID` meet.
"""

import hashlib
import logging
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from filelock import FileLock

from sae_core.bundle import BUNDLE_FILE, Bundle, write_bundle
from sae_core.files import REFUSED, data_folder, temporary_folder, temporary_path
from sae_core.formats.configs import read_config
from sae_core.hub import parse_id
from sae_core.sources import locate

log = logging.getLogger(__name__)

LOCK_FILE = "bundle.lock"

_MODEL_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
# Parts of a path that say little without the one before them.
_PARTIAL = re.compile(r"(average_l0|l0|width|layer|trainer)_|layers\.|canonical$|saes?$")
_WEIGHTS = (".npz", ".pt", ".safetensors")


def folder_of(model: str) -> Path:
    """The workspace of a model, given as `located_model` writes it, whether it exists or not."""
    return data_folder() / "bundles" / model_slug(model)


def is_workspace(bundle: Bundle) -> bool:
    """Whether `jumpscope index --model` and `serve --model` know this bundle by its model."""
    slug = model_slug(bundle.model)
    return bundle.path in (folder_of(bundle.model), temporary_path() / "bundles" / slug)


def check_command(bundle: Bundle, sae: str) -> str:
    """The command that checks an SAE, as it is typed."""
    where = ["--model", bundle.model] if is_workspace(bundle) else [str(bundle.path)]
    name = bundle.sae_source(sae) if is_workspace(bundle) else sae
    return shlex.join(["jumpscope", "inspect", *where, "--sae", name, "--check"])


def workspace(model: str, sources: Sequence[str], folder: Path | None = None) -> Bundle:
    """The bundle of a model and of SAEs, each named by hub id or path, in the order of `sources`.

    `folder` is by default the model's own in `data_folder()`, or in `temporary_folder()` where that
    one cannot be written. It is made, or extended by the SAEs that it lacks; several processes may
    do so at once. Every SAE is fetched and its configuration
    read first. Raises ValueError with one sentence if the model is neither a folder nor an id, or
    an SAE cannot be read.
    """
    model = located_model(model)
    wanted = list(dict.fromkeys(located_sae(source) for source in sources))
    if not wanted:
        raise ValueError("name at least one SAE: a hub id, or a folder of any supported format.")
    places = {source: locate(source) for source in wanted}
    for path, origin in places.values():
        read_config(path, origin=origin)
    bundle = _held(folder or folder_of(model), model, wanted)
    if bundle is None and folder is not None:
        bundle = _extended(folder, model, wanted)
    elif bundle is None:
        try:
            bundle = _extended(folder_of(model), model, wanted)
        except OSError as error:
            if error.errno not in REFUSED:
                raise
            bundle = _extended(temporary_folder() / "bundles" / model_slug(model), model, wanted)
            _say_temporary(folder_of(model), bundle.path)
    names = {source: name for name, source in bundle.sources.items()}
    return replace(
        bundle,
        sae_names=tuple(names[source] for source in wanted),
        located={names[source]: place for source, place in places.items()},
    )


def _held(folder: Path, model: str, wanted: Sequence[str]) -> Bundle | None:
    """The workspace in a folder, which need not be written to if it holds all that is wanted."""
    if not (folder / BUNDLE_FILE).is_file():
        return None
    bundle = Bundle.open(folder)
    return bundle if set(wanted) <= set(bundle.sources.values()) else None


def _extended(folder: Path, model: str, wanted: Sequence[str]) -> Bundle:
    """The workspace in a folder, made or extended by the SAEs that it lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK_FILE):
        if (folder / BUNDLE_FILE).is_file():
            bundle = Bundle.open(folder)
        else:
            name = Path(model.partition("@")[0]).name
            bundle = Bundle(path=folder, name=name, title=model, model=model, sae_names=())
        held = set(bundle.sources.values())
        new = named([source for source in wanted if source not in held], bundle.sae_names)
        if not new:
            return bundle
        return write_bundle(
            folder,
            name=bundle.name,
            title=bundle.title,
            model=bundle.model,
            saes=[*bundle.entries(), *({"name": n, "source": s} for n, s in new.items())],
            examples=bundle.examples,
        )


@cache
def _say_temporary(folder: Path, instead: Path) -> None:
    """Say, once in a process, that a workspace is not where it is looked for."""
    log.warning(
        "%s cannot be written: what is built for this model goes to %s, which may be gone after a "
        "restart; set XDG_DATA_HOME to a folder you may write to.",
        folder,
        instead,
    )


def located_model(model: str) -> str:
    """Absolute path of a model's folder, or its hub id; ValueError if it is neither."""
    if Path(model).is_dir():
        return str(Path(model).resolve())
    if not _MODEL_ID.fullmatch(model):
        raise ValueError(f"{model} is neither a model's folder nor a hub id such as owner/name.")
    return model


def located_sae(source: str) -> str:
    """Absolute path of an SAE's folder or file, or its hub id; ValueError if it is neither."""
    if Path(source).exists():
        return str(Path(source).resolve())
    sae_id = parse_id(source)
    if sae_id is None:
        raise ValueError(f"{source} is neither an SAE's folder nor a hub id.")
    return str(sae_id)


def model_slug(model: str) -> str:
    """Name of a model's workspace: `google--gemma-2-2b`; of a folder its name and a hash."""
    if os.path.isabs(model):
        digest = hashlib.sha256(model.encode()).hexdigest()[:8]
        return f"{Path(model).name}-{digest}"
    return model.replace("/", "--")


def named(sources: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """A readable name for each source, unlike all others and those `taken`: name -> source."""
    used, names = set(taken), {}
    for source in sources:
        base = name = readable_name(source)
        number = 1
        while name in used:
            number += 1
            name = f"{base}-{number}"
        used.add(name)
        names[name] = source
    return names


def readable_name(source: str) -> str:
    """`gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71` in one word, an owner left out:
    `gemma-scope-2b-pt-res-layer_20-width_16k-l0_71`. Of a path the last part that says something,
    and those after it.
    """
    parts = list(Path(source).parts)
    if os.path.isabs(source):
        if parts[-1].endswith(_WEIGHTS):
            parts.pop()
        first = len(parts) - 1
        while first > 1 and _PARTIAL.match(parts[first]):
            first -= 1
        parts = parts[first:]
    elif len(parts) > 1 and not parts[0].startswith("gemma-scope"):
        parts = parts[1:]
    words = "-".join(part.replace("average_l0_", "l0_") for part in parts)
    return re.sub(r"[^\w.-]+", "-", words).strip(".-") or "sae"
