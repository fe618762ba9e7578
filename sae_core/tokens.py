"""Text to token ids and token ids to text, one string a token."""

import codecs
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from unicodedata import category

from sae_core.plain_text import normalised, pieces

SPACE = "▁"  # SentencePiece's mark for a space

_CHARACTERS_AT_ONCE = 2**22
"""Characters of the texts that are tokenised together."""


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids that count in no statistic: BOS, EOS, padding and the tokenizer's other specials.

    Not all of them have a name: markers of a chat's turns often are only added and flagged.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    flagged = (i for i, token in added.items() if token.special)
    return frozenset(int(i) for i in (*tokenizer.all_special_ids, *flagged))


def encode_text(tokenizer: Any, text: str, *, max_tokens: int | None = None) -> list[int]:
    """Token ids of `text`, after exactly one BOS if the tokenizer has one.

    The text's line ends and a leading byte order mark are `normalised`. `max_tokens` counts BOS and
    cuts from the right. Text that spells a special token, `<bos>`, is
    the user's text and is tokenised as such.
    """
    ids: list[int] = ordinary_ids(tokenizer, [text])[0]
    if tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id, *ids]
    return ids[:max_tokens]


def ordinary_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each `normalised` text without BOS, in parallel where the tokenizer can.

    Time and memory beside the ids are bounded: long texts are tokenised in `pieces`.
    """

    def tokenize(some: Sequence[str]) -> list[list[int]]:
        return _encoded(tokenizer, some)

    ids: list[list[int]] = [[] for _ in texts]
    waiting: list[tuple[int, str]] = []
    size = 0

    def flush() -> None:
        for (number, _), own in zip(waiting, tokenize([text for _, text in waiting]), strict=True):
            ids[number] += own
        waiting.clear()

    for number, text in enumerate(texts):
        for piece in pieces(normalised(text), tokenize):
            if size + len(piece) > _CHARACTERS_AT_ONCE:
                flush()
                size = 0
            waiting.append((number, piece))
            size += len(piece)
    flush()
    return ids


def _encoded(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        # Lists nobody reads would take as long to make as the ids.
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return encoded["input_ids"]


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte, inverted."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    stand_ins = {chr(b): b for b in printable}
    others = [b for b in range(256) if b not in set(printable)]
    return stand_ins | {chr(256 + n): b for n, b in enumerate(others)}


def vocabulary(tokenizer: Any) -> list[bytes]:
    """The bytes that each id stands for; a special token stands for its own name.

    Knows byte-level BPE (GPT-2, Llama 3, Qwen, our demo) and SentencePiece with byte fallback
    (Gemma, Llama 2, Mistral).
    """
    size = len(tokenizer)
    names: list[str | None] = tokenizer.convert_ids_to_tokens(list(range(size)))
    added = {int(i) for i in getattr(tokenizer, "added_tokens_decoder", {})}
    specials = special_ids(tokenizer)
    alphabet = _byte_alphabet()
    ordinary = [n for i, n in enumerate(names) if n is not None and i not in added]
    byte_level = not any(SPACE in n for n in ordinary)
    spelled = []
    for i, name in enumerate(names):
        if name is None:
            spelled.append(b"")
        elif i in specials:
            spelled.append(name.encode())
        elif i in added:
            # Gemma's runs of spaces are added tokens that are not special.
            spelled.append((name if byte_level else name.replace(SPACE, " ")).encode())
        elif byte_level:
            if all(c in alphabet for c in name):
                spelled.append(bytes(alphabet[c] for c in name))
            else:
                spelled.append(name.encode())
        elif len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            spelled.append(bytes([int(name[3:5], 16)]))
        else:
            spelled.append(name.replace(SPACE, " ").encode())
    return spelled


def token_texts(ids: Sequence[int], vocab: Sequence[bytes]) -> list[str]:
    """One string for each token; joined they are the text.

    A character whose bytes are spread over several tokens appears whole at the last of them, the
    others get an empty string; bytes that are no UTF-8 appear as U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    texts = [decoder.decode(vocab[i]) for i in ids]
    if texts:
        texts[-1] += decoder.decode(b"", final=True)
    return texts


def partial_bytes(ids: Sequence[int], texts: Sequence[str], vocab: Sequence[bytes]) -> list[str]:
    """For each token whose text, of `token_texts`, shows no character: its bytes, such as "F0 9F".

    "" for all others. Those are tokens that end within a character, bytes that are no UTF-8, and
    characters without a glyph, such as a zero-width joiner.
    """
    return [
        "" if any(map(_is_drawn, text)) else vocab[i].hex(" ").upper()
        for i, text in zip(ids, texts, strict=True)
    ]


def _is_drawn(character: str) -> bool:
    """Whether a character takes room on a line; spaces, tabs and line breaks count."""
    if character in " \t\n":
        return True
    unseen = ("Cc", "Cf", "Cn", "Zl", "Zp")
    return character != "\N{REPLACEMENT CHARACTER}" and category(character) not in unseen


class TokenStream:
    """`token_texts` for ids that arrive one by one, as in generation."""

    def __init__(self, vocab: Sequence[bytes]) -> None:
        self._vocab = vocab
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that this token completes."""
        return self._decoder.decode(self._vocab[token_id])
