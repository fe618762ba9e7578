"""The running model of the app: a language model loaded once, SAEs while there is room for them.

An `Engine` may be used from several threads. Forwards take turns under the lock of `SplicedLM`, one
forward at a time, so that a steering run and a prompt analysis interleave instead of queueing.
"""

import logging
import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch

from app.engine import chat
from app.engine.indexes import no_site
from app.engine.memory import (
    free_and_total,
    gigabytes,
    give_back_free_pages,
    refused_when_full,
)
from app.engine.prompts import Prompt
from app.engine.sae_cache import SAECache
from app.requests import Message, RequestError
from app.settings import Settings
from sae_core.bundle import Bundle
from sae_core.placement import chosen_device, chosen_dtype, chosen_map
from sae_core.sae import tensor_shapes
from sae_core.shared_generation import SharedGeneration
from sae_core.sites import check_widths, site_device
from sae_core.splice import Analysis, SplicedLM
from sae_core.tokens import encode_text

log = logging.getLogger(__name__)

GIVE_BACK_SECONDS = 1.0
"""Least time between two times that free pages are given back; analyses leave many."""
GENERATION_SHARE = 0.25
"""Share of the memory that is free beside the model for the keys and values of steering runs."""
_NOWHERE = torch.device("meta")  # where accelerate keeps weights that it has put on a disk


class Engine:
    """Model, tokenizer and SAEs of a bundle, ready to run on the device of the settings."""

    def __init__(self, settings: Settings, bundle: Bundle) -> None:
        self._settings = settings
        self._bundle = bundle
        self.device = chosen_device(settings.device)
        self.dtype = chosen_dtype(settings.dtype, self.device)
        self.attention = settings.attention
        torch.set_num_threads(settings.threads or max(1, (os.cpu_count() or 1) // 2))
        with refused_when_full(
            f"The model does not fit into the memory of {self.device}: choose a smaller one, "
            "dtype bfloat16, or device cpu."
        ):
            model, tokenizer = bundle.load_model(
                self.dtype,
                self.device,
                device_map=chosen_map(settings.device_map),
                attention=settings.attention,
            )
            self.lm = SplicedLM(model, tokenizer, {})
        self.devices = sorted(
            {tensor.device for tensor in model.parameters()} - {_NOWHERE}, key=str
        )
        """Where the model's weights are: more than one if a device map has spread them."""
        context = getattr(model.config, "max_position_embeddings", None)
        self.context: int = context or settings.max_prompt_tokens + settings.max_new_tokens
        """Tokens the model can see at once, prompt and continuation together."""
        self.max_prompt_tokens = min(settings.max_prompt_tokens, self.context)
        self.chat = chat.ChatTemplate.of(tokenizer)
        """How conversations are written; None if this model has no chat template."""
        self.ends = self._ends()
        """Tokens that end a continuation."""
        self._longest_token = max(len(word) for word in self.lm.vocabulary)
        self.sae_cache = SAECache(
            self._sae_memory(),
            size=self._sae_bytes,
            load=self._load_sae,
            release=self.lm.remove,
            patience=settings.max_seconds,
            weights=self._weights,
        )
        free, _ = free_and_total(self.devices)
        self.generations = SharedGeneration(
            self.lm, int(free * GENERATION_SHARE), patience=float(settings.max_seconds)
        )
        """Steering runs, as one batch."""
        self._analyses: OrderedDict[tuple[Any, ...], Analysis] = OrderedDict()
        self._analyses_lock = threading.Lock()
        self._given_back = -math.inf
        log.info("model on %s in %s, %d threads", self.device, self.dtype, torch.get_num_threads())

    @property
    def model(self) -> Any:
        """The Hugging Face model."""
        return self.lm.model

    @contextmanager
    def spliced(self, names: Iterable[str]) -> Iterator[SplicedLM]:
        """Inside the block these SAEs of the bundle are ready in the model, and stay."""
        with self.sae_cache.leased(names):
            yield self.lm

    @contextmanager
    def reading(self, ids: list[int], names: Iterable[str]) -> Iterator[SplicedLM]:
        """`spliced`, for work on a text; RequestError where that needs more memory than is free."""
        with self._room_for(ids), self.spliced(names) as lm:
            yield lm

    def memory(self) -> dict[str, Any]:
        """Bytes on the devices: free, all, the model's, each loaded SAE's, and the SAEs' limit."""
        free, total = free_and_total(self.devices)
        tensors = [*self.model.parameters(), *self.model.buffers()]
        loaded = self.sae_cache.loaded()
        return {
            "device": ", ".join(map(str, self.devices)),
            "free": free,
            "total": total,
            "model": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
            "saes": [
                {"name": name, "bytes": size, "in_use": in_use}
                for name, (size, in_use) in loaded.items()
            ],
            "sae_limit": self.sae_cache.limit,
        }

    def _sae_memory(self) -> int:
        """Most bytes that SAEs may take together; see `Settings.max_sae_memory`."""
        chosen = int(self._settings.max_sae_memory * 10**9)
        return chosen or free_and_total(self.devices)[0] // 2

    def _sae_bytes(self, name: str) -> int:
        shapes = tensor_shapes(self._bundle.sae_config(name)).values()
        return sum(math.prod(shape) for shape in shapes) * torch.float32.itemsize

    def _weights(self, name: str) -> str:
        """Hash of an SAE's weights on the disk now; of those read last while they are written."""
        try:
            return self._bundle.content_hash(name)
        except (ValueError, OSError):
            return self._bundle.hashes.get(name, "")

    def _load_sae(self, name: str) -> str:
        """Put an SAE of the bundle into the model; the hash of its weights."""
        with refused_when_full(
            f"SAE {name} of {gigabytes(self._sae_bytes(name))} does not fit into the memory of "
            f"{self.device}: lower max_sae_memory, so that others make room, or choose a "
            "narrower SAE."
        ):
            cfg = self._bundle.sae_config(name)
            if cfg.site is None:
                raise ValueError(no_site(self._bundle, name).sentence)
            # Before gigabytes are read, and straight to where they belong.
            check_widths(self.model, cfg, f"SAE {name}")
            where = site_device(self.model, cfg.site)
            sae = self._bundle.load_sae(name, where)
            self.lm.add(name, sae)
            return sae.cfg.metadata.get("content_hash", "")

    def token_ids(self, text: str, name: str = "The prompt", field: str = "text") -> list[int]:
        """Ids of a text, with BOS where the tokenizer has one; `name` is what errors call it.

        RequestError about `field` for an empty or too long text. No token stands for more bytes
        than the longest of the vocabulary, so a text that cannot fit is refused without being
        tokenised.
        """
        if not text.strip():
            raise RequestError(f"{name} is empty: type some text first.", field)
        self._check_size([text], name, field)
        ids = encode_text(self.lm.tokenizer, text)
        self._check_length(ids, name, field)
        return ids

    def prompt(
        self,
        text: str,
        messages: Sequence[Message] | None = None,
        *,
        field: str = "text",
        name: str = "The prompt",
    ) -> Prompt:
        """What the model is to read: a text or, instead, the messages of a conversation.

        RequestError if they are wrong or too long, or if the model has no chat template; `field` is
        the text's parameter, and `name` what errors call it.
        """
        if messages is None:
            return Prompt(ids=self.token_ids(text, name, field), text=text)
        if text:
            raise RequestError(
                "Both a text and a conversation are given: leave one of them out.", field
            )
        if self.chat is None:
            raise RequestError(
                "This model's tokenizer brings no chat template, so it cannot read a conversation: "
                "give a text.",
                "messages",
            )
        written, name = chat.checked(messages), "The conversation"
        self._check_size([message["content"] for message in written], name, "messages")
        conversation = self.chat.encode(written)
        self._check_length(conversation.ids, name, "messages")
        return Prompt(ids=conversation.ids, conversation=conversation)

    def _check_size(self, texts: list[str], name: str, field: str) -> None:
        limit = self.max_prompt_tokens
        if sum(len(text.encode()) for text in texts) > limit * self._longest_token:
            raise RequestError(
                f"{name} is {sum(map(len, texts)):,} characters long, too long for the limit of "
                f"{limit:,} tokens: shorten it.",
                field,
            )

    def _check_length(self, ids: list[int], name: str, field: str) -> None:
        limit = self.max_prompt_tokens
        if len(ids) > limit:
            raise RequestError(
                f"{name} has {len(ids):,} tokens, more than the limit of {limit:,}: shorten it.",
                field,
            )

    def _ends(self) -> frozenset[int]:
        """EOS, what the model's own settings name beside it, and the end of a turn in a chat."""
        tokenizer = self.lm.tokenizer
        named = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        ends = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
        if self.chat is not None and self.chat.end is not None:
            ends.add(tokenizer.convert_tokens_to_ids(self.chat.end))
        return frozenset(ends - {None})

    def analyse(self, ids: list[int], sae: str, mean: np.ndarray | None) -> Analysis:
        """`SplicedLM.analyse`, remembering the latest texts.

        `mean` is what FVU's deviations are taken from, None for the text's own.
        """
        if sae not in self._bundle.hashes:
            with self.spliced([sae]):
                pass  # read once: loading it says the hash of its weights
        reference = None if mean is None else mean.tobytes()
        key = (sae, self._weights(sae), tuple(ids), reference)
        with self._analyses_lock:
            if key in self._analyses:
                self._analyses.move_to_end(key)
                return self._analyses[key]
        with self.reading(ids, [sae]) as lm:
            analysis = lm.analyse(ids, sae, None if mean is None else torch.tensor(mean))
        with self._analyses_lock:
            self._analyses[key] = analysis
            while self._analyses and self._keeps_too_much():
                self._analyses.popitem(last=False)
            if time.monotonic() - self._given_back > GIVE_BACK_SECONDS:
                give_back_free_pages()
                self._given_back = time.monotonic()
        return analysis

    def uniformity(self, ids: list[int], sae: str) -> float:
        """`sae_core.text_uniformity.uniformity_of_text`, of as many tokens as it takes."""
        from sae_core.text_uniformity import uniformity_of_text

        with self.reading(ids, [sae]) as lm:
            return uniformity_of_text(lm, ids, sae)[0]

    def _keeps_too_much(self) -> bool:
        """Whether there are more analyses than may be kept, or larger ones."""
        kept = [value for each in self._analyses.values() for value in vars(each).values()]
        size = sum(value.nbytes for value in kept if isinstance(value, np.ndarray))
        limit = self._settings.max_cached_megabytes * 1e6
        return len(self._analyses) > self._settings.cached_analyses or size > limit

    def pre_activations(
        self, ids: list[int], sae: str, feature: int
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Pre-activations and activations `[T]` of one feature, and its threshold."""
        with self.reading(ids, [sae]) as lm:
            pre_acts, acts = lm.pre_activations(ids, sae, [feature])
            threshold = float(lm.sae(sae).effective_threshold()[feature])
        return pre_acts[:, 0], acts[:, 0], threshold

    def _room_for(self, ids: list[int]) -> AbstractContextManager[None]:
        return refused_when_full(
            f"A text of {len(ids):,} tokens is too long for the memory of {self.device}: "
            "shorten it, or lower max_prompt_tokens and max_sae_memory."
        )
