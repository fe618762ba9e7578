"""Steer: a prompt continued as it is and with features edited, side by side, as it is generated."""

import time
from collections.abc import Generator
from contextlib import closing
from typing import Any, Final

from app import api
from app.pages.cards import add_cards
from app.pages.channel import Ask, add_channel, add_stream
from app.pages.examples import steerings
from app.pages.given import add_chat, fields_html
from app.pages.layout import STEER, add_frame
from app.service import Service

FRAME_SECONDS: Final = 0.05
"""Least time between two updates of the page; a token takes less, and each update costs some."""

DEFAULT_PROMPT: Final = "The old man walked into the"
DEFAULT_QUESTION: Final = "What is the best way to spend a Sunday?"

_TEXT_FIELD: Final = """<label for="steer-prompt">Prompt</label>
        <textarea id="steer-prompt" rows="3" spellcheck="false"></textarea>"""


def build(service: Service) -> None:
    """Add the page to the Blocks that is being built."""
    settings = service.settings

    def steer(ask: Ask) -> Generator[dict[str, Any]]:
        run = service.steer_stream(
            ask.get("prompt"),
            ask["edits"],
            ask["sae"],
            ask["max_new_tokens"],
            ask["temperature"],
            ask["seed"],
            ask.get("messages"),
        )
        return _frames(run)

    def look_up(ask: Ask) -> dict[str, Any]:
        """What the page says beside a feature's number, and suggestions for words."""
        found = service.search_features(ask["sae"], ask["query"], limit=8)
        return {"features": found["features"]}

    def ideas(ask: Ask) -> dict[str, Any]:
        return {"ideas": steerings(service) or _from_features(service, ask["sae"])}

    prompts = [run["prompt"] for run in steerings(service) if "prompt" in run]
    add_frame(
        STEER,
        service,
        _content(service),
        prompt=prompts[0] if prompts else DEFAULT_PROMPT,
        question=DEFAULT_QUESTION,
        most_edits=settings.max_edits,
    )
    add_stream("steer", steer, group=api.GENERATE)
    add_channel("look-up", look_up)
    add_channel("ideas", ideas)
    add_chat(service)
    add_cards(service)


def _frames(run: Generator[dict[str, Any]]) -> Generator[dict[str, Any]]:
    """The first, the last and not too many between; closing this closes the run."""
    sent = 0.0
    with closing(run):
        for grown in run:
            if grown["done"] or time.monotonic() - sent >= FRAME_SECONDS:
                sent = time.monotonic()
                yield {"run": _compact(grown)}


def _compact(grown: dict[str, Any]) -> dict[str, Any]:
    """What the page draws of a run."""

    def tokens(arm: str) -> list[dict[str, Any]]:
        return [{key: row[key] for key in ("text", "own", "after")} for row in grown[arm]]

    given = grown["prompt_tokens"]
    turns = grown.get("turns")
    return {
        "prompt": "".join(row["text"] for row in given if not row["special"]),
        "conversation": turns and {"turns": turns, "tokens": [_turn_token(row) for row in given]},
        "base": tokens("base"),
        "steered": tokens("steered"),
        "edits": grown["edits"],
        "limit": grown["settings"]["max_new_tokens"],
        "done": grown["done"],
        "note": grown["note"],
    }


def _turn_token(row: dict[str, Any]) -> tuple[str, int, int]:
    """Text, turn, and 0 for its author's own, 1 for the template's, 2 for a special token."""
    return row["text"], row["turn"], 2 if row["special"] else int(row["template"])


def _from_features(service: Service, sae: object) -> list[dict[str, Any]]:
    """Ideas for a bundle that brings none: its features worth opening, switched on."""
    data = service.overview(sae)
    return [
        {
            "title": f"#{item['feature']} {item['signature']}",
            "sae": data["sae"],
            "prompt": DEFAULT_PROMPT,
            "edits": [{"feature": item["feature"], "mode": "set", "strength": 1.0}],
        }
        for item in data["highlights"][:4]
    ]


def _content(service: Service) -> str:
    settings = service.settings
    tokens = min(60, settings.max_new_tokens)
    return f"""
<h1>Clamp features and read on</h1>
<div class="two reversed">
  <form id="steer-form" class="panel" novalidate>
    {fields_html(_TEXT_FIELD)}
    <h2>Edits</h2>
    <div id="edits"></div>
    <button type="button" id="add-edit">+ Add a feature</button>
    <h2>Sampling</h2>
    <div class="sampling">
      <label>new tokens <input id="steer-tokens" type="number" min="1"
        max="{settings.max_new_tokens}" step="1" value="{tokens}"></label>
      <label>temperature <input id="steer-temperature" type="number" min="0"
        max="{settings.max_temperature:g}" step="0.1" value="0.8"></label>
      <label>seed <input id="steer-seed" type="number" min="0" step="1" value="0"></label>
    </div>
    <div class="buttons">
      <button class="primary" id="generate">Generate</button>
      <button type="button" id="stop" disabled>Stop</button>
      <button type="button" id="copy-link">Copy link</button>
    </div>
    <details id="json"><summary>Settings as JSON</summary>
      <label class="vh" for="json-text">Settings as JSON</label>
      <textarea id="json-text" class="mono" rows="9" spellcheck="false"></textarea>
      <div class="buttons"><button type="button" id="json-copy">Copy</button>
        <button type="button" id="json-apply">Use these</button></div>
      <div id="json-problem"></div>
    </details>
  </form>
  <div id="steered">
    <div id="problem"></div>
    <div id="ideas"></div>
    <div id="run" hidden>
      <div data-doubt></div>
      <div class="between"><p id="run-status" class="quiet" role="status"></p>
        <label class="quiet">colour: own activation of <span id="watch-one"></span>
          <select id="watch" hidden></select></label></div>
      <div id="conversation" class="panel" role="group" aria-label="Conversation" hidden></div>
      <div class="arms">
        <section class="panel" aria-labelledby="base-title">
          <h2 class="in-panel" id="base-title">As it is</h2>
          <div id="base" class="tokens" data-steps="span[data-tip]" tabindex="0"
            aria-label="Continuation as it is"></div>
          <button type="button" class="plain" data-carry-on="base" hidden>Continue with this
            answer</button></section>
        <section class="panel" aria-labelledby="steered-title">
          <h2 class="in-panel" id="steered-title">Steered</h2>
          <div id="with-edits" class="tokens" data-steps="span[data-tip]" tabindex="0"
            aria-label="Steered continuation"></div>
          <button type="button" class="plain" data-carry-on="steered" hidden>Continue with this
            answer</button></section>
      </div>
      <p id="new-token" class="quiet" aria-live="polite"></p>
      <p id="edit-summary" class="quiet"></p>
      <p class="quiet">Only the edits differ: same seed, same sampler. The part of the activation
        that the SAE does not explain is kept.</p>
    </div>
  </div>
</div>"""
