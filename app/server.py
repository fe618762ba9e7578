"""The web app on Gradio's server mode: our pages and endpoints, its queue, clients and MCP.

`serve` starts it and returns a `RunningApp`.
"""

import os
import re
from dataclasses import dataclass
from typing import Any, Final

# Gradio reads these when it is imported and when it makes its queue: no request may leave this
# machine, and it keeps no statistics of every request (they take longer with each one).
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = "1000000000"

import gradio as gr

from app.endpoints import ENDPOINTS, PLACES, function_of
from app.engine.workbench import Workbench
from app.gate import LOOPBACK, Access, Gate, Receive, Scope, Send, host_name
from app.requests import RequestError
from app.settings import Settings
from app.web import pages
from sae_core.bundle import Bundle

SESSIONS: Final = 16
"""Sessions that Gradio remembers; the app keeps nothing in them."""


class JumpscopeServer(gr.Server):
    """Pages, static files and endpoints of one workbench, behind the gate."""

    def __init__(self, workbench: Workbench) -> None:
        super().__init__(title="Jumpscope", docs_url=None, redoc_url=None, openapi_url=None)
        settings = workbench.settings
        access = Access(
            hosts=LOOPBACK | {host_name(settings.host)},
            pages=re.compile(pages.PATHS),
        )
        self.gate = Gate(super().__call__, access, pages.not_found(workbench))
        pages.add_routes(self, workbench)
        for endpoint in ENDPOINTS:
            self.api(
                _with_errors_of_gradio(function_of(endpoint, workbench), endpoint.streams),
                name=endpoint.name,
                concurrency_id=endpoint.work.value,
                concurrency_limit=PLACES[endpoint.work],
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Every request comes through the gate."""
        await self.gate(scope, receive, send)


@dataclass(frozen=True)
class RunningApp:
    """The app as it runs in this process; in a notebook it shows itself."""

    url: str
    workbench: Workbench
    _server: JumpscopeServer

    def close(self) -> None:
        """End it."""
        self._server.get_blocks().close(verbose=False)

    def _repr_html_(self) -> str:
        return f'<iframe src="{self.url}" width="100%" height="800" style="border:0"></iframe>'


def serve(settings: Settings, bundle: Bundle) -> RunningApp:
    """Start the app in the background; the model begins to load once the first page is served."""
    workbench = Workbench(settings, bundle)
    server = JumpscopeServer(workbench)
    _, url, _ = server.launch(
        server_name=settings.host,
        server_port=settings.port,
        inbrowser=settings.open_browser,
        prevent_thread_lock=True,
        quiet=True,
        state_session_capacity=SESSIONS,
        max_file_size=1,
        enable_monitoring=False,
        mcp_server=False,
        _frontend=False,
    )
    workbench.load_in_background()
    return RunningApp(url=url.rstrip("/"), workbench=workbench, _server=server)


def _with_errors_of_gradio(function: Any, streams: bool) -> Any:
    """The function with a user's mistake as Gradio's error: its sentence, its field as the title."""
    import inspect
    from functools import wraps

    def told(error: ValueError) -> gr.Error:
        field = error.field if isinstance(error, RequestError) else ""
        return gr.Error(str(error), title=field, print_exception=False)

    if streams:

        @wraps(function)
        def handled(*args: Any, **kwargs: Any) -> Any:
            try:
                yield from function(*args, **kwargs)
            except ValueError as error:
                raise told(error) from error

    elif inspect.iscoroutinefunction(function):

        @wraps(function)
        async def handled(*args: Any, **kwargs: Any) -> Any:
            try:
                return await function(*args, **kwargs)
            except ValueError as error:
                raise told(error) from error

    else:

        @wraps(function)
        def handled(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except ValueError as error:
                raise told(error) from error

    return handled
