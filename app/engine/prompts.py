"""What the model is given to read: a text, or a conversation by its chat template."""

from dataclasses import dataclass
from typing import Any

from app.engine.chat import Conversation


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Token ids, and what they were written as."""

    ids: list[int]
    text: str = ""
    """Empty for a conversation."""
    conversation: Conversation | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is the model's turn to write."""
        return self.conversation is None or self.conversation.is_open

    def as_written(self, name: str) -> dict[str, Any]:
        """The argument that it came from: a text called `name`, or messages."""
        if self.conversation is None:
            return {name: self.text}
        return {"messages": self.conversation.messages}

    def as_answered(self, name: str) -> dict[str, Any]:
        """`as_written`, and for a conversation `turns`: the role of each turn."""
        turns = {} if self.conversation is None else {"turns": self.conversation.turns}
        return {**self.as_written(name), **turns}

    def marked(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows of its tokens; those of a conversation with `turn`, and `template`: whether the
        chat template wrote the token."""
        said = self.conversation
        if said is None:
            return rows
        return [
            {**row, "turn": turn, "template": template}
            for row, turn, template in zip(rows, said.turn, said.template, strict=True)
        ]
