"""Asks an OpenAI-compatible endpoint for chat completions, with the standard library alone.

Nothing but the messages, the model's name and the key is sent, and the key to that address only:
redirects are not followed. The key is neither logged nor stored nor part of any error.
"""

import http.client
import json
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from sae_core.explain.explain_prompts import Messages

log = logging.getLogger(__name__)

KEY_VARIABLE: Final = "JUMPSCOPE_EXPLAIN_KEY"
"""Environment variable that holds the endpoint's key, where it asks for one."""
TIMEOUT_SECONDS: Final = 120.0
"""Longest silence of the endpoint within one request."""
TRIES: Final = 5
"""How often a request is made before it is given up."""
FIRST_PAUSE: Final = 1.0
"""Seconds before the second try; each pause is twice the one before."""
LONGEST_PAUSE: Final = 60.0
"""Most seconds of a pause, whatever the endpoint asks for."""
LARGEST_ANSWER: Final = 4_000_000
"""Bytes of an answer that are read."""
_LEFT_OUT: Final[dict[str, str | None]] = {
    "temperature": None,
    "max_tokens": "max_completion_tokens",
}
"""What some models refuse, and what is sent instead."""
_LOCAL: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_LONGEST_REASON: Final = 200


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: it would take the key elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nothing."""


class EndpointError(ValueError):
    """What an endpoint does not do, for who set it up; `public` is the same without its own words
    and address, for whoever may use the app.
    """

    def __init__(self, sentence: str, public: str) -> None:
        super().__init__(sentence)
        self.public = public


class _AgainError(EndpointError):
    """What may be gone at the next try; `pause` is what the endpoint asks for, in seconds."""

    def __init__(self, sentence: str, public: str, pause: float = 0.0) -> None:
        super().__init__(sentence, public)
        self.pause = pause


class _NotTakenError(EndpointError):
    """A refusal that names some of what was sent."""

    def __init__(self, sentence: str, public: str, names: frozenset[str]) -> None:
        super().__init__(sentence, public)
        self.names = names


@dataclass(frozen=True, kw_only=True)
class ChatClient:
    """A model at an endpoint."""

    endpoint: str
    """Address up to and with /v1, such as http://127.0.0.1:8000/v1."""
    model: str
    """The model's name at the endpoint."""
    key: str = field(default="", repr=False)
    """Sent as a bearer token; empty sends none."""
    timeout: float = TIMEOUT_SECONDS
    tries: int = TRIES
    pause: float = FIRST_PAUSE
    sleep: Callable[[float], object] = field(default=time.sleep, repr=False)
    """Waits so many seconds between tries."""
    _refused_names: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    """What the model does not take, and is not sent again."""

    def __post_init__(self) -> None:
        check_endpoint(self.endpoint)
        if not self.model.strip():
            raise ValueError("no model is named: say which one the endpoint is to answer with.")
        if not self.key.isascii() or not self.key.isprintable():
            raise ValueError("the endpoint's key has characters that no key has.")

    def complete(self, messages: Messages, max_tokens: int) -> str:
        """The model's answer at temperature 0, or at its own where it takes none.

        A busy or failing endpoint (429, 5xx, no connection) is asked again with growing pauses.
        EndpointError with one sentence where it cannot be reached, refuses or answers nonsense.
        """
        for n in range(self.tries):
            try:
                return self._content(self._taken(messages, max_tokens))
            except _AgainError as error:
                if n == self.tries - 1:
                    raise EndpointError(str(error), error.public) from error
                pause = min(max(self.pause * 2**n, error.pause), LONGEST_PAUSE)
                log.info("%s Trying again in %.0f s.", error, pause)
                self.sleep(pause)
        raise AssertionError("the last try raises")

    def _taken(self, messages: Messages, max_tokens: int) -> bytes:
        """The bytes that a request is answered with, without what the model refuses by name."""
        while True:
            body: dict[str, Any] = {"model": self.model, "messages": messages}
            for name, value in (("temperature", 0), ("max_tokens", max_tokens)):
                sent = _LEFT_OUT[name] if name in self._refused_names else name
                if sent:
                    body[sent] = value
            try:
                return self._sent(json.dumps(body).encode())
            except _NotTakenError as error:
                if error.names <= self._refused_names:
                    raise EndpointError(str(error), error.public) from error
                self._refused_names.update(error.names)

    def _sent(self, body: bytes) -> bytes:
        """The bytes that a request is answered with."""
        headers = {"content-type": "application/json", "user-agent": "jumpscope"}
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        address = self.endpoint.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(address, body, headers, method="POST")
        handlers: list[Any] = [_NoRedirects()]
        if urlsplit(self.endpoint).hostname in _LOCAL:
            handlers.append(urllib.request.ProxyHandler({}))  # no proxy leads to this machine
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=self.timeout) as said:
                return said.read(LARGEST_ANSWER)
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error)
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            reason = getattr(error, "reason", error)
            told = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            raise _AgainError(
                f"{self.endpoint} cannot be reached ({told.lower()}): start the model's server "
                "there, or name another endpoint.",
                f"{self._host} cannot be reached.",
            ) from error
        raise AssertionError("a refusal raises")

    def _refused(self, error: urllib.error.HTTPError) -> None:
        """Raise what a status other than success means."""
        status, words = error.code, self._words(error)
        reason = f": {words[:_LONGEST_REASON].rstrip('.')}" if words else ""
        if status == 429 or status >= 500:
            raise _AgainError(
                f"{self.endpoint} is busy or failing (status {status}{reason}).",
                f"{self._host} is busy or failing (status {status}).",
                _seconds(error.headers.get("retry-after")),
            )
        public = f"{self._host} refuses the request (status {status})."
        if status in (401, 403):
            raise EndpointError(
                f"{self.endpoint} refuses the key (status {status}{reason}): put the right one "
                f"into {KEY_VARIABLE}.",
                public,
            )
        if status == 404:
            raise EndpointError(
                f"{self.endpoint} has no chat completions or no model {self.model} (status 404"
                f"{reason}): the address usually ends in /v1.",
                public,
            )
        sentence = f"{self.endpoint} refuses the request (status {status}{reason})."
        names = frozenset(re.findall(r"\w+", words)) & set(_LEFT_OUT)
        if status == 400 and names:
            raise _NotTakenError(sentence, public, names)
        raise EndpointError(sentence, public)

    @property
    def _host(self) -> str:
        """The endpoint without what its address may give away."""
        return urlsplit(self.endpoint).hostname or "the endpoint"

    def _words(self, error: urllib.error.HTTPError) -> str:
        """What the endpoint says of a refusal, without the key."""
        try:
            said = json.loads(error.read(LARGEST_ANSWER))
        except (ValueError, RecursionError, OSError, http.client.HTTPException):
            return ""
        said = said.get("error", said) if isinstance(said, Mapping) else said
        said = said.get("message", "") if isinstance(said, Mapping) else said
        text = " ".join(str(said).split())
        return text.replace(self.key, "…") if self.key else text

    def _content(self, answer: bytes) -> str:
        """The text of a completion."""
        try:
            content = json.loads(answer)["choices"][0]["message"]["content"]
        except (ValueError, RecursionError, LookupError, TypeError) as error:
            raise EndpointError(
                f"{self.endpoint} answers something else than a chat completion: is it the address "
                "of an OpenAI-compatible endpoint, which usually ends in /v1?",
                f"{self._host} answers something else than a chat completion.",
            ) from error
        # None where the model spent all of its tokens on thinking: an answer that says nothing.
        # JSON may hold halves of characters, which no file takes.
        return content.encode("utf-8", "replace").decode() if isinstance(content, str) else ""


def key_of_environment(variable: str = KEY_VARIABLE) -> str:
    """The endpoint's key; "" where the environment has none."""
    return os.environ.get(variable, "").strip()


def check_endpoint(endpoint: str) -> None:
    """ValueError with one sentence if an address cannot be that of an endpoint."""
    try:
        parts = urlsplit(endpoint)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits or parts.query or parts.fragment or parts.username or parts.password:
        raise ValueError(
            "the endpoint is no address of a model's server: write it as http://127.0.0.1:8000/v1, "
            f"and its key into {KEY_VARIABLE}."
        )


def _seconds(retry_after: str | None) -> float:
    """The pause that an endpoint asks for; 0 where it names none, or a date."""
    return float(retry_after) if retry_after and retry_after.strip().isdecimal() else 0.0
