"""The running model of the app: a language model loaded once, SAEs loaded when first asked for.

An `Engine` may be used from several threads. Forwards take turns under the lock of `SplicedLM`, one
forward at a time, so that a steering run and a prompt analysis interleave instead of queueing.
"""

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from app.checks import text as checked_text
from app.settings import Settings
from sae_core.bundle import Bundle
from sae_core.placement import chosen_device, chosen_dtype
from sae_core.sae import SAE
from sae_core.splice import Analysis, SplicedLM
from sae_core.tokens import encode_text

log = logging.getLogger(__name__)


class Engine:
    """Model, tokenizer and SAEs of a bundle, ready to run on the device of the settings."""

    def __init__(self, settings: Settings, bundle: Bundle) -> None:
        self._settings = settings
        self._bundle = bundle
        self.device = chosen_device(settings.device)
        self.dtype = chosen_dtype(settings.dtype, self.device)
        torch.set_num_threads(settings.threads or max(1, (os.cpu_count() or 1) // 2))
        model, tokenizer = bundle.load_model(self.dtype, self.device)
        self.lm = SplicedLM(model, tokenizer, {})
        context = getattr(model.config, "max_position_embeddings", None)
        self.context: int = context or settings.max_prompt_tokens + settings.max_new_tokens
        """Tokens the model can see at once, prompt and continuation together."""
        self.max_prompt_tokens = min(settings.max_prompt_tokens, self.context)
        self._longest_token = max(len(word) for word in self.lm.vocabulary)
        self._loading = threading.Lock()
        self._loaded: dict[str, SAE] = {}
        self._analyses: OrderedDict[tuple[str, tuple[int, ...]], Analysis] = OrderedDict()
        self._analyses_lock = threading.Lock()
        log.info("model on %s in %s, %d threads", self.device, self.dtype, torch.get_num_threads())

    @property
    def model(self) -> Any:
        """The Hugging Face model."""
        return self.lm.model

    def sae(self, name: str) -> SAE:
        """An SAE of the bundle, spliced in from its first use on."""
        with self._loading:
            if name not in self._loaded:
                sae = self._bundle.load_sae(name, self.device)
                self.lm.add(name, sae)
                self._loaded[name] = sae
            return self._loaded[name]

    def spliced(self, names: Iterable[str]) -> SplicedLM:
        """The model, with these SAEs of the bundle ready in it."""
        for name in names:
            self.sae(name)
        return self.lm

    def token_ids(self, text: object, name: str = "The prompt") -> list[int]:
        """Ids of a text, with BOS where the tokenizer has one; `name` is what errors call it.

        ValueError for an empty or too long text. No token stands for more bytes than the longest
        of the vocabulary, so a text that cannot fit is refused without being tokenised.
        """
        written = checked_text(text, name)
        limit = self.max_prompt_tokens
        if len(written.encode()) > limit * self._longest_token:
            raise ValueError(
                f"{name} is {len(written):,} characters long, too long for the limit of "
                f"{limit:,} tokens: shorten it."
            )
        ids = encode_text(self.lm.tokenizer, written)
        if len(ids) > limit:
            raise ValueError(
                f"{name} has {len(ids):,} tokens, more than the limit of {limit:,}: shorten it."
            )
        return ids

    def analyse(self, ids: list[int], sae: str, mean: np.ndarray) -> Analysis:
        """`SplicedLM.analyse`, remembering the latest texts; `mean [d_model]` is FVU's centre."""
        key = (sae, tuple(ids))
        with self._analyses_lock:
            if key in self._analyses:
                self._analyses.move_to_end(key)
                return self._analyses[key]
        found = self.spliced([sae]).analyse(ids, sae, torch.tensor(mean))
        with self._analyses_lock:
            self._analyses[key] = found
            while len(self._analyses) > self._settings.cached_analyses:
                self._analyses.popitem(last=False)
        return found
