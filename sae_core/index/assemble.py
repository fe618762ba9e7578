"""Pages and signatures from gathered statistics."""

import numpy as np
import torch

from sae_core.index.contexts import Contexts
from sae_core.index.feature_pages import FEATURES, Page
from sae_core.index.logits import TopLogits
from sae_core.index.signature import Facts, Signature, describe
from sae_core.index.statistics import FeatureStatistics
from sae_core.index.top_tokens import TopTokens


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
    early = statistics.early.cpu().numpy()
    total = max(statistics.tokens, 1)
    token_base, source_base = token_counts / total, source_tokens / total
    of_tokens, of_sources = tokens.bounds(len(active)), in_sources.bounds(len(active))
    deviation = logits.deviation.clamp(min=1e-12)[:, None]
    raised = (logits.raises_logit / deviation).tolist()

    def shares(
        listed: TopTokens, bounds: np.ndarray, feature: int, names: list[str], base: np.ndarray
    ) -> list[tuple[str, float, float]]:
        part = slice(bounds[feature], bounds[feature + 1])
        return [
            (names[value], count / int(active[feature]), float(base[value]))
            for value, count in zip(
                listed.value[part].tolist(), listed.count[part].tolist(), strict=True
            )
        ]

    return [
        describe(
            Facts(
                tokens_read=statistics.tokens,
                active_tokens=count,
                tokens=shares(tokens, of_tokens, feature, words, token_base),
                sources=shares(in_sources, of_sources, feature, sources, source_base),
                early_share=float(early[feature]) / max(count, 1),
                raises=[
                    (words[token], value)
                    for token, value in zip(
                        logits.raises[feature].tolist(), raised[feature], strict=True
                    )
                ],
            )
        )
        for feature, count in enumerate(active.tolist())
    ]


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
    acts, pre_acts = statistics.acts.counts.cpu(), statistics.pre_activation_counts().cpu()
    of_contexts = np.searchsorted(contexts.feature, np.arange(d_sae + 1))
    of_tokens, of_sources = tokens.bounds(d_sae), sources.bounds(d_sae)
    packed = []
    for first in range(0, d_sae, FEATURES):
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
        packed.append(page.pack())
    return packed
