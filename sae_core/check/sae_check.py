"""`check`: measure an SAE as it is declared, and if it is off find the convention that fits."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sae_core.check.convention_search import ConventionSearch
from sae_core.check.judge import Verdict
from sae_core.check.verdict_sentence import sentence
from sae_core.config import SAEConfig
from sae_core.corpus import Document, TokenRow, token_rows
from sae_core.evaluation import take_tokens
from sae_core.progress_bar import Progress, reported
from sae_core.sae import SAE
from sae_core.splice import SplicedLM

TEXT = Path(__file__).with_name("text.txt")
"""The text that is shipped: passages of many kinds, lines of a single % between them."""

_CONTEXT = 512
"""Tokens per row where the SAE does not say what it was trained with."""
_LONGEST = 1024
"""Tokens per row at most: longer ones cost memory and change nothing."""
_MOST_TOKENS = 50_000
"""A sample's activations are kept in memory."""

_JSON_KEYS = {"convention": "reading"}
"""Fields that have another key in JSON: the one that saved checks hold and clients read."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """Another convention of the weights and what it gave."""

    convention: str
    """In words: `mlp_out/4`, `mlp_out/4, minus b_dec`, `mlp_in/4 to mlp_out/4`."""
    l0: float
    fvu: float
    tokens: int
    """Tokens counted; fewer than for the declared convention, but for the one that is named."""
    fits: bool


@dataclass(frozen=True, kw_only=True)
class Check:
    """Whether an SAE's numbers can be trusted. `l0` and `fvu` as `sae_core.metrics` defines them.

    Numbers are NaN where the sample does not define them, in `as_dict` None.
    """

    verdict: Verdict
    sentence: str
    """What the numbers are and what to do next; in a command, SOURCE stands for the SAE
    (`with_source`)."""
    site: str | None
    """The declared convention; None if the SAE declares none."""
    l0: float
    fvu: float
    declared_l0: float | None
    declared_fvu: float | None
    tokens: int
    """Tokens counted at the declared site."""
    sink_tokens: int
    """First tokens that were left out there, because in this model without BOS they are attention
    sinks; 0 if they count."""
    convention: str | None
    """Another convention that fits clearly better, as in `tried`."""
    tried: tuple[Tried, ...]
    """The best of the other conventions that were looked at, the best first."""
    content_hash: str | None
    """Of the weights that were checked."""
    model_dtype: str

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return _json(asdict(self))


def check(
    lm: SplicedLM,
    sae_name: str,
    *,
    text: str | Iterable[str | Document] | None = None,
    tokens: int = 4000,
    progress: Progress | None = None,
) -> Check:
    """Compare L0 and FVU of an SAE of `lm` with what it declares; `check_sae` has the details."""
    return check_sae(lm, lm.sae(sae_name), text=text, tokens=tokens, progress=progress)


def check_sae(
    lm: SplicedLM,
    sae: SAE,
    *,
    text: str | Iterable[str | Document] | None = None,
    tokens: int = 4000,
    progress: Progress | None = None,
) -> Check:
    """The same for an SAE that `lm` need not hold, because it declares no site, say.

    One pass of the model to the declared site over about `tokens` tokens of `text`: one document or
    several, of which no more are drawn than needed, as their text or as `sae_core.corpus` reads
    them, conversations included; None takes the text that is shipped. Other conventions are tried,
    on fewer tokens, if the numbers are off; if no FVU is declared, the most similar ones always.
    Calls with the same arguments return the same. `progress` is told the tokens that the model has
    read; None shows a bar on stderr if it takes long. Raises ValueError for a text without a token
    that counts, and for an SAE without a site that is as wide as no activation of the model.
    """
    cfg = sae.cfg
    rows = check_rows(lm, cfg, text, tokens)
    # How much is to be read depends on what is found.
    with reported(progress, "checking", None) as report:
        search = ConventionSearch(lm, sae, rows, report)
        outcome = search.anywhere() if search.here is None else search.around(search.here)
    ordered = sorted(search.tried.items(), key=lambda item: search.declared.distance(item[1]))
    return Check(
        verdict=outcome.verdict,
        sentence=sentence(lm.model, cfg, outcome),
        site=None if search.here is None else search.here.where,
        l0=outcome.numbers.l0,
        fvu=outcome.numbers.fvu,
        declared_l0=search.declared.l0,
        declared_fvu=search.declared.fvu,
        tokens=outcome.numbers.tokens,
        sink_tokens=outcome.numbers.sink_tokens,
        convention=None if outcome.fitting is None else str(outcome.fitting[0]),
        tried=tuple(
            Tried(
                convention=str(convention),
                l0=numbers.l0,
                fvu=numbers.fvu,
                tokens=numbers.tokens,
                fits=search.declared.fits(numbers),
            )
            for convention, numbers in ordered
        ),
        content_hash=cfg.metadata.get("content_hash"),
        model_dtype=str(lm.model.dtype).removeprefix("torch."),
    )


def check_rows(
    lm: SplicedLM, cfg: SAEConfig, text: str | Iterable[str | Document] | None, tokens: int
) -> list[TokenRow]:
    """Rows of about `tokens` tokens of `text` (None: the text that is shipped), as long as the SAE
    was trained with; ValueError as `check_sae` raises it.
    """
    if not 1 <= tokens <= _MOST_TOKENS:
        raise ValueError(f"tokens is {tokens} but must be between 1 and {_MOST_TOKENS:,}.")
    if text is None:
        text = TEXT.read_text(encoding="utf-8").strip().split("\n%\n")
    texts = [text] if isinstance(text, str) else text
    documents = (
        part if isinstance(part, Document) else Document(number, part, "", "", "")
        for number, part in enumerate(texts)
    )
    longest = getattr(lm.model.config.get_text_config(), "max_position_embeddings", None)
    size = max(2, min(cfg.context_size or _CONTEXT, longest or _LONGEST, _LONGEST))
    rows = take_tokens(token_rows(documents, lm.tokenizer, size), tokens)
    if not rows:
        raise ValueError("the text holds no token that counts: give more text.")
    return rows


def _json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_JSON_KEYS.get(key, key): _json(item) for key, item in value.items()}
    return [_json(item) for item in value] if isinstance(value, list | tuple) else value
