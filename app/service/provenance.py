"""Cards on request: which number is meant, checked, and what it was computed from.

`asked` says which number. One of a text's analysis:

    {"quantity", "sae", "text" or "messages", "token", "feature"}

with a quantity of `app.service.scripts.QUANTITIES`; an activation on a generated token:

    {"settings", "arm", "step", "edit", "when"}

with the settings that a steering run answered, the arm `base` or `steered`, the number of the new
token and of the edit (both from 0), and `own` or `after`; the number at the peak of a context on a
feature's page:

    {"sae", "feature", "group", "context"}

with the group's name and the number of the context in it (from 0), as `/feature` answers; a number
of a feature's effect on a prediction:

    {"effect", "sae", "text" or "messages", "token", "position", "feature", "target"}

with `kl`, `dlogp` or `estimate` as the effect, as `/effects` answers.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.engine.workbench import Workbench
from app.requests import (
    AnalysisNumber,
    ContextNumber,
    EffectNumber,
    ReproduceRequest,
    RequestError,
    RunNumber,
    SteerRequest,
    parsed,
    shown,
)
from app.service import scripts, token_rows
from app.service.next_token import NamedTokens, check_target, token_number
from app.service.scripts import (
    EFFECTS,
    QUANTITIES,
    TOTAL_QUANTITIES,
    UNIFORMITY,
    SAESource,
    Setup,
)
from app.service.steer import planned_run
from sae_core.bundle import Bundle
from sae_core.text_options import TextOptions

if TYPE_CHECKING:
    from app.engine.engine import Engine

ARMS = ("base", "steered")


def reproduce(workbench: Workbench, request: ReproduceRequest) -> dict[str, Any]:
    """What a number was computed from, and a script that prints it without the app."""
    given, settings = request.asked, workbench.settings
    if "settings" in given:
        return _of_run(workbench, parsed(RunNumber, given, settings))
    if "group" in given:
        return _of_context(workbench, parsed(ContextNumber, given, settings))
    if "effect" in given:
        return _of_effect(workbench, parsed(EffectNumber, given, settings))
    return _of_analysis(workbench, parsed(AnalysisNumber, given, settings))


def _of_analysis(workbench: Workbench, number: AnalysisNumber) -> dict[str, Any]:
    name, quantity = workbench.sae_name(number.sae), number.quantity
    names = (*QUANTITIES, UNIFORMITY)
    if quantity not in names:
        raise RequestError(
            f"Quantity must be one of {', '.join(names)}, not {shown(quantity)}.", "quantity"
        )
    engine = workbench.load()
    prompt = engine.prompt(number.text, number.messages)
    if quantity == UNIFORMITY:
        return scripts.uniformity_card(
            setup_of(engine, workbench.bundle),
            source_of(engine, workbench.bundle, name),
            prompt.ids,
            token_rows.finite(engine.uniformity(prompt.ids, name)),
        )
    analysis = engine.analyse(prompt.ids, name, workbench.sources.mean(name))
    token = feature = 0
    if quantity not in TOTAL_QUANTITIES:
        # Nothing predicts the first token.
        first = 0 if quantity == "activation" else 1
        token = _within(number.token, first, len(prompt.ids) - 1, "Token", "token")
    if quantity == "activation":
        feature = workbench.feature_number(name, _given(number.feature, "Feature", "feature"))
    value = scripts.analysed(analysis, quantity, token, feature)
    return scripts.analysis_card(
        setup_of(engine, workbench.bundle),
        source_of(engine, workbench.bundle, name),
        prompt.ids,
        quantity,
        token_rows.finite(value),
        token=token,
        feature=feature,
    )


def _of_effect(workbench: Workbench, number: EffectNumber) -> dict[str, Any]:
    from sae_core.effects import effects

    name = workbench.sae_name(number.sae)
    workbench.feature_number(name, number.feature)
    if number.effect not in EFFECTS:
        raise RequestError(
            f"Effect must be one of {', '.join(EFFECTS)}, not {shown(number.effect)}.", "effect"
        )
    engine = workbench.load()
    prompt = engine.prompt(number.text, number.messages)
    token = token_number(number.token, len(prompt.ids))
    check_target(number.target, len(engine.lm.vocabulary))
    position = _within(number.position, 0, token, "Position", "position")
    if engine.lm.is_special(prompt.ids)[position]:
        raise RequestError(f"Token {position} is special and keeps its activation.", "position")
    with engine.reading(prompt.ids, [name]) as lm:
        result = effects(lm, prompt.ids, name, position, read_at=token, target=number.target)
    if number.feature not in result.feature:
        raise RequestError(
            f"Feature {number.feature} is not active on token {position}.", "feature"
        )
    row = result.feature.tolist().index(number.feature)
    card = scripts.effect_card(
        setup_of(engine, workbench.bundle),
        source_of(engine, workbench.bundle, name),
        prompt.ids,
        number.effect,
        token_rows.finite(float(getattr(result, number.effect)[row])),
        token=token,
        position=position,
        feature=number.feature,
        target=number.target,
    )
    return card | {"target_text": NamedTokens(engine.lm.vocabulary)(number.target)["text"]}


def _of_run(workbench: Workbench, number: RunNumber) -> dict[str, Any]:
    planned = planned_run(workbench, parsed(SteerRequest, number.settings, workbench.settings))
    edits = [plan.as_run() for plan in planned.edits]
    engine = workbench.load()
    return scripts.generation_card(
        setup_of(engine, workbench.bundle),
        [
            source_of(engine, workbench.bundle, name)
            for name in dict.fromkeys(name for plan in planned.edits for name in plan.sae_names)
        ],
        planned.prompt.ids,
        edits,
        planned.sampling,
        arm=ARMS.index(number.arm),
        step=_within(number.step, 0, planned.max_new_tokens - 1, "New token", "step"),
        edit=_within(number.edit, 0, len(edits) - 1, "Edit", "edit"),
        when=number.when,
    )


def _of_context(workbench: Workbench, number: ContextNumber) -> dict[str, Any]:
    name = workbench.sae_name(number.sae)
    feature = workbench.feature_number(name, number.feature)
    index = workbench.index(name)
    page = index.feature(feature)
    groups = {each["name"]: each["contexts"] for each in page["groups"] if each["contexts"]}
    if not groups:
        raise RequestError(f"The index holds no context for feature {feature}.", "feature")
    if number.group not in groups:
        raise RequestError(
            f"Group must be one of {', '.join(groups)}, not {shown(number.group)}.", "group"
        )
    near_miss = number.group == "near_miss"
    contexts = groups[number.group]
    context = contexts[_within(number.context, 0, len(contexts) - 1, "Context", "context")]
    # docs/format.md: a share of the largest activation in 16 bits; a distance in 11 of precision.
    gap = page["threshold"] - context["value"]
    within = gap / 2**11 if near_miss else page["max_act"] / 65535 / 2
    engine = workbench.load()
    return scripts.context_card(
        setup_of(engine, workbench.bundle),
        source_of(engine, workbench.bundle, name),
        context,
        feature=feature,
        near_miss=near_miss,
        context_size=int(index.meta["context_size"]),
        options=TextOptions(**index.meta.get("text", {})),
        bos=engine.lm.tokenizer.bos_token_id is not None,
        within=within,
    )


def _given(value: int | None, title: str, field: str) -> int:
    if value is None:
        raise RequestError(f"{title} is missing: say its number.", field)
    return value


def _within(value: int | None, low: int, high: int, title: str, field: str) -> int:
    value = _given(value, title, field)
    if not low <= value <= high:
        raise RequestError(
            f"{title} must be a whole number from {low} to {high}, not {value}.", field
        )
    return value


def setup_of(engine: "Engine", bundle: Bundle) -> Setup:
    """How the model of a bundle runs, by names that a script can use."""
    folder = (bundle.path / bundle.model).resolve()
    model = str(folder)
    if not folder.is_dir():
        name, _, revision = bundle.model.partition("@")
        commit = getattr(engine.model.config, "_commit_hash", None) or revision
        model = f"{name}@{commit}" if commit else name
    return Setup(
        model=model,
        dtype=str(engine.dtype).removeprefix("torch."),
        device=str(engine.device),
        attention=engine.attention,
        ends=engine.ends,
    )


def source_of(engine: "Engine", bundle: Bundle, name: str) -> SAESource:
    """Where an SAE of a bundle comes from, at the commit that was used."""
    with engine.spliced([name]) as lm:
        cfg = lm.sae(name).cfg
    origin = cfg.metadata.get("source", {})
    source = str(Path(bundle.sae_source(name)).resolve())
    if "repo" in origin:
        source = f"{origin['repo']}/{origin['path']}@{origin['revision']}"
    index = bundle.index_path(name)
    return SAESource(
        name=name,
        source=source,
        content_hash=cfg.metadata.get("content_hash", ""),
        site=str(cfg.site),
        site_out=None if cfg.site_out is None else str(cfg.site_out),
        index=str(index.resolve()) if index.is_file() else None,
    )
