"""What an index says of an SAE whatever its text is: logits, neighbours, map, vocabulary.

It is made once, also where indexes of what has been read so far are written on the way: on a GPU on
a thread and a stream of its own, while the text is read, and elsewhere when it is first needed. Of
several processes each makes a share of the features' logits and neighbours.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from sae_core.index.decoder_arrays import decoder_arrays
from sae_core.index.feature_map import NEIGHBOURS, feature_map
from sae_core.index.index_config import IndexConfig
from sae_core.index.logits import ROWS, TopLogits, neighbours, top_logits
from sae_core.index.map_reader import FeatureMap
from sae_core.index.ranks import ALONE, Ranks
from sae_core.index.token_words import plain_forms
from sae_core.sae import SAE
from sae_core.tokens import special_ids, vocabulary

LISTED = 10
"""Tokens, sources, logits and neighbours listed per feature."""

_T = TypeVar("_T")


class Decoder(NamedTuple):
    """What the decoder rows say, on the CPU."""

    logits: TopLogits
    near: Tensor
    """`[d_sae, n]`: features of most similar direction, n being what the map takes."""
    cosine: Tensor


class Prepared:
    """These facts of one SAE; what making them raises is raised where they are asked for."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        sae: SAE,
        cfg: IndexConfig,
        vocab_size: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self._model, self._tokenizer, self._sae, self._cfg = model, tokenizer, sae, cfg
        self._vocab_size, self._ranks = vocab_size, ranks
        self._others: Sequence[dict[str, Tensor]] = ()
        self._made: dict[Callable[[], Any], Future[Any]] = {}
        self._thread: ThreadPoolExecutor | None = None

    def begin(self) -> None:
        """Make everything beside what comes next, on a GPU; of several processes what needs none of
        the others.
        """
        if self._sae.W_dec.is_cuda:
            self._thread = ThreadPoolExecutor(1, "prepared")
            if self._ranks.first:
                self._submit(self._vocabulary, self._plain_forms)
            self._submit(self._share)
            if self._ranks.world == 1:
                self._submit(self._decoder, self._arrays, self._map)

    def share(self) -> dict[str, Tensor]:
        """What this process makes of `decoder`: columns of the features that are its own, on the
        CPU; nothing if none are.
        """
        return self._get(self._share)

    def complete(self, others: Sequence[dict[str, Tensor]]) -> None:
        """Take the other processes' shares, in their order: the rest can be made from now on."""
        self._others = others
        self._submit(self._decoder, self._arrays, self._map)

    def vocabulary(self) -> tuple[list[bytes | None], list[str]]:
        """Of each token id its bytes, None where they are its text's, and its text."""
        return self._get(self._vocabulary)

    def plain_forms(self) -> list[str]:
        """How each token id is written where it stands alone."""
        return self._get(self._plain_forms)

    def decoder(self) -> Decoder:
        """What the decoder rows say."""
        return self._get(self._decoder)

    def arrays(self) -> list[dict[str, bytes]]:
        """Of each page of features what it says of the decoder rows, packed."""
        return self._get(self._arrays)

    def map(self) -> FeatureMap | None:
        """The map of features, None where none is wanted."""
        return self._get(self._map)

    def close(self) -> None:
        """End the thread, once it has finished what it is at."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _submit(self, *makes: Callable[[], Any]) -> None:
        if self._thread is not None:
            for make in makes:
                self._made[make] = self._thread.submit(self._beside, make)

    def _get(self, make: Callable[[], _T]) -> _T:
        if make not in self._made:
            future: Future[_T] = Future()
            future.set_result(make())
            self._made[make] = future
        return self._made[make].result()

    def _beside(self, make: Callable[[], _T]) -> _T:
        with torch.no_grad(), torch.cuda.device(self._sae.W_dec.device):
            # It is needed at the end: what the reading waits for now, it does not wait for then.
            stream = torch.cuda.Stream(priority=-1)
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                return make()

    def _vocabulary(self) -> tuple[list[bytes | None], list[str]]:
        vocab = vocabulary(self._tokenizer)
        # A model's vocabulary may be padded beyond its tokenizer's.
        vocab += [b""] * (self._vocab_size - len(vocab))
        texts = [word.decode(errors="replace") for word in vocab]
        both = zip(vocab, texts, strict=True)
        return [None if text.encode() == word else word for word, text in both], texts

    def _plain_forms(self) -> list[str]:
        return plain_forms(self.vocabulary()[1])

    def _share(self) -> dict[str, Tensor]:
        mine = self._ranks.share(self._sae.cfg.d_sae, ROWS)
        if not mine:
            return {}
        features = torch.arange(mine.start, mine.stop, device=self._sae.W_dec.device)
        # What takes more of a GPU's memory comes first, while little has been gathered there.
        near, cosine = neighbours(self._sae, max(LISTED, NEIGHBOURS), features)
        special = special_ids(self._tokenizer)
        logits = top_logits(self._model, self._sae, LISTED, special, features)
        return {"near": near, "cosine": cosine, **vars(logits)}

    def _decoder(self) -> Decoder:
        shares = [share for share in (self.share(), *self._others) if share]

        def joined(name: str) -> Tensor:
            parts = [share[name] for share in shares]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        logits = TopLogits(*(joined(f.name) for f in fields(TopLogits)))
        return Decoder(logits, joined("near"), joined("cosine"))

    def _arrays(self) -> list[dict[str, bytes]]:
        logits, near, cosine = self.decoder()
        return decoder_arrays(logits, near[:, :LISTED].numpy(), cosine[:, :LISTED].numpy())

    def _map(self) -> FeatureMap | None:
        _, near, cosine = self.decoder()
        return feature_map(self._sae, near, cosine, method=self._cfg.map, seed=self._cfg.seed)
