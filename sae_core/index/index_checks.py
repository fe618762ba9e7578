"""Whether what an index says fits together: a file can be read well and be wrong all the same.

Half of the rows may be gone, numbers may be no numbers, counts may contradict each other. What the
whole index says is checked when it is opened, what a page says when that is read; in both cases a
ValueError says what is wrong, and nobody sees a number that was made of it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sae_core.config import Site
from sae_core.index.feature_pages import DOUBLING_BINS, FEATURES, WINDOW_BINS, Page, PageShape
from sae_core.index.schema import SCORES
from sae_core.index.tokencodec import BLOCK

_BOUNDS = {
    "tokens": (1, 2**48),
    "documents": (1, 2**48),
    "context_size": (1, 2**31),
    "d_model": (1, 2**24),
    "d_sae": (1, 2**31),
    "before": (0, 127),
    "after": (0, 127),
    "intervals": (1, 16),
    "listed_logits": (0, 1000),
    "listed_neighbours": (0, 1000),
    "stored_tokens": (0, 2**40),
}
"""Whole numbers of the table `meta`, and what they can be."""
MANY_PAGES = 2048
"""Up to so many pages are looked through in a moment; of more, an index has what a search takes
from them in one piece (`GATHERED`)."""
_TEXTS = ("model_name", "sae_hash", "architecture", "site")
_EXPONENT = 1000
"""Doublings, up or down, within which a bin's width is a number."""


def check_meta(meta: Mapping[str, Any]) -> None:
    """ValueError unless every entry that is used is there and can be true."""
    for name, (low, high) in _BOUNDS.items():
        value = meta.get(name)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"its {name} is {str(value)[:40]}")
    planned = meta.get("planned_tokens", meta["tokens"])
    if type(planned) is not int or planned < meta["tokens"]:
        raise ValueError(f"its planned_tokens are {str(planned)[:40]}")
    for name in _TEXTS:
        if not isinstance(meta.get(name), str):
            raise ValueError(f"its {name} is no text")
    for name in ("site", "site_out"):
        if name in meta:
            Site.parse(meta[name])
    sources = meta.get("sources")
    if not isinstance(sources, list) or not all(map(_is_source, sources)):
        raise ValueError("its sources are no list of names and counts")
    totals = meta.get("totals")
    if not isinstance(totals, dict) or not {"l0", "fvu", "dead"} <= set(totals):
        raise ValueError("its totals are not l0, fvu and dead")
    if not all(value is None or _is_number(value) for value in totals.values()):
        raise ValueError("its totals are no numbers")


def check_highlights(highlights: Any, d_sae: int) -> list[tuple[int, str]]:
    """The features to open first with their reasons; ValueError if they are no such list."""
    if not isinstance(highlights, list):
        raise ValueError("its highlights are no list")
    for entry in highlights:
        if not isinstance(entry, list) or [type(part) for part in entry] != [int, str]:
            raise ValueError("its highlights are no features with reasons")
        if not 0 <= entry[0] < d_sae:
            raise ValueError(f"its highlights name feature {entry[0]}")
    return [(feature, reason) for feature, reason in highlights]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_source(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("source"), str)
        and type(entry.get("tokens")) is int
        and entry["tokens"] >= 0
    )


def check_ids(what: str, ids: Sequence[int] | np.ndarray, count: int) -> None:
    """ValueError unless a table's rows are numbered 0 to `count` - 1, each there once."""
    if len(ids) != count or not np.array_equal(np.asarray(ids), np.arange(count)):
        raise ValueError(f"it has {len(ids):,} {what} that should be {count:,}, each once")


def check_features(columns: Mapping[str, np.ndarray], tokens: int) -> None:
    """ValueError unless the features' numbers, each `[d_sae]`, can be those of a sample of as many
    tokens.
    """
    for name, values in columns.items():
        if name not in SCORES and not np.isfinite(values).all():
            raise ValueError(f"a feature's {name} is no number")
    active, max_act, mean_act = (columns[key] for key in ("active_tokens", "max_act", "mean_act"))
    if (active < 0).any() or (active > tokens).any():
        raise ValueError("a feature is active on more tokens than there are, or on less than none")
    fires = active > 0
    # Means were added up in another order than the largest was found in.
    if (max_act < 0).any() or (max_act[fires] <= 0).any():
        raise ValueError("a feature's max_act is not above 0")
    if (mean_act > max_act * (1 + 1e-3)).any() or (mean_act < 0).any():
        raise ValueError("a feature's mean_act is above its max_act")


def check_score_settings(settings: Any) -> None:
    """ValueError unless they say what output scores were measured with."""
    numbers = ("lens_tokens", "factor", "size")
    if not (
        isinstance(settings, dict)
        and all(_is_number(settings.get(name)) for name in numbers)
        and isinstance(settings.get("prompts"), list)
        and all(isinstance(prompt, str) for prompt in settings["prompts"])
    ):
        raise ValueError("its output_scores are no settings")


def check_scores(score: np.ndarray, effect: np.ndarray) -> None:
    """ValueError unless output scores are shares, and side effects numbers of nats, both `[d_sae]`
    and NaN where a feature has none.
    """
    if not (np.isnan(score) | (score >= 0) & (score <= 1)).all():
        raise ValueError("a feature's output_score is not between 0 and 1")
    if not (np.isnan(effect) | (effect >= 0) & (effect < np.inf)).all():
        raise ValueError("a feature's side_effect is not 0 or more")


def check_arrays(
    arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], documents: int, vocabulary: int
) -> None:
    """ValueError unless the arrays are as long as what they are about, and fit together."""
    d_sae = meta["d_sae"]
    expected = {
        "token_counts": vocabulary,
        "segment_document": len(arrays["segment_length"]),
        "segment_skip": len(arrays["segment_length"]),
        "histogram_exponent": d_sae,
        "histogram_width": d_sae,
    }
    if "site_out" not in meta:
        expected["mean_activation"] = meta["d_model"]
    for name, length in expected.items():
        if len(arrays[name]) != length:
            raise ValueError(f"its {name} has {len(arrays[name]):,} entries, not {length:,}")
    width = arrays["histogram_width"]
    if not (np.isfinite(width).all() and (width > 0).all()):
        raise ValueError("its histogram_width is not above 0 everywhere")
    if (np.abs(arrays["histogram_exponent"].astype(int)) > _EXPONENT).any():
        raise ValueError("its histogram_exponent is beyond all numbers")
    if not np.isfinite(arrays["mean_activation"]).all():
        raise ValueError("its mean_activation is no number everywhere")
    if arrays["token_counts"].astype(np.float64).sum() < meta["tokens"]:
        raise ValueError("its token_counts are fewer than its tokens")
    if int(arrays["segment_length"].sum(dtype=np.int64)) != meta["stored_tokens"]:
        raise ValueError("its segments do not add up to its stored_tokens")
    document = arrays["segment_document"].astype(np.int64)
    if len(document) and (document.max() >= documents or (np.diff(document) < 0).any()):
        raise ValueError("its segments are of documents that it does not have")


def check_tables(
    rows: Callable[..., list[tuple[Any, ...]]], meta: Mapping[str, Any], vocabulary: int
) -> None:
    """ValueError unless the tables that are read piece by piece are whole; `rows` answers a
    query.
    """
    for table, column, count in (
        ("pages", "page", pages_of(meta["d_sae"])),
        ("token_blocks", "block", blocks_of(meta["stored_tokens"])),
    ):
        ids = rows(f"SELECT {column} FROM {table} ORDER BY {column}")
        check_ids(table, [i for (i,) in ids], count)
    # IS NOT TRUE holds for what is NULL as well.
    [(wrong,)] = rows(
        "SELECT count(*) FROM features WHERE (isfinite(early_share)"
        " AND len(tokens) = list_count(tokens) AND coalesce(list_min(tokens), 0) >= 0"
        " AND coalesce(list_max(tokens), 0) < ?) IS NOT TRUE",
        [vocabulary],
    )
    if wrong:
        raise ValueError(f"{wrong:,} features have tokens or shares that cannot be")
    [(wrong,)] = rows(
        "SELECT count(*) FROM documents WHERE (title IS NOT NULL AND license IS NOT NULL AND"
        " number >= 0 AND source >= 0 AND source < ?) IS NOT TRUE",
        [len(meta["sources"])],
    )
    if wrong:
        raise ValueError(f"{wrong:,} documents are of sources that it does not have")


def blocks_of(stored_tokens: int) -> int:
    """How many blocks the stored tokens make."""
    return -(-stored_tokens // BLOCK)


def pages_of(d_sae: int) -> int:
    """How many pages the features make."""
    return -(-d_sae // FEATURES)


def page_shape(meta: Mapping[str, Any], page: int) -> PageShape:
    """The shape that a page must have."""
    return PageShape(
        features=min(FEATURES, meta["d_sae"] - page * FEATURES),
        groups=meta["intervals"] + 2,
        logits=meta["listed_logits"],
        neighbours=meta["listed_neighbours"],
    )


def check_page(
    page: Page, shape: PageShape, meta: Mapping[str, Any], active: np.ndarray, vocabulary: int
) -> None:
    """ValueError unless a page can be true of its features, which are `active [features]` times."""
    below = {
        "place": meta["stored_tokens"],
        "position": meta["before"] + 1 + meta["after"],
        "raises": vocabulary,
        "lowers": vocabulary,
        "neighbour": meta["d_sae"],
        "source": len(meta["sources"]),
    }
    for name, limit in below.items():
        values = getattr(page, name)
        if len(values) and int(values.max()) >= limit:
            raise ValueError(f"a page has {name} {int(values.max()):,} of {limit:,}")
    for name in ("gap", "raises_logit", "lowers_logit"):
        if not np.isfinite(getattr(page, name)).all():
            raise ValueError(f"a page has a {name} that is no number")
    strongest = page.contexts.reshape(-1, shape.groups)[:, 0]
    if (strongest[active > 0] == 0).any():
        raise ValueError("a page lacks the contexts of a feature that fires")
    counts = page.activation_counts.reshape(-1, DOUBLING_BINS).sum(1, dtype=np.int64)
    if (counts < active).any():
        raise ValueError("a page counts fewer activations than its features have")
    counts = page.pre_activation_counts.reshape(-1, WINDOW_BINS + 2).sum(1, dtype=np.int64)
    # Its counts have 32 bits.
    if meta["tokens"] < 2**32 and (counts != meta["tokens"]).any():
        raise ValueError("a page's histograms are of another number of tokens")


def totals_of(meta: Mapping[str, Any]) -> dict[str, float]:
    """The SAE's numbers on the sample; NaN where it does not define one."""
    totals = {k: math.nan if v is None else float(v) for k, v in meta["totals"].items()}
    if meta["schema_version"] == 1:
        # There it was a number of features, and an undefined FVU was 0.
        totals["dead"] /= meta["d_sae"]
        totals["fvu"] = totals["fvu"] or math.nan
    return totals
