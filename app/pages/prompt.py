"""Prompt: what fires on a text or a conversation, and what the SAE costs there, token by token.

The server analyses a text once; colouring, choosing, sorting and hiding are the browser's
(static/js/prompt.js), so that they answer at once.
"""

from typing import Any, Final

from app import api
from app.pages.cards import add_cards
from app.pages.channel import Ask, add_channel
from app.pages.examples import prompts
from app.pages.given import add_chat, fields_html
from app.pages.layout import PROMPT, add_frame
from app.render import escape
from app.service import Service

_VIEWS: Final = (
    ("cost", "Cost of the SAE"),
    ("active", "Features active"),
    ("feature", "One feature"),
)
_SORTS: Final = (
    ("activation", "activation"),
    ("share", "share of maximum"),
    ("frequency", "rarity"),
)
_DIGITS: Final = 4
_TEXT_FIELD: Final = """<label class="vh" for="prompt-text">Text to analyse</label>
        <textarea id="prompt-text" rows="3" spellcheck="false"
          placeholder="Paste or type a text" aria-describedby="prompt-hint"></textarea>"""


def build(service: Service) -> None:
    """Add the page to the Blocks that is being built."""

    def analyse(ask: Ask) -> dict[str, Any]:
        found = service.prompt_features(ask["text"], ask["sae"], messages=ask["messages"])
        return {"analysis": _compact(found)}

    add_frame(PROMPT, service, _content(service), limit=service.settings.max_prompt_tokens)
    add_channel("analyse", analyse, group=api.ANALYSE)
    add_chat(service)
    add_cards(service)


def _compact(found: dict[str, Any]) -> dict[str, Any]:
    """The answer without what the browser can work out, activations to four digits."""
    tokens = [
        {key: value for key, value in row.items() if key != "active_features"}
        for row in found["tokens"]
    ]
    features = [
        {**row, "tokens": [[i, float(f"{act:.{_DIGITS}g}")] for i, act in row["tokens"]]}
        for row in found["features"]
    ]
    return {**found, "tokens": tokens, "features": features}


def _content(service: Service) -> str:
    views = "".join(
        f'<label><input type="radio" name="view" value="{value}"><span>{words}</span></label>'
        for value, words in _VIEWS
    )
    sorts = "".join(f'<option value="{value}">{words}</option>' for value, words in _SORTS)
    chips = "".join(
        f'<button type="button" class="chip" data-example="{escape(text)}">{escape(text)}</button>'
        for text in prompts(service)
    )
    return f"""
<h1>What fires on this text</h1>
<form id="prompt-form" class="ask">{fields_html(_TEXT_FIELD)}
  <button class="primary" aria-keyshortcuts="Control+Enter">Analyse</button>
</form>
<div id="problem"></div>
<div id="start">
  <p class="quiet" id="prompt-hint">At most {service.settings.max_prompt_tokens} tokens;
    Ctrl+Enter analyses.{" Or try one of these:" if chips else ""}</p>
  <div class="chips">{chips}</div>
</div>
<div id="result" hidden>
  <div data-doubt></div>
  <div class="panel"><dl class="stats" id="totals"></dl>
    <p class="to-reproduce" id="reproduce-totals"></p></div>
  <div class="between controls">
    <fieldset class="segments"><legend class="vh">Colour the tokens by</legend>{views}</fieldset>
    <p id="legend" class="quiet" aria-live="polite"></p>
  </div>
  <div class="two reading">
    <div id="tokens" class="panel tokens big" role="group"
      aria-label="Tokens; arrow keys move, Enter shows the features of one"></div>
    <aside id="selection" class="evidence" aria-label="Selected token and feature"></aside>
    <div class="all">
      <div class="between filters">
        <h2 id="features-title">Features on this text</h2>
        <label>sort by <select id="sort">{sorts}</select></label>
        <label class="slide">hide frequent
          <input type="range" id="hide" min="-3" max="0" step="0.1" value="0"
            aria-label="Hide features that fire on more than this share of tokens">
          <output id="hide-value" for="hide"></output></label>
      </div>
      <section class="panel scroll" aria-labelledby="features-title" id="text-features"></section>
      <div id="missing"></div>
    </div>
  </div>
</div>"""
