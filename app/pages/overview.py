"""Overview: the model and its SAEs, what was measured, a dozen features to begin with."""

from typing import Any

from app.pages.channel import Ask, add_channel
from app.pages.layout import OVERVIEW, add_frame
from app.pages.query import parsed
from app.render import memory_html, overview_html
from app.service import Service


def build(service: Service) -> None:
    """Add the page to the Blocks that is being built."""

    def show(ask: Ask) -> dict[str, Any]:
        query = parsed(ask["search"])
        data = service.overview(query.get("sae"))
        return {
            "html": overview_html(data, default_sae=service.sae_name()),
            "title": "Overview",
            "sae": data["sae"],
        }

    def memory(_ask: Ask) -> dict[str, Any]:
        """The part about memory alone, and whether it is about to change."""
        # Asked first: what has been loaded by now is in the answer.
        loading = service.is_loading()
        return {"html": memory_html(service.memory(), service.saes()), "loading": loading}

    add_frame(OVERVIEW, service, "")
    add_channel("show", show)
    add_channel("memory", memory)
