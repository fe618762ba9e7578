"""Conversations as token ids, by the chat template that comes with a model's tokenizer.

The template is rendered around placeholders and the turns' texts are put in afterwards, so nothing
in a text can be taken for markup: one that spells `<end_of_turn>` is that text, tokenised as such.
The model's own turns have the role `model`, which templates call `assistant`.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jinja2 import TemplateError

from sae_core.plain_text import normalised

log = logging.getLogger(__name__)

NO_SYSTEM: Final = (
    "This model's chat template has no system turn: let the system text stand in the user's turn "
    "(in_user_turn), or leave it out."
)
IN_USER_TURN: Final = "in_user_turn"

# A space that no template writes, so that one trimmed away is missed; private-use characters.
_PADDING, _OPEN, _CLOSE = "\u2003", "\ue000", "\ue001"
_PLACE = re.compile(f"({_PADDING}?){_OPEN}([0-9]+){_CLOSE}({_PADDING}?)")


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Messages as the model reads them; lists over tokens have the length of `ids`."""

    messages: list[dict[str, Any]]
    """As written, roles by our names."""
    turns: list[str]
    """The role of each turn; the last is the model's if it is the model's turn to write."""
    ids: list[int]
    turn: list[int]
    """The turn that each token belongs to."""
    template: list[bool]
    """Whether the template wrote the token, not a turn's author."""

    @property
    def is_open(self) -> bool:
        """Whether it is the model's turn to write."""
        return self.messages[-1]["role"] == "user"


@dataclass(frozen=True)
class _Part:
    """Text of one author within the rendered conversation."""

    text: str
    turn: int
    template: bool


@dataclass(frozen=True, kw_only=True)
class _Rendered:
    """A template around the places of some texts."""

    literals: list[str]
    """What it writes before, between and after them."""
    order: list[int]
    """Which text stands at each place."""
    trims: list[tuple[bool, bool]]
    """Whether it takes away white space before and after that text."""


class ChatTemplate:
    """How a model's conversations are written; see `ChatTemplate.of`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        flagged = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
        names = sorted({*tokenizer.all_special_tokens, *flagged}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, names)))
        closing = self._rendered(["user", "model"], opened=False).literals[-1]
        end = self._special.search(closing)
        self.end: str | None = end[0] if end else None
        """The special token that ends a turn of the model; None if the template has none."""
        self.has_system = self._writes_system()
        """Whether there are system turns."""

    @classmethod
    def of(cls, tokenizer: Any) -> "ChatTemplate | None":
        """The tokenizer's chat template; None if it has none, or one for other than plain texts.

        Tokenizers that do not say where in a text their tokens stand ("slow" ones) have none here.
        """
        if not tokenizer.chat_template or not tokenizer.is_fast:
            return None
        try:
            return cls(tokenizer)
        except ValueError as error:
            log.warning("prompts cannot be conversations: %s", error)
            return None

    def encode(
        self, messages: Sequence[dict[str, Any]], *, opened: bool | None = None
    ) -> Conversation:
        """Token ids of messages, after exactly one BOS if the tokenizer has one.

        Each has a `role`, and a `content` that is `normalised`; a first system message with
        `in_user_turn` stands in the user's turn. The beginning of a turn of the model's follows if
        `opened`; None: if the user spoke last. ValueError if the template cannot hold the
        conversation.
        """
        spoken = _merged(messages)
        if spoken[0]["role"] == "system" and not self.has_system:
            raise ValueError(NO_SYSTEM)
        roles = [message["role"] for message in spoken]
        models_turn = roles[-1] == "user" if opened is None else opened
        texts = [normalised(message["content"]) for message in spoken]
        parts = self._parts(roles, texts, opened=models_turn)
        ids, owners = self._tokens(parts)
        bos = self._tokenizer.bos_token_id
        if bos is not None and ids[:1] != [bos]:
            ids, owners = [bos, *ids], [_Part("", 0, True), *owners]
        return Conversation(
            messages=list(messages),
            turns=roles + ["model"] * models_turn,
            ids=ids,
            turn=[owner.turn for owner in owners],
            template=[owner.template for owner in owners],
        )

    def _writes_system(self) -> bool:
        try:
            self._rendered(["system", "user"], opened=True)
        except ValueError:
            return False
        return True

    def _rendered(self, roles: Sequence[str], *, opened: bool) -> _Rendered:
        """What the template makes of texts by these roles; ValueError if it refuses them."""
        names = {"model": "assistant"}
        messages = [
            {"role": names.get(role, role), "content": f"{_PADDING}{_OPEN}{n}{_CLOSE}{_PADDING}"}
            for n, role in enumerate(roles)
        ]
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=opened
            )
        except (TemplateError, TypeError) as error:
            raise ValueError(f"The chat template refuses this conversation: {error}.") from error
        places = list(_PLACE.finditer(text))
        order = [int(place[2]) for place in places]
        if sorted(order) != list(range(len(roles))):
            raise ValueError("The chat template leaves out or repeats a turn of this conversation.")
        edges = [0, *(edge for place in places for edge in place.span()), len(text)]
        return _Rendered(
            literals=[text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)],
            order=order,
            trims=[(not place[1], not place[3]) for place in places],
        )

    def _parts(self, roles: list[str], texts: list[str], *, opened: bool) -> list[_Part]:
        rendered = self._rendered(roles, opened=opened)
        following = [*rendered.order[1:], len(texts) if opened else rendered.order[-1]]
        parts = [_Part(rendered.literals[0], rendered.order[0], True)]
        for turn, following_turn, literal, (left, right) in zip(
            rendered.order, following, rendered.literals[1:], rendered.trims, strict=True
        ):
            text = texts[turn]
            text = text.lstrip() if left else text
            text = text.rstrip() if right else text
            closing, opening = self._split(literal)
            parts.append(_Part(text, turn, False))
            parts.append(_Part(closing, turn, True))
            parts.append(_Part(opening, following_turn, True))
        return parts

    def _split(self, literal: str) -> tuple[str, str]:
        """What ends a turn, and what begins the next one."""
        if not self.end or self.end not in literal:
            return "", literal
        opening = literal.partition(self.end)[2].lstrip()
        return literal[: len(literal) - len(opening)], opening

    def _tokens(self, parts: list[_Part]) -> tuple[list[int], list[_Part]]:
        """Token ids, and the part that each belongs to."""
        ids: list[int] = []
        owners: list[_Part] = []
        for text, ordinary, by_character in self._runs(parts):
            encoded = self._tokenizer(
                text,
                add_special_tokens=False,
                split_special_tokens=ordinary,
                return_attention_mask=False,
                return_offsets_mapping=True,
                verbose=False,
            )
            ids += encoded["input_ids"]
            for start, end in encoded["offset_mapping"]:
                inside = by_character[start:end] or by_character[-1:]
                # A token that reaches into a text counts as the text's.
                owners.append(next((part for part in inside if not part.template), inside[0]))
        return ids, owners

    def _runs(self, parts: list[_Part]) -> Iterator[tuple[str, bool, list[_Part]]]:
        """The conversation in pieces to tokenise: text, whether special tokens spelt in it are
        ordinary text, and the part of each of its characters.

        It is one piece, tokenised as in training, unless a text spells a special token: then it is
        cut at the template's own ones, and tokenizers that begin every text with a space (Llama
        2's) begin every piece with one.
        """
        whole = "".join(part.text for part in parts)
        owners = [part for part in parts for _ in part.text]
        spelt = [match.span() for match in self._special.finditer(whole)]
        markup = [(a, b) for a, b in spelt if all(part.template for part in owners[a:b])]
        if len(markup) == len(spelt):
            yield whole, False, owners
            return
        at = 0
        for a, b in [*markup, (len(whole), len(whole))]:
            if at < a:
                yield whole[at:a], True, owners[at:a]
            if a < b:
                yield whole[a:b], False, owners[a:b]
            at = b


def _merged(messages: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The turns: a system text that its author wants there stands before the first user's."""
    first = messages[0]
    if not first.get(IN_USER_TURN):
        return messages
    both = f"{first['content']}\n\n{messages[1]['content']}"
    return [{**messages[1], "content": both}, *messages[2:]]
