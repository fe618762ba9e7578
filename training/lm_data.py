"""Tokenizer and training rows of the demo language model.

The corpus becomes one stream, `<bos> document <eos> <bos> document <eos> ...`, kept in memory at
two bytes a token. A row is BOS and `context` tokens of the stream; a model reads all but the last
and predicts all but the first. Each epoch cuts the stream at another offset and shuffles the rows.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sae_core.corpus import documents

PAD, EOS, BOS, UNK = "<pad>", "<eos>", "<bos>", "<unk>"
"""Special tokens; their ids are 0, 1, 2 and 3, as in Gemma."""

# GPT-4's split, less eager: a word takes only a space with it (not a quote or a bracket), and
# digits go in pairs, because a small vocabulary has better uses for its entries.
_SPLIT = (
    r"['’](?i:[sdmt]|ll|ve|re)(?!\p{L})| ?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LONGEST_ENTRY = 16  # characters: rulers of dashes should not fill the vocabulary
_DOCUMENTS_AT_ONCE = 1024


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, max_positions: int
) -> PreTrainedTokenizerFast:
    """Byte-level BPE that loses nothing: decoding gives the text back byte for byte.

    A text gets exactly one BOS. Raises ValueError where the vocabulary has no room for the
    special tokens and 256 bytes, where ids would not fit 16 bits, or where text is lacking.
    """
    smallest = 256 + 4
    if not smallest <= vocab_size <= 2**15:
        raise ValueError(f"vocab_size is {vocab_size}: choose {smallest} to {2**15}.")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS, BOS, UNK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=_LONGEST_ENTRY,
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    if bpe.get_vocab_size() < vocab_size:
        raise ValueError(
            f"the corpus is too small for a vocabulary of {vocab_size}: it gave "
            f"{bpe.get_vocab_size()} entries; lower vocab_size or add text."
        )
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B:1", special_tokens=[(BOS, 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=EOS,
        bos_token=BOS,
        unk_token=UNK,
        model_max_length=max_positions,
        clean_up_tokenization_spaces=False,
    )


def token_stream(paths: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """The corpus as one stream of token ids, int16: BOS, document, EOS, BOS, document, EOS ...

    Tokenised on all cores. A special token's name in the text is text.
    """
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.encode_special_tokens = True
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    parts: list[np.ndarray] = []
    texts = (document.text for document in documents(paths))
    while chunk := list(itertools.islice(texts, _DOCUMENTS_AT_ONCE)):
        for encoding in backend.encode_batch_fast(chunk, add_special_tokens=False):
            parts.append(np.array([bos, *encoding.ids, eos], dtype=np.int16))
    if not parts:
        raise ValueError(f"the corpus {', '.join(paths)} holds no text: check the path.")
    return np.concatenate(parts)


class TokenRows:
    """Rows cut from a stream of tokens, on the device that trains: int64 `[rows, 1 + context]`."""

    def __init__(
        self, stream: np.ndarray, context: int, bos: int, device: torch.device | str = "cpu"
    ) -> None:
        # Two spare tokens: a row that would start with the stream's own BOS starts one later.
        if len(stream) < context + 2:
            raise ValueError(
                f"the corpus has {len(stream)} tokens, too few for a row of {context}: add text."
            )
        self.tokens = len(stream)
        self.device = torch.device(device)
        self._stream = torch.from_numpy(stream).to(device)
        self._context = context
        self._bos = bos
        self._within = torch.arange(context, device=device)

    def cut(self, starts: Int[Tensor, " rows"]) -> Int[Tensor, "rows tokens"]:
        """BOS and `context` tokens of the stream from each start on; never BOS twice."""
        starts = starts + (self._stream[starts] == self._bos)
        body = self._stream[starts[:, None] + self._within].long()  # rows, context
        return torch.cat([torch.full_like(body[:, :1], self._bos), body], dim=1)

    def starts(self, offset: int = 0) -> Int[Tensor, " rows"]:
        """Where the rows of one pass start, in the stream's order, when it is cut at `offset`."""
        rows = (self.tokens - 1 - offset) // self._context
        return offset + torch.arange(rows, device=self._stream.device) * self._context

    def in_order(self, rows: int) -> Iterator[Int[Tensor, "rows tokens"]]:
        """One pass in order, `rows` at a time; the last may be smaller."""
        for starts in self.starts().split(rows):
            yield self.cut(starts)

    def shuffled(self, rows: int, seed: int) -> Iterator[Int[Tensor, "rows tokens"]]:
        """Epoch after epoch without end, `rows` at a time; what fills no batch is left out."""
        if rows > self.tokens // self._context - 1:  # the fewest that an epoch can have
            raise ValueError(
                f"the corpus has {self.tokens} tokens, too few for a batch of {rows} rows of "
                f"{self._context}: add text or lower batch_rows."
            )
        generator = torch.Generator().manual_seed(seed)
        while True:
            offset = int(torch.randint(self._context, (), generator=generator))
            starts = self.starts(offset)
            order = torch.randperm(len(starts), generator=generator).to(starts.device)
            for chosen in order[: len(order) // rows * rows].split(rows):
                yield self.cut(starts[chosen])
