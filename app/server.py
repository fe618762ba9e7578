"""The web app on Gradio's server mode: our pages and endpoints, its queue, clients and MCP.

`serve` starts it and returns a `RunningApp`.
"""

import html
import inspect
import logging
import re
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import Request as HTTPRequest
from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse
from starlette.routing import Route

from app.calls import Calls
from app.endpoints import ENDPOINTS, Work, function_of, places
from app.engine.workbench import Workbench
from app.gate import LOOPBACK, Access, Gate, Receive, Scope, Send, host_name
from app.gradio_import import api, gr
from app.requests import RequestError
from app.sentences import FAILED, without_paths
from app.settings import Settings
from app.tools import PATH, Tools
from app.users import users_of
from app.web import pages
from app.work_queue import WorkQueue
from sae_core.bundle import Bundle

log = logging.getLogger(__name__)

SESSIONS: Final = 16
"""Sessions that Gradio remembers; the app keeps nothing in them."""
THREADS: Final = 40
"""Threads for whatever is not a steering run, each of which may hold one."""
SWITCH_SECONDS: Final = 0.0005
"""For how long one thread of Python keeps another from going on. At Python's own 5 ms a forward,
which lets go of the interpreter with each of its many operations, is held up again and again by
the thread that sends answers."""
LONGEST_HEAD_START: Final = 3.0
"""Seconds that the model waits for a first page to be asked for."""
_STARTUP: Final = "/gradio_api/startup-events"
_INSIDE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where this machine itself reaches what listens on all addresses."""


class JumpscopeServer(gr.Server):
    """Pages, static files and endpoints of one workbench, behind the gate."""

    def __init__(self, workbench: Workbench) -> None:
        super().__init__(title="Jumpscope", docs_url=None, redoc_url=None, openapi_url=None)
        settings = workbench.settings
        pages.add_routes(self, workbench)
        self.add_exception_handler(RequestValidationError, _wrong_request)
        self.add_exception_handler(Exception, _failed)
        with gr.Blocks(mode="server", analytics_enabled=False) as self._blocks:
            for endpoint in ENDPOINTS:
                api(
                    _with_errors_of_gradio(function_of(endpoint, workbench), endpoint.streams),
                    api_name=endpoint.name,
                    concurrency_id=endpoint.work.value,
                    concurrency_limit=places(endpoint.work, settings),
                )
        limits = {work.value: getattr(settings, f"max_waiting_{work}") for work in Work}
        queue = WorkQueue(self._blocks, limits, settings.max_waiting_seconds)
        self._blocks._queue = queue
        calls = Calls(super().__call__, queue, settings)
        self._tools = Tools(calls, settings) if settings.mcp else None
        if self._tools is not None:
            self.router.routes.append(Route(PATH, self._tools))
        self.gate = Gate(
            calls,
            access_of(settings),
            pages.not_found(workbench),
        )
        self._starting = False
        self.has_served = threading.Event()
        """Whether anything has been answered yet."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Every request comes through the gate, but for the one by which Gradio starts itself."""
        if self._starting and scope["type"] == "http" and scope["path"] == _STARTUP:
            await super().__call__(scope, receive, send)
        else:
            await self.gate(scope, receive, send)
            if scope["type"] == "http":
                self.has_served.set()

    def start(self, settings: Settings, port: int) -> str:
        """Listen in the background; the app's own address. ValueError if the port is taken."""
        bracketed = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._starting = True
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            self._blocks.launch(
                _app=self,
                server_name=bracketed,
                server_port=port,
                prevent_thread_lock=True,
                quiet=True,
                max_threads=THREADS + settings.max_generations,
                state_session_capacity=SESSIONS,
                max_file_size=1,
                enable_monitoring=False,
                run_history=False,
                mcp_server=False,
                app_kwargs={"lifespan": self._tools.running} if self._tools else None,
                root_path=settings.root_path,
                share=settings.share,
                _frontend=False,
            )
        except OSError as error:
            raise ValueError(_cannot_listen(settings.host, port, "address in use")) from error
        finally:
            self._starting = False
        if settings.share and (public := self._blocks.share_url):
            # The tunnel's name is known only now.
            access, name = self.gate.access, urlsplit(public).hostname or ""
            self.gate.access = replace(access, hosts={*access.hosts, name}, proxied=True)
            log.info("Jumpscope is at %s for everybody who knows the address", public)
        inside = _INSIDE.get(settings.host, settings.host)
        return f"http://{f'[{inside}]' if ':' in inside else inside}:{port}"

    def stop(self) -> None:
        """End it; what runs is broken off."""
        self._blocks.close(verbose=False)


@dataclass(frozen=True)
class RunningApp:
    """The app as it runs in this process; in a notebook it shows itself."""

    url: str
    workbench: Workbench
    _server: JumpscopeServer

    def close(self) -> None:
        """End it and free its port."""
        self._server.stop()
        self._server.has_served.set()  # nobody is waited for any more
        self.workbench.close()

    def _repr_html_(self) -> str:
        src = html.escape(f"{self.url}/")
        return f'<iframe src="{src}" width="100%" height="800" style="border:0"></iframe>'


def serve(settings: Settings, bundle: Bundle) -> RunningApp:
    """Start the app in the background; the model begins to load once the first page is served.

    ValueError with one sentence for a port, a host or users that cannot be had.
    """
    port = free_port(settings)
    workbench = Workbench(settings, bundle)
    server = JumpscopeServer(workbench)
    url = server.start(settings, port)
    if settings.host not in LOOPBACK and not settings.auth:
        log.warning(
            "Everybody who reaches %s port %d may use this app: --auth asks for a password.",
            settings.host,
            port,
        )
    if settings.open_browser:
        webbrowser.open(f"{url}/")
    # The model takes the processor from a page that is asked for first.
    workbench.load_in_background(after=partial(server.has_served.wait, LONGEST_HEAD_START))
    return RunningApp(url=url, workbench=workbench, _server=server)


def access_of(settings: Settings) -> Access:
    """Who may come in under these settings; ValueError where auth names nobody."""
    named = {host_name(each.strip()) for each in settings.allowed_hosts.split(",")} - {""}
    return Access(
        hosts=LOOPBACK | {host_name(settings.host)} | named,
        pages=re.compile(pages.PATHS),
        users=users_of(settings.auth),
        root_path=settings.root_path,
        mcp=settings.mcp,
        proxied=settings.proxy or bool(settings.root_path),
        frame_ancestors=settings.frame_ancestors,
    )


def free_port(settings: Settings) -> int:
    """The port to listen on, a free one for 0; ValueError if nothing can listen there."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((settings.host, settings.port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ValueError(_cannot_listen(settings.host, settings.port, reason)) from error
        return trial.getsockname()[1]


def _cannot_listen(host: str, port: int, reason: str) -> str:
    return (
        f"cannot listen on {host} port {port} ({reason}): choose another --port (or "
        "JUMPSCOPE_PORT; 0 takes a free one) or --host."
    )


def _with_errors_of_gradio(function: Callable[..., Any], streams: bool) -> Callable[..., Any]:
    """The function with a user's mistake as Gradio's error, its field as the title."""

    @contextmanager
    def told() -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            field = error.field if isinstance(error, RequestError) else ""
            sentence = without_paths(str(error))
            raise gr.Error(sentence, title=field, print_exception=False) from error

    @wraps(function)
    def streamed(*args: Any, **kwargs: Any) -> Any:
        with told():
            yield from function(*args, **kwargs)

    @wraps(function)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        with told():
            return await function(*args, **kwargs)

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with told():
            return function(*args, **kwargs)

    if streams:
        return streamed
    return awaited if inspect.iscoroutinefunction(function) else called


async def _wrong_request(request: HTTPRequest, error: Exception) -> JSONResponse:
    """What FastAPI finds wrong with a request, as a sentence."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = str(first["loc"][-1]) if first["loc"] else "the request"
    if first["type"] == "json_invalid":
        return JSONResponse({"detail": "The request's body is not JSON."}, 400)
    missing = first["type"] == "missing"
    sentence = f"{name} {'is missing' if missing else 'is not as it should be'}."
    return JSONResponse({"detail": sentence, "field": name}, 422)


async def _failed(request: HTTPRequest, error: Exception) -> JSONResponse:
    """The answer to a fault of ours; the server's log has it whole."""
    return JSONResponse({"detail": FAILED}, 500)
