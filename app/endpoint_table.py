"""Every endpoint of the app with its request, the function that answers it, and an example."""

from typing import Final

from app.endpoint import Endpoint, Work
from app.requests import (
    CheckRequest,
    CoActivationRequest,
    CompareRequest,
    DeltaLossRequest,
    EffectsRequest,
    ExplainRequest,
    FeatureOnTextRequest,
    FeatureRequest,
    FindRequest,
    LadderRequest,
    ListsRequest,
    MapRequest,
    NotesRequest,
    PatchRequest,
    PromptFeaturesRequest,
    ProveRequest,
    RatingsRequest,
    ReproduceRequest,
    SavedRequest,
    SearchRequest,
    SpliceRequest,
    SqlRequest,
    SteerRequest,
    ThresholdRequest,
    TokensRequest,
)
from app.service import (
    analyse,
    blind,
    explain,
    features,
    find,
    find_strength,
    lists,
    map_points,
    neighbours,
    next_token,
    notes,
    prove,
    provenance,
    sql_answers,
    steer,
    switch,
    threshold,
    trust,
    two_texts,
)

_TEXT: Final = "The old man walked into the room."
_OTHER: Final = "The young man walked into the garden."

ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    Endpoint(
        name="feature",
        request=FeatureRequest,
        answer=features.feature,
        work=Work.INDEX,
        returns="Frequency, largest activation, threshold, output score, side effect, histograms, "
        "contexts, logits, tokens, sources and neighbours.",
        example={"feature": 12},
    ),
    Endpoint(
        name="search_features",
        request=SearchRequest,
        answer=features.search_features,
        work=Work.INDEX,
        returns="total, and features with number, signature, frequency, max_act, mean_act, "
        "threshold, output_score, side_effect, starred; scored, whether the index has the scores.",
        example={"sort": "threshold", "limit": 5},
    ),
    Endpoint(
        name="notes",
        request=NotesRequest,
        answer=notes.notes,
        work=Work.INDEX,
        returns="starred, label (the one that is shown), labels with text, kind, source and time, "
        "verdict, note, can_keep, problem (why the file of notes cannot be read).",
        example={"feature": 12},
    ),
    Endpoint(
        name="lists",
        request=ListsRequest,
        answer=lists.lists,
        work=Work.INDEX,
        returns="lists with id, name and size; list with id, name and features (sae, sae_hash, "
        "here, feature, label, verdict, note, and of an index signature, frequency, max_act and "
        "context); conflicts of a merge with what, feature, yours, theirs and key; can_keep, "
        "problem.",
        example={},
    ),
    Endpoint(
        name="saved",
        request=SavedRequest,
        answer=lists.saved,
        work=Work.INDEX,
        returns="saved with id, name, kind (prompt, steering, proof), address and made; can_keep, "
        "problem.",
        example={},
    ),
    Endpoint(
        name="sql",
        request=SqlRequest,
        answer=sql_answers.sql,
        work=Work.SQL,
        returns="columns with name and type, rows, more (whether there are more than these).",
        example={"query": "SELECT feature, signature FROM features ORDER BY max_act DESC LIMIT 5"},
    ),
    Endpoint(
        name="prompt_features",
        request=PromptFeaturesRequest,
        answer=analyse.prompt_features,
        work=Work.ANALYSE,
        returns="tokens, totals (l0, fvu, ce_base, ce_spliced, delta_lm_loss, kl), features, "
        "definitions.",
        example={"text": _TEXT, "limit": 20},
    ),
    Endpoint(
        name="delta_loss",
        request=DeltaLossRequest,
        answer=analyse.delta_loss,
        work=Work.ANALYSE,
        returns="tokens with loss, spliced_loss, delta and kl; totals; definitions.",
        example={"text": _TEXT},
    ),
    Endpoint(
        name="test_text",
        request=FeatureOnTextRequest,
        answer=analyse.feature_on_text,
        work=Work.ANALYSE,
        returns="tokens with the feature's pre_activations and activations, special, threshold, "
        "max_act.",
        example={"text": _TEXT, "feature": 12},
    ),
    Endpoint(
        name="tokens",
        request=TokensRequest,
        answer=analyse.tokens,
        work=Work.ANALYSE,  # it needs the model's tokenizer, and waits while that is loaded
        returns="tokens with number, id, text and whether each is special, and in a conversation "
        "turn and template.",
        example={"text": _TEXT},
    ),
    Endpoint(
        name="effects",
        request=EffectsRequest,
        answer=next_token.effects,
        work=Work.ANALYSE,
        returns="token, target with log-probability, base (the likeliest next tokens with "
        "probabilities, p and p_spliced), effects with position, feature, activation, kl, dlogp, "
        "estimate and exact, rank_correlation, joint, uniformity, definitions.",
        example={"text": "The old man walked into the", "limit": 10},
    ),
    Endpoint(
        name="compare",
        request=CompareRequest,
        answer=two_texts.compare,
        work=Work.ANALYSE,
        returns="a and b with their tokens, pairs of aligned ones with kl, predictions after them "
        "and at the ends, features with a, b, difference and fires_in, definitions.",
        example={"text": _TEXT, "other_text": _OTHER, "limit": 20},
    ),
    Endpoint(
        name="patch",
        request=PatchRequest,
        answer=two_texts.patch,
        work=Work.ANALYSE,
        returns="patched features with a, b, moved and kl_patched, pairs, predictions with the "
        "likeliest next tokens by A, B and the patched B, kl, kl_patched and moved, definitions.",
        example={"text": _TEXT, "other_text": _OTHER, "features": [5, 12]},
    ),
    Endpoint(
        name="splice",
        request=SpliceRequest,
        answer=switch.splice,
        work=Work.ANALYSE,
        returns="loss, delta and kl of none, each and all, what all cost beyond the sum of each, "
        "tokens, states, edits, definitions.",
        example={"text": _TEXT},
    ),
    Endpoint(
        name="steer",
        request=SteerRequest,
        answer=steer.steer,
        work=Work.GENERATE,
        returns="base and steered tokens with the edited features' activations, the edits in raw "
        "units, edited (tokens that each applied to and changed), sizes, warnings, and the "
        "settings that repeat the run.",
        example={
            "prompt": "The old man walked into the",
            "edits": [{"feature": 12, "mode": "set", "value": 4.0}],
            "max_new_tokens": 20,
        },
    ),
    Endpoint(
        name="ladder",
        request=LadderRequest,
        answer=find_strength.ladder,
        work=Work.SERIES,
        returns="rows, the first without edits, with strength, value, texts, tokens, fires, nll, "
        "distinct, size and usable; band (low, high, best, size; empty if no strength is usable), "
        "sentence, and the settings that repeat it.",
        example={
            "prompt": "The old man walked into the",
            "edits": [{"feature": 12, "mode": "set", "value": 4.0}],
            "max_new_tokens": 10,
            "strengths": [0.5, 1.0],
        },
    ),
    Endpoint(
        name="prove",
        request=ProveRequest,
        answer=prove.prove,
        work=Work.SERIES,
        returns="separates, sentence, rule, cost, controls (how they were chosen), arms with kind, "
        "feature, passed, low, high and runs (seed, share, nll, passed, tokens), and the settings "
        "and setup that repeat it.",
        example={
            "prompt": "The old man walked into the",
            "edits": [{"feature": 12, "mode": "set", "value": 4.0}],
            "max_new_tokens": 10,
            "seeds": 3,
        },
    ),
    Endpoint(
        name="explain",
        request=ExplainRequest,
        answer=explain.explain,
        work=Work.EXPLAIN,
        returns="explanations, the newest first, with text, model, prompt_version, correlation, "
        "detection and made; model, host and cost (requests, tokens_in, tokens_out) of asking, "
        "done (requests that are answered), definitions.",
        example={"feature": 12},
    ),
    Endpoint(
        name="ratings",
        request=RatingsRequest,
        answer=blind.ratings,
        work=Work.INDEX,
        returns="rated, of and next of the rater's plan; meaning (verdicts with rate, low and "
        "high per SAE, rater and band, alpha, kappas) and intruders (named, chance), definitions.",
        example={},
    ),
    Endpoint(
        name="check",
        request=CheckRequest,
        answer=trust.check,
        work=Work.CHECK,
        returns="state (green, amber, red; failed, or off where checks are switched off), "
        "sentence, and check: verdict, l0, fvu, declared_l0, declared_fvu, tokens, reading and "
        "the readings tried.",
        example={},
    ),
    Endpoint(
        name="threshold",
        request=ThresholdRequest,
        answer=threshold.threshold,
        work=Work.SERIES,
        returns="threshold, own_threshold, tokens, variants (as it is, this threshold, all ReLU) "
        "with frequency, l0, fvu and delta_lm_loss, gradient (thresholds, reconstruction, "
        "sparsity, standard_error, in_window, at, rests, sentence, units), definitions.",
        example={"feature": 12, "tokens": 100},
    ),
    Endpoint(
        name="map",
        request=MapRequest,
        answer=map_points.map_points,
        work=Work.INDEX,
        returns="computed (method, version and settings), total, dead, scored, sources, "
        "definitions; columns feature, x, y, frequency, source and output_score, each with dtype "
        "and data in base64; or of given features their number, signature and the same values.",
        example={"features": [12]},
    ),
    Endpoint(
        name="find",
        request=FindRequest,
        answer=find.find,
        work=Work.SERIES,
        returns="features with auroc, positive_mean, negative_mean, and positive and negative (the "
        "strongest token with text, token, activation, tokens and peak); positives, negatives and "
        "stand_in, firing (features that fire anywhere), chance (perfect, expected, any_perfect, "
        "smallest_p, sentence, longer), definitions.",
        example={
            "positives": [_TEXT, "An old woman sat by the door."],
            "negatives": [_OTHER],
            "limit": 5,
        },
    ),
    Endpoint(
        name="co_activation",
        request=CoActivationRequest,
        answer=neighbours.co_activation,
        work=Work.SERIES,
        returns="tokens, fires, together (features with jaccard, low, high, lift, both and "
        "either), other (sae, by, sentence, and features with value; empty without another SAE), "
        "definitions.",
        example={"feature": 12, "limit": 5, "tokens": 100},
    ),
    Endpoint(
        name="reproduce",
        request=ReproduceRequest,
        answer=provenance.reproduce,
        work=Work.ANALYSE,
        returns="value, model, dtype, device, attention, saes with source, content_hash and site, "
        "token_ids and script.",
        example={"asked": {"quantity": "loss", "text": _TEXT, "token": 3}},
    ),
)
