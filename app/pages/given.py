"""What the model is to read: a text or, where the model has a chat template, a conversation.

The fields of the pages that take either, and the channel that says whether the model chats;
static/js/given.js is the other end.
"""

from typing import Any

from app.pages.channel import Ask, add_channel
from app.service import Service


def add_chat(service: Service) -> None:
    """Add the channel `chat` to the page that is being built."""

    def chat(_ask: Ask) -> dict[str, Any]:
        """Whether prompts may be conversations, which the loaded tokenizer says."""
        return {"chat": service.chat()}

    add_channel("chat", chat)


def fields_html(text_field: str) -> str:
    """The choice, the field for a text, and those for the turns of a conversation."""
    return f"""
    <fieldset class="segments" id="kinds" hidden><legend class="vh">The prompt is</legend>
      <label><input type="radio" name="kind" value="text" checked><span>Text</span></label>
      <label><input type="radio" name="kind" value="chat"><span>Chat</span></label></fieldset>
    <div id="prompt-fields">
      <div id="as-text">{text_field}</div>
      <div id="as-chat" hidden><div id="turns"></div>
        <div class="buttons"><button type="button" id="add-turn">+ Add a turn</button>
          <button type="button" id="add-system">+ System text</button></div></div>
    </div>"""
