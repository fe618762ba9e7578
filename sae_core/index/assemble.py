"""Pages and signatures from gathered statistics."""

import gc
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch

from sae_core.index.contexts import Contexts
from sae_core.index.feature_pages import FEATURES, Page
from sae_core.index.logits import TopLogits
from sae_core.index.signature import (
    LOGIT_SD,
    SOURCE_SHARE,
    Facts,
    RankedWords,
    Signature,
    describe,
)
from sae_core.index.statistics import FeatureStatistics
from sae_core.index.top_tokens import TopTokens


@contextmanager
def _no_collection() -> Iterator[None]:
    """While millions of small objects are made that all are kept, Python looks for garbage among
    them again and again, and for longer than it takes to make them.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_no_collection()
def make_signatures(
    statistics: FeatureStatistics,
    words: list[str],
    sources: list[str],
    tokens: TopTokens,
    in_sources: TopTokens,
    logits: TopLogits,
    token_counts: np.ndarray,
    source_tokens: np.ndarray,
) -> list[Signature]:
    """The signature of every feature; `words` are the forms of the vocabulary's tokens."""
    active = statistics.active.cpu().numpy()
    d_sae, total = len(active), max(statistics.tokens, 1)
    early_share = statistics.early.cpu().numpy() / np.maximum(active, 1)
    ranked = RankedWords(
        tokens.feature,
        tokens.value,
        tokens.count / active[tokens.feature],
        (token_counts / total)[tokens.value],
        words,
    )
    raised = (logits.raises_logit / logits.deviation.clamp(min=1e-12)[:, None]).numpy()
    facts = zip(
        active.tolist(),
        ranked.leading(d_sae),
        ranked.telling(d_sae),
        _shares(in_sources, active, sources, source_tokens / total),
        early_share.tolist(),
        _raised(logits.raises.numpy(), raised, words),
        strict=True,
    )
    return [
        describe(
            Facts(
                tokens_read=statistics.tokens,
                active_tokens=count,
                leading=leading,
                telling=telling,
                sources=in_source,
                early_share=early,
                raises=raises,
            )
        )
        for count, leading, telling, in_source, early, raises in facts
    ]


def _shares(
    listed: TopTokens, active: np.ndarray, names: list[str], base: np.ndarray
) -> list[list[tuple[str, float, float]]]:
    """Of each feature the sources that can stand in its signature: name, share, base share."""
    share = listed.count / active[listed.feature]
    some = share >= SOURCE_SHARE
    value = listed.value[some].tolist()
    bases = base[listed.value[some]].tolist()
    rows = list(zip([names[v] for v in value], share[some].tolist(), bases, strict=True))
    bounds = np.searchsorted(listed.feature[some], np.arange(len(active) + 1)).tolist()
    return [rows[a:b] for a, b in itertools.pairwise(bounds)]


def _raised(
    token: np.ndarray, deviations: np.ndarray, words: list[str]
) -> list[list[tuple[str, float]]]:
    """Of each feature the raised tokens that can stand in its signature: word, deviations."""
    enough = deviations >= LOGIT_SD
    pairs = zip(token[enough].tolist(), deviations[enough].tolist(), strict=True)
    rows = [(words[t], value) for t, value in pairs]
    bounds = np.append(0, np.cumsum(enough.sum(1))).tolist()
    return [rows[a:b] for a, b in itertools.pairwise(bounds)]


def make_pages(
    statistics: FeatureStatistics,
    contexts: Contexts,
    place: np.ndarray,
    groups: int,
    tokens: TopTokens,
    sources: TopTokens,
    logits: TopLogits,
    near: torch.Tensor,
    cosine: torch.Tensor,
    pre_activation_counts: torch.Tensor,
) -> list[bytes]:
    """Every feature's contexts, histograms and lists, packed.

    `place`: where each context's peak is in the stored tokens; `groups` counts the context groups,
    near misses last.
    """
    d_sae = len(statistics.active)
    threshold = statistics.threshold.cpu().numpy()
    scale = np.maximum(statistics.max_act.cpu().numpy(), np.float32(1e-30))
    share = contexts.other_value / scale[np.repeat(contexts.feature, contexts.others)]
    level = np.clip(np.rint(share * 255), 1, 255).astype(np.uint8)
    of_others = np.append(0, np.cumsum(contexts.others, dtype=np.int64))
    # Peaks as falling 16-bit numbers; the differences of neighbours are small.
    is_near = contexts.group == groups - 1
    peak = np.where(is_near, 0, contexts.value)
    value = np.rint(peak / scale[contexts.feature] * 65535).astype(np.int64)
    key = contexts.feature * groups + contexts.group
    drop = np.empty_like(value)
    drop[:1] = 65535 - value[:1]
    drop[1:] = np.where(key[1:] == key[:-1], value[:-1], 65535) - value[1:]
    gap = (threshold[contexts.feature] - contexts.value).astype(np.float16)
    counts = np.bincount(key, minlength=d_sae * groups)
    acts, pre_acts = statistics.acts.counts.cpu(), pre_activation_counts.cpu()
    of_contexts = np.searchsorted(contexts.feature, np.arange(d_sae + 1))
    of_tokens, of_sources = tokens.bounds(d_sae), sources.bounds(d_sae)

    def packed(first: int) -> bytes:
        last = min(first + FEATURES, d_sae)
        some = slice(first, last)
        c = slice(of_contexts[first], of_contexts[last])
        o = slice(of_others[c.start], of_others[c.stop])
        t = slice(of_tokens[first], of_tokens[last])
        s = slice(of_sources[first], of_sources[last])
        page = Page(
            contexts=counts[first * groups : last * groups],
            place=place[c],
            value=drop[c][~is_near[c]],
            gap=gap[c][is_near[c]],
            others=contexts.others[c],
            position=contexts.other_position[o],
            activation=level[o],
            activation_counts=acts[some].numpy(),
            pre_activation_counts=pre_acts[some].numpy(),
            raises=logits.raises[some].numpy(),
            raises_logit=logits.raises_logit[some].numpy(),
            lowers=logits.lowers[some].numpy(),
            lowers_logit=logits.lowers_logit[some].numpy(),
            tokens=np.diff(of_tokens[first : last + 1]),
            token_count=tokens.count[t],
            sources=np.diff(of_sources[first : last + 1]),
            source=sources.value[s],
            source_count=sources.count[s],
            neighbour=near[some].numpy(),
            cosine=np.rint(cosine[some].numpy() * 32767),
        )
        return page.pack()

    # Deflating holds no lock of Python's.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(packed, range(0, d_sae, FEATURES)))
