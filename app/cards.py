"""Cards on request: which number is meant, checked, and what it was computed from.

A number is asked for as a dict. One of a text's analysis:

    {"quantity", "sae", "text" or "messages", "token", "feature"}

with a quantity of `app.reproduce.QUANTITIES`; an activation on a generated token:

    {"settings", "arm", "step", "edit", "when"}

with the settings that a steering run answered, the arm `base` or `steered`, the number of the new
token and of the edit (both from 0), and `own` or `after`; the number at the peak of a context on a
feature's page:

    {"sae", "feature", "group", "context"}

with the group's name and the number of the context in it (from 0), as `Service.feature` answers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app import checks, prompting, reproduce
from app.engine import Engine
from app.planning import planned_run
from app.reproduce import QUANTITIES, TOTAL_QUANTITIES, SAESource, Setup
from app.served import Served
from sae_core.bundle import Bundle

ARMS = ("base", "steered")
_SETTINGS = ("prompt", "messages", "edits", "sae", "max_new_tokens", "temperature", "seed")


def card(served: Served, asked: object) -> dict[str, Any]:
    """The card of the number that is asked for; ValueError with one sentence if there is none."""
    if not isinstance(asked, Mapping):
        raise ValueError("Say which number: an object with a quantity, or a run's settings.")
    if "settings" in asked:
        return _of_run(served, asked)
    return _of_context(served, asked) if "group" in asked else _of_analysis(served, asked)


def _of_analysis(served: Served, asked: Mapping[str, Any]) -> dict[str, Any]:
    name = served.sae_name(asked.get("sae"))
    quantity = checks.choice(asked.get("quantity"), "The quantity", QUANTITIES)
    engine = served.load()
    prompt = engine.prompt(asked.get("text", ""), asked.get("messages"))
    analysis = engine.analyse(prompt.ids, name, served.known.mean(name))
    token = feature = 0
    if quantity not in TOTAL_QUANTITIES:
        # Nothing predicts the first token.
        first = 0 if quantity == "activation" else 1
        token = checks.whole(asked.get("token"), "The token", first, len(prompt.ids) - 1)
    if quantity == "activation":
        feature = served.feature_number(name, asked.get("feature"))
    value = reproduce.analysed(analysis, quantity, token, feature)
    return reproduce.analysis_card(
        setup_of(engine, served.bundle),
        source_of(engine, served.bundle, name),
        prompt.ids,
        quantity,
        prompting.finite(value),
        token=token,
        feature=feature,
    )


def _of_run(served: Served, asked: Mapping[str, Any]) -> dict[str, Any]:
    run = asked["settings"]
    if not isinstance(run, Mapping):
        raise ValueError("The settings must be those that a steering run answered.")
    if unknown := sorted(set(map(str, run)) - set(_SETTINGS)):
        raise ValueError(f"The settings have the unknown entry {checks.shown(unknown[0])}.")
    planned = planned_run(served, **run)
    arm = checks.choice(asked.get("arm"), "The arm", ARMS)
    edits = [
        {
            "feature": plan.feature,
            "mode": plan.mode,
            "value": plan.edit.value,
            "positions": plan.positions,
            "sae": plan.sae,
        }
        for plan in planned.edits
    ]
    engine = served.load()
    return reproduce.generation_card(
        setup_of(engine, served.bundle),
        [
            source_of(engine, served.bundle, name)
            for name in dict.fromkeys(plan.sae for plan in planned.edits)
        ],
        planned.prompt.ids,
        edits,
        planned.sampling,
        arm=ARMS.index(arm),
        step=checks.whole(asked.get("step"), "The new token", 0, planned.max_new_tokens - 1),
        edit=checks.whole(asked.get("edit"), "The edit", 0, len(edits) - 1),
        when=checks.choice(asked.get("when", "own"), "The moment", ("own", "after")),
    )


def _of_context(served: Served, asked: Mapping[str, Any]) -> dict[str, Any]:
    name = served.sae_name(asked.get("sae"))
    feature = served.feature_number(name, asked.get("feature"))
    index = served.index(name)
    known = index.feature(feature)
    groups = {each["name"]: each["contexts"] for each in known["groups"] if each["contexts"]}
    if not groups:
        raise ValueError(f"The index holds no context for feature {feature}.")
    group = checks.choice(asked.get("group"), "The group", tuple(groups))
    last = len(groups[group]) - 1
    context = groups[group][checks.whole(asked.get("context"), "The context", 0, last)]
    near_miss = group == "near_miss"
    # docs/format.md: a share of the largest activation in 16 bits; a distance in 11 of precision.
    gap = known["threshold"] - context["value"]
    within = gap / 2**11 if near_miss else known["max_act"] / 65535 / 2
    engine = served.load()
    return reproduce.context_card(
        setup_of(engine, served.bundle),
        source_of(engine, served.bundle, name),
        context,
        feature=feature,
        near_miss=near_miss,
        context_size=int(index.meta["context_size"]),
        bos=engine.lm.tokenizer.bos_token_id is not None,
        within=within,
    )


def setup_of(engine: Engine, bundle: Bundle) -> Setup:
    """How the model of a bundle runs, by names that a script can use."""
    folder = (bundle.path / bundle.model).resolve()
    model = str(folder)
    if not folder.is_dir():
        name, _, asked = bundle.model.partition("@")
        commit = getattr(engine.model.config, "_commit_hash", None) or asked
        model = f"{name}@{commit}" if commit else name
    return Setup(
        model=model,
        dtype=str(engine.dtype).removeprefix("torch."),
        device=str(engine.device),
        attention=engine.attention,
        ends=engine.ends,
    )


def source_of(engine: Engine, bundle: Bundle, name: str) -> SAESource:
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
