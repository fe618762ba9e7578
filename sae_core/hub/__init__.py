"""SAEs on the Hugging Face hub: their ids, what repositories offer, and fetching one."""

from sae_core.hub.download import fetch
from sae_core.hub.failures import explained
from sae_core.hub.ids import SAEId, origin, parse_id
from sae_core.hub.offers import Offer, offers, width_of

__all__ = ["Offer", "SAEId", "explained", "fetch", "offers", "origin", "parse_id", "width_of"]
