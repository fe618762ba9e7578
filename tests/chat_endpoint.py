"""An OpenAI-compatible endpoint that answers by rule, for tests of automatic interpretability.

It explains a feature by the tokens that are most often listed as strongly active, as
`tokens: " sea" " ship"`, simulates 10 on the tokens that an explanation names and 0 on all others,
and detects the texts that hold one of them: an explanation is as good as the tokens that it names.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
LEVEL = re.compile(rf"({STRING.pattern}) (\d+)")
Rule = Callable[[list[dict[str, str]]], str]


def by_rule(messages: list[dict[str, str]]) -> str:
    """The answer to a question of `sae_core.explain.explain_prompts`."""
    question = messages[-1]["content"]
    if not question.startswith("Explanation: "):
        active = re.findall(r"^Active tokens: (.*)$", question, re.MULTILINE)
        pairs = [pair for row in active for pair in LEVEL.findall(row)]
        tokens = Counter(token for token, level in pairs if int(level) >= 5)
        return "tokens: " + " ".join(token for token, _ in tokens.most_common(6))
    explanation, _, body = question.partition("\n\n")
    named = set(STRING.findall(explanation))
    lines = []
    for line in body.split("\n"):
        number, _, text = line.partition(" ")
        if "YES or NO" in messages[0]["content"]:
            says = any(json.loads(token) in json.loads(text) for token in named)
            lines.append(f"{number} {'YES' if says else 'NO'}")
        else:
            lines.append(f"{number} {10 if text in named else 0}")
    return "\n".join(lines)


@dataclass(kw_only=True)
class Endpoint:
    """What the endpoint does, and what it was asked."""

    url: str = ""
    rule: Rule = by_rule
    statuses: list[int] = field(default_factory=list)
    """What the next requests are refused with, one each; 0 answers."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with every refusal."""
    raw: bytes | None = None
    """Sent instead of a completion."""
    refusal: bytes = b'{"error": {"message": "No more of that."}}'
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextmanager
def endpoint(**options: Any) -> Iterator[Endpoint]:
    """An endpoint on a free port while the block runs."""
    state = Endpoint(**options)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            state.requests.append(asked)
            state.keys.append(self.headers.get("authorization", ""))
            state.paths.append(self.path)
            status = state.statuses.pop(0) if state.statuses else 0
            if status:
                return self._send(status, state.refusal, state.headers)
            if state.raw is not None:
                return self._send(200, state.raw, {})
            message = {"role": "assistant", "content": state.rule(asked["messages"])}
            body = json.dumps({"choices": [{"message": message}]}).encode()
            return self._send(200, body, {})

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
