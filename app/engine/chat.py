"""Conversations as users write them: the messages of a request, checked.

`assistant` is understood for `model`. How they become tokens is in `sae_core.chat_template`.
"""

from collections.abc import Sequence
from typing import Any, Final

from app.requests import Message, RequestError
from sae_core import chat_template
from sae_core.chat_template import IN_USER_TURN, NO_SYSTEM, Conversation

__all__ = ["IN_USER_TURN", "NO_SYSTEM", "ROLES", "ChatTemplate", "Conversation", "checked"]

ROLES: Final = {"user": "user", "model": "model", "assistant": "model", "system": "system"}
"""Roles as they may be written, and what we call them."""


class ChatTemplate(chat_template.ChatTemplate):
    """A model's chat template, for the messages of a request."""

    def encode(
        self, messages: Sequence[dict[str, Any]], *, opened: bool | None = None
    ) -> Conversation:
        """The same for `checked` messages; RequestError about a system turn that cannot be."""
        first = messages[0]
        if first["role"] == "system" and not first.get(IN_USER_TURN) and not self.has_system:
            raise RequestError(NO_SYSTEM, "messages.0")
        return super().encode(messages, opened=opened)


def checked(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Turns as the template takes them, roles by our names; RequestError about the first wrong one.

    A system message may come first; then user and model take turns.
    """
    assert messages, "a request's conversation has a message"
    turns: list[dict[str, Any]] = []
    for number, message in enumerate(messages, 1):
        field = f"messages.{number - 1}"
        role = ROLES[message.role]
        if not message.content.strip():
            raise RequestError(
                f"Message {number} is empty: type some text first.", f"{field}.content"
            )
        turn: dict[str, Any] = {"role": role, "content": message.content}
        if message.in_user_turn:
            if role != "system":
                raise RequestError(
                    f"Message {number} is no system text: only that can stand in the user's turn.",
                    f"{field}.{IN_USER_TURN}",
                )
            turn[IN_USER_TURN] = True
        if role == "system" and number > 1:
            raise RequestError(f"Message {number} is the system's: only the first can be.", field)
        if role != "system":
            after = turns[-1]["role"] if turns else "system"
            due = "model" if after == "user" else "user"
            if role != due:
                raise RequestError(
                    f"Message {number} must be the {due}'s: user and model take turns, the user "
                    "first.",
                    field,
                )
        turns.append(turn)
    if turns[-1]["role"] == "system":
        raise RequestError(
            "The system message is not followed by a turn of the user's: add one.", "messages"
        )
    return turns
