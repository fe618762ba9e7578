"""The command that a check recommends: as it is saved, and as it is typed for one SAE.

A saved check may move with its SAE, so what is saved holds no path: `SOURCE` and `TARGET` stand for
the SAE and its copy until the check is shown.
"""

import shlex

from sae_core.config import Site
from sae_core.workspace import readable_name

_CONVERT = "jumpscope convert SOURCE TARGET"


def converted_to(site: Site, target: Site | None) -> str:
    """The command that writes a copy of an SAE that says its sites; no `target` but a
    transcoder's.
    """
    return f"{_CONVERT} --site {site}" + (f" --site-out {target}" if target else "")


def with_source(sentence: str, source: str) -> str:
    """A check's sentence with its command as it is typed for the SAE at `source`, a path or hub id;
    the copy goes into a new folder where the command is run.
    """
    words = ["jumpscope", "convert", source, f"{readable_name(source)}-corrected"]
    return sentence.replace(_CONVERT, shlex.join(words))
