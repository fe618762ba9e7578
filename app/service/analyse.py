"""What fires on a text, and what the splice costs there."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.engine.prompts import Prompt
from app.engine.workbench import Workbench
from app.requests import (
    DeltaLossRequest,
    FeatureOnTextRequest,
    Message,
    PromptFeaturesRequest,
    TokensRequest,
)
from app.service import token_rows
from app.service.features import missing
from sae_core.tokens import partial_bytes, token_texts

if TYPE_CHECKING:
    from sae_core.splice import Analysis


def prompt_features(workbench: Workbench, request: PromptFeaturesRequest) -> dict[str, Any]:
    """What fires on a text, and each token's loss without and with the SAE spliced in.

    `features` come by falling peak, at most `limit` of them, all for 0; `active_features` of each
    token lists all of its features whatever the limit is.
    """
    name = workbench.sae_name(request.sae)
    prompt, analysis = _analysed(workbench, request.text, request.messages, name)
    rows = token_rows.token_rows(analysis, workbench.load().lm.vocabulary)
    for row, active in zip(rows, token_rows.active_by_token(analysis), strict=True):
        row["active"] = len(active)
        row["active_features"] = active
    chosen, total = token_rows.strongest(analysis, request.limit or None)
    summaries = workbench.sources.features(name).summaries(chosen.tolist())
    totals = token_rows.totals(analysis)
    if request.uniformity:
        uniformity = workbench.load().uniformity(prompt.ids, name)
        totals["uniformity"] = token_rows.finite(uniformity)
    return {
        "sae": name,
        **prompt.as_answered("text"),
        "tokens": prompt.marked(rows),
        "totals": totals,
        "definitions": _definitions(workbench, name),
        "missing": missing(workbench, name),
        "features": token_rows.feature_rows(analysis, summaries, chosen),
        "features_total": total,
        "truncated": len(chosen) < total,
    }


def delta_loss(workbench: Workbench, request: DeltaLossRequest) -> dict[str, Any]:
    """What splicing the SAE in costs the language model on a text, in all and per token."""
    name = workbench.sae_name(request.sae)
    prompt, analysis = _analysed(workbench, request.text, request.messages, name)
    rows = token_rows.token_rows(analysis, workbench.load().lm.vocabulary)
    return {
        "sae": name,
        **prompt.as_answered("text"),
        "tokens": prompt.marked(rows),
        "totals": token_rows.totals(analysis),
        "definitions": _definitions(workbench, name),
    }


def feature_on_text(workbench: Workbench, request: FeatureOnTextRequest) -> dict[str, Any]:
    """One feature on a text of one's own: where it fires, and where it only just does not."""
    name = workbench.sae_name(request.sae)
    number = workbench.feature_number(name, request.feature)
    engine = workbench.load()
    ids = engine.token_ids(request.text, "The text", "text")
    pre_acts, acts, threshold = engine.pre_activations(ids, name, number)
    special = engine.lm.is_special(ids)
    texts = token_texts(ids, engine.lm.vocabulary)
    return {
        "sae": name,
        "feature": number,
        "tokens": texts,
        "bytes": partial_bytes(ids, texts, engine.lm.vocabulary),
        "special": special,
        # Adding 0 turns the -0.0 of a screened-out negative into 0.0.
        "activations": token_rows.finite_list(acts + 0.0),
        "pre_activations": [
            None if kept else value
            for kept, value in zip(special, token_rows.finite_list(pre_acts), strict=True)
        ],
        "threshold": threshold,
        "max_act": workbench.sources.features(name).summaries([number])[number]["max_act"],
    }


def tokens(workbench: Workbench, request: TokensRequest) -> dict[str, Any]:
    """The tokens that the model reads a text or a conversation as, numbered as edits name them."""
    engine = workbench.load()
    prompt = engine.prompt(request.text, request.messages)
    special = engine.lm.is_special(prompt.ids)
    rows = token_rows.named_tokens(prompt.ids, special, engine.lm.vocabulary)
    return {**prompt.as_answered("text"), "tokens": prompt.marked(rows)}


def _analysed(
    workbench: Workbench, text: str, messages: Sequence[Message] | None, sae: str
) -> tuple[Prompt, "Analysis"]:
    engine = workbench.load()
    prompt = engine.prompt(text, messages)
    return prompt, engine.analyse(prompt.ids, sae, workbench.sources.mean(sae))


def _definitions(workbench: Workbench, sae: str) -> dict[str, str]:
    indexed = workbench.sources.missing(sae) is None
    return token_rows.PROMPT_DEFINITIONS if indexed else token_rows.UNINDEXED_DEFINITIONS
