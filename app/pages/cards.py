"""The channel that brings the card of a number: "Reproduce" on the pages."""

from typing import Any

from app import api
from app.pages.channel import Ask, add_channel
from app.render.card import card_html
from app.service import Service


def add_cards(service: Service) -> None:
    """Add the channel `card` to the page that is being built."""

    def card(ask: Ask) -> dict[str, Any]:
        found = service.reproduce(ask["asked"])
        # To know the value of a steering run's number it would have to be run again.
        return {"html": card_html(found, found.get("value", ask.get("value")))}

    add_channel("card", card, group=api.ANALYSE)
