"""The channel through which every page learns whether its SAEs' numbers can be trusted."""

from typing import Any

from app.pages.channel import Ask, add_channel
from app.render.badge import badge_html, doubt_html, panel_html
from app.service import Service


def add_checks(service: Service) -> None:
    """Add the channel `check` to the page that is being built.

    It answers at once; a check that is not over yet goes on in the background, and the browser
    (static/js/badge.js) asks again.
    """

    def check(ask: Ask) -> dict[str, Any]:
        names = [service.sae_name(name) for name in ask["saes"]]
        # The page's own SAE comes first; a steering run may have edits of others.
        found = {}
        for name in dict.fromkeys(names):
            state = service.verification.begin(name, again=ask["again"] is True)
            label = "" if name == names[0] else service.sae_facts(name)["label"]
            sae = "" if name == service.sae_name() else name
            found[name] = {
                "state": state["state"],
                "badge": badge_html(state, sae=sae),
                "doubt": doubt_html(state, sae=sae, label=label),
                "panel": panel_html(state),
            }
        return {"checks": found}

    add_channel("check", check)
