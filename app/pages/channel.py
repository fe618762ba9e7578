"""How a page talks to the server: channels, each an invisible Gradio component.

The browser sends `{"id": n, "ask": {...}}` through a component's event and gets the answer, a JSON
text, as the component's value; `static/core.js` is the other end. Gradio queues, limits, streams
and cancels. The id lets the browser drop answers that it no longer waits for.
"""

import json
import logging
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from typing import Any

import gradio as gr

from app import api

log = logging.getLogger(__name__)

Ask = Mapping[str, Any]

FAILED = "Something went wrong here; the server's log says what."


def add_channel(
    name: str,
    answer: Callable[[Ask], dict[str, Any]],
    *,
    group: str | None = None,
) -> None:
    """A channel that gives one answer to each question.

    `group` is one of the concurrency ids of `app.api`; None answers at once, outside the queue.
    """

    def handle(event: gr.EventData) -> str:
        return _packed(event.id, lambda: answer(event.ask))

    channel = _component(name)
    _listen(channel.send, handle, channel, name, group)


def add_stream(
    name: str, answers: Callable[[Ask], Generator[dict[str, Any]]], *, group: str
) -> None:
    """A channel that gives answers that grow, and one named `stop-<name>` that ends them early.

    The stream ends itself at the next answer and says so. Gradio's own cancelling would race with
    answers on their way and with a next question.
    """
    stopped = _Stopped()

    def handle(event: gr.EventData, request: gr.Request) -> Iterator[str]:
        last: dict[str, Any] = {"id": event.id, "final": True}
        try:
            with closing(answers(event.ask)) as growing:
                for answer in growing:
                    yield _text({**answer, "id": event.id, "final": False})
                    if stopped.take(request.session_hash, event.id):
                        last["stopped"] = True
                        break
        except ValueError as error:
            last["error"] = str(error)
        except Exception:
            log.exception("channel %s", name)
            last["error"] = FAILED
        yield _text(last)

    def stop(event: gr.EventData, request: gr.Request) -> str:
        stopped.add(request.session_hash, event.ask["stop"])
        return _text({"id": event.id, "final": True})

    channel = _component(name)
    _listen(channel.send, handle, channel, name, group)
    stopping = _component(f"stop-{name}")
    _listen(stopping.send, stop, stopping, f"stop-{name}", None)


class _Stopped:
    """Questions that somebody has stopped, until their stream has noticed; the latest 1,000."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._questions: dict[tuple[str | None, int], None] = {}

    def add(self, session: str | None, question: int) -> None:
        with self._lock:
            self._questions[session, question] = None
            while len(self._questions) > 1000:
                del self._questions[next(iter(self._questions))]

    def take(self, session: str | None, question: int) -> bool:
        with self._lock:
            found = (session, question) in self._questions
            self._questions.pop((session, question), None)
            return found


def _component(name: str) -> gr.HTML:
    # 'send' stands in quotes for Gradio to make it an event.
    script = f"window.jumpscope.connect('{name}', 'send', trigger, props, watch)"
    return gr.HTML(
        "",
        html_template="",
        js_on_load=script,
        apply_default_css=False,
        elem_classes="channel",
    )


def _listen(
    event: Any, handle: Callable[..., Any], channel: gr.HTML, name: str, group: str | None
) -> None:
    limits: dict[str, Any] = {"queue": False}
    if group is not None:
        limits = {"concurrency_id": group, "concurrency_limit": api.LIMITS[group]}
    listener = event(
        handle,
        None,
        channel,
        trigger_mode="multiple",
        show_progress="hidden",
        api_visibility="private",
        **limits,
    )
    listener.failure(
        None, None, None, js=f"() => window.jumpscope.failed('{name}')", api_visibility="private"
    )


def _packed(id_: int, answer: Callable[[], dict[str, Any]]) -> str:
    try:
        return _text({**answer(), "id": id_, "final": True})
    except ValueError as error:
        return _text({"id": id_, "final": True, "error": str(error)})
    except Exception:
        log.exception("a page's question failed")
        return _text({"id": id_, "final": True, "error": FAILED})


def _text(answer: dict[str, Any]) -> str:
    try:
        return json.dumps(answer, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError as error:  # ours, not a user's: it must not be shown as a sentence
        raise RuntimeError("an answer is not JSON") from error
