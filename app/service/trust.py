"""Whether an SAE's numbers can be trusted."""

import asyncio
from typing import Any

from app.engine.workbench import Workbench
from app.requests import CheckRequest, RequestError


async def check(workbench: Workbench, request: CheckRequest) -> dict[str, Any]:
    """Whether an SAE's numbers can be trusted: its L0 and FVU beside the declared ones.

    The check is begun if need be and waited for, without holding a thread; if it takes longer than
    `max_seconds` it goes on, and the answer is an error.
    """
    name = workbench.sae_name(request.sae)
    patience = workbench.settings.max_seconds
    try:
        return await asyncio.wait_for(workbench.checker.finished(name), patience)
    except TimeoutError:
        raise RequestError(
            f"The check of SAE {name} takes longer than {patience:g} seconds: it goes on, ask "
            "again later."
        ) from None
