"""From gathered statistics to an index file."""

import gc
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from sae_core.index import tokencodec
from sae_core.index.arrays import pack
from sae_core.index.assemble import Assembler
from sae_core.index.contexts import StoredTokens, choose, store_tokens
from sae_core.index.corpus_spool import Spool
from sae_core.index.describing import Describer
from sae_core.index.highlights import META_KEY
from sae_core.index.index_checks import MANY_PAGES, pages_of
from sae_core.index.index_config import IndexConfig
from sae_core.index.map_reader import PLACES
from sae_core.index.output_scores import OutputScores, settings
from sae_core.index.prepared import LISTED, Prepared
from sae_core.index.schema import (
    ARRAYS,
    GATHERED,
    MAP,
    SCHEMA_VERSION,
    IndexWriter,
    create,
)
from sae_core.index.selection import on_host
from sae_core.index.signature import WordForms
from sae_core.index.statistics import FeatureStatistics
from sae_core.index.token_words import word_forms
from sae_core.index.top_tokens import AT_LEAST, top_sources, top_tokens
from sae_core.text_options import TextOptions

_TOGETHER = 64
"""Blocks of features given to DuckDB together."""
_COUNTED = 2**14
"""Features whose listed tokens are looked at together."""
_BESIDE = 4
"""Threads for work that nothing waits for at once."""
_FOR_SIGNATURE = 40
"""Tokens looked at for a signature, in which forms of one word count together."""


def write_index(
    path: Path,
    *,
    prepared: Prepared,
    model_name: str,
    context_size: int,
    statistics: FeatureStatistics,
    spool: Spool,
    token_counts: np.ndarray,
    source_tokens: np.ndarray,
    cfg: IndexConfig,
    sink: bool,
    scores: OutputScores | None = None,
    planned: int | None = None,
    state_mark: str = "",
) -> dict[str, Any]:
    """Write the index of one SAE; returns its meta entries.

    `token_counts [vocabulary]` and `source_tokens [sources]` count the tokens read; `sink` says
    that the first of each row, an attention sink, was left out; `scores` is of all features;
    `planned` is how many tokens will be read, None once all are; `state_mark` names the state
    that is kept beside it, "" where none is.
    """
    sae = statistics.sae
    site = sae.cfg.site
    assert site is not None
    odd, texts = prepared.vocabulary()
    with _no_collection(), create(path) as writer, ThreadPoolExecutor(_BESIDE) as beside:
        # Work of the host alone, while the rest waits for the device.
        words = beside.submit(_words, texts, prepared.plain_forms(), spool.tokens())
        written = [beside.submit(_write_vocabulary, writer, odd, texts)]
        statistics.settle()
        tokens = top_tokens(statistics, len(token_counts), _FOR_SIGNATURE)
        logits, near, cosine = prepared.decoder()
        decoder_arrays = prepared.arrays()
        active, early = on_host(statistics.active), on_host(statistics.early)
        describer = Describer(
            tokens_read=statistics.tokens,
            active=active,
            early=early,
            words=words.result(),
            tokens=tokens,
            sources=top_sources(statistics, LISTED),
            source_names=spool.sources,
            token_counts=token_counts,
            source_tokens=source_tokens,
            logits=logits,
            near=near[:, :LISTED].numpy(),
            cosine=cosine[:, :LISTED].numpy(),
        )
        numbers = _numbers(statistics, active, early, scores)
        with ThreadPoolExecutor(1) as describing:
            listed = describing.submit(_write_features, writer, describer, numbers)
            contexts = choose(statistics, cfg.intervals, cfg.per_interval)
            cutting = beside.submit(store_tokens, spool, contexts, cfg.before, cfg.after)
            bounds = beside.submit(contexts.bounds, sae.cfg.d_sae)
            written.append(beside.submit(_write_tokens, writer, spool, cutting, token_counts))
            # An index of what has been read so far is one of many: the last one has the map.
            placed = None if planned else prepared.map()
            activation_counts = on_host(statistics.acts.counts.int())
            width, pre_activation_counts = statistics.pre_activations()
            stored = cutting.result()
            assembler = Assembler(
                of=describer,
                decoder=decoder_arrays,
                threshold=numbers["threshold"],
                max_act=numbers["max_act"],
                activation_counts=activation_counts,
                pre_activation_counts=on_host(pre_activation_counts.int()),
                contexts=contexts,
                bounds=bounds.result(),
                place=stored.place,
                groups=cfg.intervals + 2,
                listed=LISTED,
            )
            with assembler.begun() as pages:
                arrays = {
                    "mean_activation": on_host(statistics.y_sum) / max(statistics.tokens, 1),
                    "token_counts": token_counts,
                    "segment_length": stored.segment_length,
                    "segment_document": stored.segment_document,
                    "segment_skip": stored.segment_skip,
                    "histogram_exponent": on_host(statistics.acts.exponent),
                    "histogram_width": on_host(width),
                }
                assert list(arrays) == list(ARRAYS)
                if placed:
                    arrays[MAP] = placed.places
                given = (writer, arrays, assembler)
                written.append(beside.submit(_write_arrays, *given))
                _write_pages(writer, pages)
            for each in written:
                each.result()
            worth_opening = listed.result()
        meta: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "jumpscope_version": _version(),
            "built": datetime.now(UTC).isoformat(timespec="seconds"),
            "model_name": model_name,
            "sae_hash": sae.cfg.metadata.get("content_hash", ""),
            "architecture": sae.cfg.architecture,
            "site": str(site),
            **({"site_out": str(sae.cfg.site_out)} if sae.cfg.site_out else {}),
            "d_model": sae.cfg.d_model,
            "d_sae": sae.cfg.d_sae,
            "tokens": statistics.tokens,
            "documents": len(spool.documents),
            "context_size": context_size,
            "sources": [
                {"source": name, "tokens": int(count)}
                for name, count in zip(spool.sources, source_tokens, strict=True)
            ],
            # JSON has no NaN.
            "totals": {k: v if math.isfinite(v) else None for k, v in statistics.totals().items()},
            "before": cfg.before,
            "after": cfg.after,
            "intervals": cfg.intervals,
            "listed_logits": logits.raises.shape[1],
            "listed_neighbours": min(near.shape[1], LISTED),
            "at_least": AT_LEAST,
            "seed": cfg.seed,
            **({"attention_sink": True} if sink else {}),
            **({"planned_tokens": planned} if planned else {}),
            **({"state_mark": state_mark} if state_mark else {}),
            **({"output_scores": settings()} if scores else {}),
            **({MAP: placed.settings} if placed else {}),
            # Who reads the documents again does it in the same way.
            **({"text": asdict(cfg.text)} if cfg.text != TextOptions() else {}),
            "stored_tokens": len(stored.tokens),
        }
        meta[META_KEY] = worth_opening
        keys, values = list(meta), [json.dumps(v, allow_nan=False) for v in meta.values()]
        writer.insert("meta", keys, values)
    return meta


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


def _words(texts: list[str], plain: list[str], tokens: np.ndarray) -> WordForms:
    return WordForms(word_forms(texts, plain, tokens))


def _version() -> str:
    try:
        return version("jumpscope")
    except PackageNotFoundError:
        return ""


def _write_vocabulary(writer: IndexWriter, odd: list[bytes | None], texts: list[str]) -> None:
    columns = {"token": np.arange(len(texts)), "text": _objects(texts)}
    columns["bytes"] = _objects([raw or b"" for raw in odd])
    with writer.another() as own:
        own.insert_arrays("vocabulary", columns)


def _write_tokens(
    writer: IndexWriter, spool: Spool, cutting: Future[StoredTokens], token_counts: np.ndarray
) -> None:
    """The stored tokens in blocks, and the documents that they are from."""
    stored = cutting.result()
    facts = [spool.documents[i] for i in stored.documents.tolist()]
    columns = [list(column) for column in zip(*facts, strict=True)] or [[], [], [], []]
    rank = tokencodec.ranks(token_counts)[stored.tokens]
    starts = range(0, len(rank), tokencodec.BLOCK)
    # Deflating holds no lock of Python's.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        each = [rank[i : i + tokencodec.BLOCK] for i in starts]
        blocks = list(threads.map(tokencodec.encode_block, each))
    numbers = np.arange(len(blocks))
    with writer.another() as own:
        own.insert("documents", range(len(facts)), *columns)
        own.insert_arrays("token_blocks", {"block": numbers, "data": _objects(blocks)})


def _write_arrays(
    writer: IndexWriter,
    arrays: dict[str, np.ndarray],
    assembler: Assembler,
) -> None:
    """These, each packed as its name says, and of many pages what is gathered from them."""
    gathered, d_sae = {}, assembler.d_sae
    if pages_of(d_sae) > MANY_PAGES:
        # Not all at once: each array would be of new memory.
        starts = range(0, d_sae, _COUNTED)
        listed = [assembler.of.listed(i, min(i + _COUNTED, d_sae)).count for i in starts]
        strongest = assembler.contexts.strongest(assembler.place, assembler.bounds[0])
        gathered = dict(zip(GATHERED, (np.concatenate(listed), strongest + 1), strict=True))
    types = ARRAYS | GATHERED | {MAP: PLACES}
    packed = {name: pack(each, types[name]) for name, each in (arrays | gathered).items()}
    with writer.another() as own:
        own.insert("arrays", list(packed), list(packed.values()))


def _numbers(
    statistics: FeatureStatistics,
    active: np.ndarray,
    early: np.ndarray,
    scores: OutputScores | None,
) -> dict[str, np.ndarray]:
    """Columns of the table of features, `[d_sae]`."""
    often = np.maximum(active, 1)
    unknown = np.full(len(active), np.nan, np.float32)
    return {
        "feature": np.arange(len(active)),
        "active_tokens": active,
        "max_act": on_host(statistics.max_act),
        "mean_act": on_host(statistics.act_sum) / often,
        "threshold": on_host(statistics.threshold),
        "early_share": early / often,
        "output_score": scores.score if scores else unknown,
        "side_effect": scores.side_effect if scores else unknown,
    }


def _write_features(
    writer: IndexWriter, describer: Describer, numbers: Mapping[str, np.ndarray]
) -> list[list[int | str]]:
    """Rows of all features, as their blocks come; returns what to open first."""
    first, rankings = 0, []
    with describer.begun() as blocks, writer.another() as own:
        while some := list(itertools.islice(blocks, _TOGETHER)):
            signatures = [line for block in some for line in block.signatures]
            last = first + len(signatures)
            rows = {name: column[first:last] for name, column in numbers.items()}
            rows["signature"] = _objects(signatures)
            rows["concentration"] = np.concatenate([block.concentration for block in some])
            listed = describer.listed(first, last)
            lists = {"tokens": (listed.feature, listed.value)}
            own.insert_arrays("features", rows, lists)
            first = last
            rankings += [block.ranking for block in some]
    return describer.highlights(rankings)


def _write_pages(writer: IndexWriter, blocks: Iterator[list[bytes]]) -> None:
    """Pages of all features, as their blocks come."""
    first = 0
    while some := list(itertools.islice(blocks, _TOGETHER)):
        data = _objects([page for block in some for page in block])
        number = np.arange(first, first + len(data))
        writer.insert_arrays("pages", {"page": number, "data": data})
        first += len(data)


def _objects(values: Sequence[Any]) -> np.ndarray:
    """Texts or bytes as an array of objects, for DuckDB, which before 2.0 takes no None."""
    assert None not in values
    array = np.empty(len(values), object)
    array[:] = values
    return array
