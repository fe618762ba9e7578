"""Conversations of a corpus: what a column of messages holds, and its tokens."""

import json
from collections.abc import Sequence
from typing import Any

from sae_core.chat_template import IN_USER_TURN, ChatTemplate

Turn = dict[str, Any]

_ROLES = {"assistant": "model", "gpt": "model", "human": "user"}
"""Other words for the roles that `sae_core.chat_template` has."""
_KEYS = (("role", "content"), ("from", "value"))


def is_conversations(column_type: str) -> bool:
    """Whether a column of this DuckDB type can hold conversations: lists of records, or JSON."""
    return column_type == "JSON" or (
        column_type.startswith("STRUCT(") and column_type.endswith("[]")
    )


def turns(value: Any) -> list[Turn]:
    """Role and content of each message; an empty list for none.

    `value` is a list of records with `role` and `content` (or `from` and `value`), or its JSON. A
    content in parts counts with its texts. Raises ValueError for anything else.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise ValueError(f"{_short(value)} is no list of messages.") from None
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{_short(value)} is no list of messages.")
    return [_turn(message) for message in value]


def _turn(message: Any) -> Turn:
    if isinstance(message, dict):
        for role_key, content_key in _KEYS:
            role, content = message.get(role_key), _text(message.get(content_key))
            if isinstance(role, str) and content is not None:
                return {"role": _ROLES.get(role, role), "content": content}
    raise ValueError(f"{_short(message)} is no message: it needs a role and a content of text.")


def _text(content: Any) -> str | None:
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        whole = len(texts) == len(content) and all(isinstance(text, str) for text in texts)
        return "".join(map(str, texts)) if whole else None
    return content if isinstance(content, str) else None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def conversation_ids(template: ChatTemplate, messages: Sequence[Turn]) -> list[int]:
    """Token ids of a conversation, after exactly one BOS if the tokenizer has one.

    The markers of turns are special tokens. Where the template has no system turn, a system text
    stands before the first user's. Nothing is added after the last turn. ValueError if the template
    cannot hold the conversation.
    """
    first, *others = messages
    if first["role"] == "system" and not template.has_system:
        if not others:
            raise ValueError("It is a system text alone.")
        first = {**first, IN_USER_TURN: True}
    return template.encode([first, *others], opened=False).ids
