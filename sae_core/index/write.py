"""From gathered statistics to an index file."""

import itertools
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_core.config import Site
from sae_core.index import tokencodec
from sae_core.index.config import IndexConfig
from sae_core.index.contexts import Contexts, StoredTokens, choose, store_tokens
from sae_core.index.logits import TopLogits, neighbours, top_logits
from sae_core.index.pages import FEATURES, Page
from sae_core.index.pairs import top_pairs
from sae_core.index.schema import SCHEMA_VERSION, IndexWriter, create
from sae_core.index.signature import Facts, Signature, describe
from sae_core.index.statistics import FeatureStatistics
from sae_core.index.stream import Spool
from sae_core.index.worth import rank_features
from sae_core.tokens import special_ids, vocabulary

LISTED = 10
"""Tokens, sources, logits and neighbours listed per feature."""
AT_LEAST = 3
"""A token or source is listed from this many active tokens on: below, its lift says nothing."""
_FOR_SIGNATURE = 40


@dataclass(frozen=True)
class Listed:
    """Per feature, values and how often it fired on each, most first: ragged arrays."""

    feature: np.ndarray
    value: np.ndarray
    count: np.ndarray

    def bounds(self, d_sae: int) -> np.ndarray:
        """Where each feature's entries begin, `[d_sae + 1]`."""
        return np.searchsorted(self.feature, np.arange(d_sae + 1))

    def first(self, k: int) -> "Listed":
        """The first `k` of each feature."""
        start = np.searchsorted(self.feature, self.feature)
        keep = np.arange(len(self.feature)) - start < k
        return Listed(self.feature[keep], self.value[keep], self.count[keep])


def write_index(
    path: Path,
    *,
    model: Any,
    tokenizer: Any,
    model_name: str,
    context_size: int,
    statistics: FeatureStatistics,
    spool: Spool,
    token_counts: np.ndarray,
    source_tokens: np.ndarray,
    cfg: IndexConfig,
) -> dict[str, Any]:
    """Write the index of one SAE; returns its meta entries.

    `token_counts [vocabulary]` and `source_tokens [sources]` count the tokens read.
    """
    sae = statistics.sae
    site = sae.cfg.site
    assert site is not None
    vocab = vocabulary(tokenizer)
    contexts = choose(statistics, cfg.intervals, cfg.per_interval)
    stored = store_tokens(spool, contexts, cfg.before, cfg.after)
    token_rows = _listed_tokens(statistics, len(token_counts))
    source_rows = _listed_sources(statistics)
    logits = top_logits(model, sae, site, LISTED, special_ids(tokenizer))
    near, cosine = neighbours(sae, LISTED)
    signatures = _signatures(
        statistics, spool, vocab, token_rows, source_rows, logits, token_counts, source_tokens
    )
    pages = _pages(
        statistics,
        contexts,
        stored,
        cfg,
        token_rows.first(LISTED),
        source_rows,
        logits,
        near,
        cosine,
    )
    worth = rank_features(
        signatures, statistics.active.cpu().numpy() / max(statistics.tokens, 1),
        near.numpy(), cosine.numpy(),
    )  # fmt: skip
    meta = _meta(statistics, spool, source_tokens, cfg, model_name, context_size, site)
    meta["stored_tokens"] = len(stored.tokens)
    meta["listed_logits"], meta["listed_neighbours"] = logits.raises.shape[1], near.shape[1]
    meta["worth_opening"] = worth
    with create(path) as writer:
        _write_common(writer, meta, statistics, spool, vocab, stored, token_counts)
        _write_features(writer, statistics, signatures, token_rows.first(LISTED))
        writer.insert("pages", range(len(pages)), pages)
    return meta


def _listed_tokens(statistics: FeatureStatistics, vocab_size: int) -> Listed:
    keys, counts = statistics.pairs.result()
    rows = top_pairs(keys, counts, vocab_size, _FOR_SIGNATURE, AT_LEAST)
    return Listed(*(column.cpu().numpy() for column in rows))


def _listed_sources(statistics: FeatureStatistics) -> Listed:
    by_source = statistics.by_source.T.cpu()
    feature, source = (by_source >= AT_LEAST).nonzero(as_tuple=True)
    keys = feature * max(by_source.shape[1], 1) + source
    counts = by_source[feature, source]
    rows = top_pairs(keys, counts, max(by_source.shape[1], 1), LISTED, AT_LEAST)
    return Listed(*(column.numpy() for column in rows))


def _signatures(
    statistics: FeatureStatistics,
    spool: Spool,
    vocab: Sequence[bytes],
    tokens: Listed,
    sources: Listed,
    logits: TopLogits,
    token_counts: np.ndarray,
    source_tokens: np.ndarray,
) -> list[Signature]:
    texts = [word.decode(errors="replace") for word in vocab]
    active = statistics.active.cpu().numpy()
    early = statistics.early.cpu().numpy()
    total = max(statistics.tokens, 1)
    token_bounds, source_bounds = tokens.bounds(len(active)), sources.bounds(len(active))
    found = []
    for feature, count in enumerate(active.tolist()):
        deviation = max(float(logits.deviation[feature]), 1e-12)
        listed = range(token_bounds[feature], token_bounds[feature + 1])
        places = range(source_bounds[feature], source_bounds[feature + 1])
        raised = zip(
            logits.raises[feature].tolist(), logits.raises_logit[feature].tolist(), strict=True
        )
        found.append(
            describe(
                Facts(
                    tokens_read=statistics.tokens,
                    active_tokens=count,
                    tokens=[
                        (
                            texts[tokens.value[i]],
                            float(tokens.count[i]) / count,
                            float(token_counts[tokens.value[i]]) / total,
                        )
                        for i in listed
                    ],
                    sources=[
                        (
                            spool.sources[sources.value[i]],
                            float(sources.count[i]) / count,
                            float(source_tokens[sources.value[i]]) / total,
                        )
                        for i in places
                    ],
                    early_share=float(early[feature]) / max(count, 1),
                    raises=[(texts[i], value / deviation) for i, value in raised],
                )
            )
        )
    return found


def _pages(
    statistics: FeatureStatistics,
    contexts: Contexts,
    stored: StoredTokens,
    cfg: IndexConfig,
    tokens: Listed,
    sources: Listed,
    logits: TopLogits,
    near: torch.Tensor,
    cosine: torch.Tensor,
) -> list[bytes]:
    d_sae = len(statistics.active)
    groups = cfg.intervals + 2
    threshold = statistics.threshold.cpu().numpy()
    scale = np.maximum(statistics.max_act.cpu().numpy(), np.float32(1e-30))
    # Activations of the window other than the peak, as bytes.
    share = contexts.window / scale[contexts.feature][:, None]
    level = np.where(contexts.window > 0, np.clip(np.rint(share * 255), 1, 255), 0).astype(np.uint8)
    level[:, cfg.before] = 0
    # Peaks as falling 16-bit numbers; the differences of neighbours are small.
    is_near = contexts.group == groups - 1
    peak = np.where(is_near, 0, contexts.value)
    value = np.rint(peak / scale[contexts.feature] * 65535).astype(np.int64)
    key = contexts.feature * groups + contexts.group
    drop = np.empty_like(value)
    drop[:1] = 65535 - value[:1]
    drop[1:] = np.where(key[1:] == key[:-1], value[:-1], 65535) - value[1:]
    gap = (threshold[contexts.feature] - contexts.value).astype(np.float16)
    acts = statistics.acts.counts.cpu().numpy()
    pre_acts = statistics.pre_acts.counts.cpu().numpy()
    counts = np.bincount(key, minlength=d_sae * groups)
    of_feature = np.searchsorted(contexts.feature, np.arange(d_sae + 1))
    of_tokens, of_sources = tokens.bounds(d_sae), sources.bounds(d_sae)
    found = []
    for first in range(0, d_sae, FEATURES):
        last = min(first + FEATURES, d_sae)
        some = slice(first, last)
        c = slice(of_feature[first], of_feature[last])
        t = slice(of_tokens[first], of_tokens[last])
        s = slice(of_sources[first], of_sources[last])
        part = level[c]
        near_here = is_near[c]
        page = Page(
            contexts=counts[first * groups : last * groups],
            place=stored.place[c],
            value=drop[c][~near_here],
            gap=gap[c][near_here],
            others=(part > 0).sum(1),
            position=np.nonzero(part)[1],
            activation=part[part > 0],
            activation_counts=acts[some].reshape(-1),
            pre_activation_counts=pre_acts[some].reshape(-1),
            raises=logits.raises[some].numpy().reshape(-1),
            raises_logit=logits.raises_logit[some].numpy().reshape(-1),
            lowers=logits.lowers[some].numpy().reshape(-1),
            lowers_logit=logits.lowers_logit[some].numpy().reshape(-1),
            tokens=np.diff(of_tokens[first : last + 1]),
            token_count=tokens.count[t],
            sources=np.diff(of_sources[first : last + 1]),
            source=sources.value[s],
            source_count=sources.count[s],
            neighbour=near[some].numpy().reshape(-1),
            cosine=np.rint(cosine[some].numpy().reshape(-1) * 32767),
        )
        found.append(page.pack())
    return found


def _meta(
    statistics: FeatureStatistics,
    spool: Spool,
    source_tokens: np.ndarray,
    cfg: IndexConfig,
    model_name: str,
    context_size: int,
    site: Site,
) -> dict[str, Any]:
    sae = statistics.sae.cfg
    sources = [
        {"source": name, "tokens": int(tokens)}
        for name, tokens in zip(spool.sources, source_tokens, strict=True)
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "jumpscope_version": _version(),
        "built": datetime.now(UTC).isoformat(timespec="seconds"),
        "model_name": model_name,
        "sae_hash": sae.metadata.get("content_hash", ""),
        "architecture": sae.architecture,
        "site": str(site),
        "d_model": sae.d_model,
        "d_sae": sae.d_sae,
        "tokens": statistics.tokens,
        "documents": len(spool.documents),
        "context_size": context_size,
        "sources": sources,
        "totals": statistics.totals() | {"dead": int((statistics.active == 0).sum())},
        "before": cfg.before,
        "after": cfg.after,
        "intervals": cfg.intervals,
        "at_least": AT_LEAST,
        "seed": cfg.seed,
    }


def _version() -> str:
    try:
        return version("jumpscope")
    except PackageNotFoundError:
        return ""


def _write_common(
    writer: IndexWriter,
    meta: dict[str, Any],
    statistics: FeatureStatistics,
    spool: Spool,
    vocab: Sequence[bytes],
    stored: StoredTokens,
    token_counts: np.ndarray,
) -> None:
    writer.insert(
        "meta", list(meta), [json.dumps(value, allow_nan=False) for value in meta.values()]
    )
    used, document = np.unique(stored.segment_document, return_inverse=True)
    facts = [spool.documents[i] for i in used.tolist()]
    writer.insert(
        "documents",
        range(len(facts)),
        *(list(column) for column in zip(*facts, strict=True)) if facts else ([], [], [], []),
    )
    texts = [word.decode(errors="replace") for word in vocab]
    odd = [None if text.encode() == word else word for text, word in zip(texts, vocab, strict=True)]
    writer.insert("vocabulary", range(len(vocab)), texts, odd)
    rank = tokencodec.ranks(token_counts)[stored.tokens]
    starts = range(0, len(rank), tokencodec.BLOCK)
    blocks = [tokencodec.encode_block(rank[i : i + tokencodec.BLOCK]) for i in starts]
    writer.insert("token_blocks", range(len(blocks)), blocks)
    mean = statistics.x_sum / max(statistics.tokens, 1)
    arrays = {
        "mean_activation": mean.float().cpu().numpy().astype("<f4"),
        "token_counts": token_counts.astype("<u8"),
        "segment_length": stored.segment_length.astype("<u4"),
        "segment_document": document.astype("<u4"),
        "segment_offset": stored.segment_offset.astype("<u4"),
        "histogram_exponent": statistics.acts.exponent.cpu().numpy().astype("<i2"),
        "histogram_width": statistics.pre_acts.width.cpu().numpy().astype("<f4"),
    }
    packed = [zlib.compress(array.tobytes(), 9) for array in arrays.values()]
    writer.insert("arrays", list(arrays), packed)


def _write_features(
    writer: IndexWriter, statistics: FeatureStatistics, signatures: list[Signature], tokens: Listed
) -> None:
    active = statistics.active.cpu().numpy()
    mean = statistics.act_sum.cpu().numpy() / np.maximum(active, 1)
    early = statistics.early.cpu().numpy() / np.maximum(active, 1)
    bounds = tokens.bounds(len(active))
    lists = [tokens.value[a:b].tolist() for a, b in itertools.pairwise(bounds)]
    writer.insert(
        "features",
        range(len(active)),
        [signature.text for signature in signatures],
        active.tolist(),
        statistics.max_act.tolist(),
        mean.tolist(),
        statistics.threshold.tolist(),
        [signature.share for signature in signatures],
        early.tolist(),
        lists,
    )
