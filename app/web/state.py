"""What the server is at: the model, its memory, checks, with their markup.

A page comes with it and asks for it again while something is being loaded or checked.
"""

from collections.abc import Sequence
from typing import Any

from app.engine.workbench import Workbench
from app.service import overview as service
from app.web.memory_view import memory_view
from app.web.templating import part
from sae_core.definitions import DEFINITIONS


def state(
    workbench: Workbench, names: Sequence[str], *, again: bool = False, root: str = ""
) -> dict[str, Any]:
    """Of the SAEs named, "" or none meaning the bundle's first; their checks are begun, and `again`
    tries those that failed anew. `root` leads from the page to the app's root.

    RequestError if there is no such SAE.
    """
    saes = list(dict.fromkeys(workbench.sae_name(name) for name in names or [""]))
    return {
        "loading": workbench.is_loading(),
        "loaded": workbench.engine is not None,
        "problem": workbench.model_problem,
        "chat": service.chat(workbench),
        "memory": memory_html(workbench),
        "checks": {name: _check(workbench, name, saes[0], again=again, root=root) for name in saes},
    }


def memory_html(workbench: Workbench) -> str:
    """The overview's part about memory."""
    view = memory_view(service.memory(workbench), workbench.saes())
    return part("memory.html", "memory", view)


def _check(
    workbench: Workbench, name: str, first: str, *, again: bool, root: str
) -> dict[str, str]:
    """A check's state and markup; `first` is the page's own SAE, the others' doubts name them."""
    check = workbench.checker.begin(name, again=again)
    in_address = "" if name == workbench.sae_name() else name
    label = "" if name == first else _label(workbench, name)
    return {
        "state": check["state"],
        "badge": part("badge.html", "badge", check, in_address, root),
        "doubt": part("badge.html", "doubt", check, in_address, label, root),
        "panel": part("badge.html", "panel", check, DEFINITIONS),
    }


def _label(workbench: Workbench, name: str) -> str:
    return next(row["label"] for row in workbench.saes() if row["name"] == name)
