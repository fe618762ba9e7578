"""The card behind "Reproduce this number": what a value was computed from, and a script for it.

A card names the model, SAE, content hash, revisions, token ids, site and dtype, and holds
a Python script that prints the value from these alone, without the app.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sae_core.text_options import TextOptions

if TYPE_CHECKING:
    from sae_core.splice import Analysis


TOKEN_QUANTITIES = ("loss", "spliced_loss", "delta", "kl")
"""What an analysis knows of each token, beside the activations."""
TOTAL_QUANTITIES = ("l0", "fvu", "ce_base", "ce_spliced", "delta_lm_loss", "kl_mean")
"""What it knows of the whole text; `kl_mean` is the mean of the tokens' `kl`."""
QUANTITIES = ("activation", *TOKEN_QUANTITIES, *TOTAL_QUANTITIES)
UNIFORMITY = "uniformity"
"""A number of the whole text that an analysis does not know."""
EFFECTS = ("kl", "dlogp", "estimate")
"""Numbers of one feature's effect on a prediction, as `sae_core.effects` names them."""


@dataclass(frozen=True, kw_only=True)
class SAESource:
    """An SAE as a script finds it."""

    name: str
    """Its name in the app."""
    source: str
    """A path, or a hub id with its revision."""
    content_hash: str
    """SHA-256 of its weights file, "" if it is not known."""
    site: str
    site_out: str | None
    index: str | None
    """Path of its index, which holds the mean that FVU's deviations are taken from."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How the app runs its model."""

    model: str
    """A path, or a hub id with its revision."""
    dtype: str
    """`float32` or `bfloat16`; SAEs always compute in float32."""
    device: str
    attention: str
    ends: frozenset[int]
    """Tokens that end a continuation."""


def analysed(analysis: "Analysis", quantity: str, token: int = 0, feature: int = 0) -> float:
    """A number of an analysis: the value that a card shows and its script prints."""
    if quantity == "activation":
        return analysis.activation_of(token, feature)
    if quantity in TOTAL_QUANTITIES:
        return float(analysis.totals[quantity.removesuffix("_mean")])
    if quantity == "delta":
        return float(analysis.spliced_loss[token]) - float(analysis.base_loss[token])
    columns = {"loss": analysis.base_loss, "spliced_loss": analysis.spliced_loss, "kl": analysis.kl}
    return float(columns[quantity][token])


def analysis_card(
    setup: Setup,
    sae: SAESource,
    ids: Sequence[int],
    quantity: str,
    value: float | None,
    *,
    token: int = 0,
    feature: int = 0,
) -> dict[str, Any]:
    """The card of a number of a text's analysis; `quantity` is one of `QUANTITIES`."""
    mean = ""
    setting_up = []
    if quantity == "fvu" and sae.index:
        setting_up = [
            f"mean = torch.from_numpy(Index.open({sae.index!r}).meta['mean_activation'])",
        ]
        mean = ", mean"
    expression = {
        "activation": f"analysis.activation_of(token={token}, feature={feature})",
        "loss": f"float(analysis.base_loss[{token}])",
        "spliced_loss": f"float(analysis.spliced_loss[{token}])",
        "delta": f"float(analysis.spliced_loss[{token}]) - float(analysis.base_loss[{token}])",
        "kl": f"float(analysis.kl[{token}])",
        **{name: f"analysis.totals[{name.removesuffix('_mean')!r}]" for name in TOTAL_QUANTITIES},
    }[quantity]
    imports = ["from sae_core.index import Index"] if mean else []
    script = _script(
        setup,
        [sae],
        imports,
        [
            f"ids = {list(ids)}",
            *setting_up,
            f"analysis = lm.analyse(ids, {sae.name!r}{mean})",
            f"print({expression})",
        ],
    )
    what = {"quantity": quantity, "value": value}
    if quantity == "activation":
        what |= {"feature": feature}
    if quantity not in TOTAL_QUANTITIES:
        what |= {"token": token}
    return _card(setup, [sae], ids, what, script)


def uniformity_card(
    setup: Setup, sae: SAESource, ids: Sequence[int], value: float | None
) -> dict[str, Any]:
    """The card of the uniformity of a text."""
    script = _script(
        setup,
        [sae],
        ["from sae_core.text_uniformity import uniformity_of_text"],
        [f"ids = {list(ids)}", f"print(uniformity_of_text(lm, ids, {sae.name!r})[0])"],
    )
    return _card(setup, [sae], ids, {"quantity": UNIFORMITY, "value": value}, script)


def effect_card(
    setup: Setup,
    sae: SAESource,
    ids: Sequence[int],
    effect: str,
    value: float | None,
    *,
    token: int,
    position: int,
    feature: int,
    target: int,
) -> dict[str, Any]:
    """The card of a number of a feature's effect on a prediction; `effect` is one of `EFFECTS`."""
    script = _script(
        setup,
        [sae],
        ["from sae_core.effects import effects"],
        [
            f"ids = {list(ids)}",
            f"result = effects(lm, ids, {sae.name!r}, {position}, read_at={token}, "
            f"target={target})",
            f"print(float(result.{effect}[result.feature.tolist().index({feature})]))",
        ],
    )
    what = {
        "quantity": f"effect_{effect}",
        "value": value,
        "token": token,
        "position": position,
        "feature": feature,
        "target": target,
    }
    return _card(setup, [sae], ids, what, script)


def generation_card(
    setup: Setup,
    saes: Sequence[SAESource],
    ids: Sequence[int],
    edits: Sequence[Mapping[str, Any]],
    run: Mapping[str, Any],
    *,
    arm: int,
    step: int,
    edit: int,
    when: str,
) -> dict[str, Any]:
    """The card of an activation on a generated token, without its value, which is on the page.

    `edits` have `feature`, `mode`, `value` (raw), `positions`, `sae`, and what else an edit of a
    request has; `run` has `max_new_tokens`, `temperature`, `seed`. The number is that of the
    feature of the `edit`-th edit on new token `step` (from 0) of `arm` (0 as it is, 1 steered);
    `when`: `own` (before the edit) or `after`.
    """
    watch = list(dict.fromkeys((e["sae"], e["feature"]) for e in edits))
    column = watch.index((edits[edit]["sae"], edits[edit]["feature"]))
    made = ", ".join(map(_edit, edits))
    options = ", ".join(
        f"{name}={run[name]!r}" for name in ("max_new_tokens", "temperature", "seed")
    )
    script = _script(
        setup,
        saes,
        [
            f"from sae_core.edits import {'Condition, ' if 'Condition(' in made else ''}Edit",
            "from sae_core.generation import generate",
        ],
        [
            f"ids = {list(ids)}",
            f"edits = [{made}]",
            f"ends = frozenset({sorted(setup.ends)})",
            f"steps = list(generate(lm, ids, [[], edits], {options}, watch={watch!r}, eos=ends))",
            f"print(steps[{step}].tokens[{arm}].{when}[{column}])",
        ],
    )
    what = {
        "quantity": "activation" if when == "own" else "activation after the edit",
        "feature": edits[edit]["feature"],
        "token": len(ids) + step,
        "arm": ("as it is", "steered")[arm],
    }
    return _card(setup, saes, ids, {**what, "edits": list(edits), **run}, script)


def context_card(
    setup: Setup,
    sae: SAESource,
    context: Mapping[str, Any],
    *,
    feature: int,
    near_miss: bool,
    context_size: int,
    options: TextOptions,
    bos: bool,
    within: float,
) -> dict[str, Any]:
    """The card of the number at the peak of a context, as the index stores it: to `within`.

    `context` is one of `Index.feature`'s, of an index of rows of `context_size` tokens, the first
    of them BOS or not, of documents that were read with `options`. The script reads the corpus from
    the files that its command line names.
    """
    row, place = divmod(context["offset"] + context["peak"], context_size - bos)
    token = place + bos
    document = {name: context[name] for name in ("document", "title", "source")}
    imports = ["import sys", "from sae_core.corpus import documents, token_rows"]
    given = f"sys.argv[1:], skip={document['document']}"
    if options != TextOptions():
        imports.append("from sae_core.text_options import TextOptions")
        given += f", options={options!r}"
    script = _script(
        setup,
        [sae],
        imports,
        [
            f"document = next(documents({given}))",
            f"assert (document.number, document.title) == {(*document.values(),)[:2]!r}",
            f"ids = list(token_rows([document], tokenizer, {context_size}))[{row}].ids.tolist()",
            f"pre_acts, acts = lm.pre_activations(ids, {sae.name!r}, [{feature}])",
            f"print({'pre_acts' if near_miss else 'acts'}[{token}, 0])",
        ],
    )
    what = {
        "quantity": "pre-activation" if near_miss else "activation",
        "value": context["value"],
        "within": within,
        "feature": feature,
        "token": token,
        **document,
        "row": row,
        "context_size": context_size,
    }
    return _card(setup, [sae], None, what, script)


def _edit(edit: Mapping[str, Any]) -> str:
    """An edit as Python makes it."""
    given = {name: edit[name] for name in ("feature", "mode", "value", "positions", "sae")}
    written = [f"{name}={_positions(value)!r}" for name, value in given.items()]
    if "condition_feature" in edit:
        parts = ", ".join(
            f"{name}={edit[f'condition_{name}']!r}" for name in ("feature", "above", "sae")
        )
        written.append(f"condition=Condition({parts})")
    if "fade" in edit:
        written.append(f"fade={edit['fade']!r}")
    return f"Edit({', '.join(written)})"


def _positions(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _card(
    setup: Setup,
    saes: Sequence[SAESource],
    ids: Sequence[int] | None,
    what: Mapping[str, Any],
    script: str,
) -> dict[str, Any]:
    return {
        **what,
        "model": setup.model,
        "dtype": setup.dtype,
        "device": setup.device,
        "attention": setup.attention,
        "saes": [
            {
                "name": sae.name,
                "source": sae.source,
                "content_hash": sae.content_hash,
                "site": sae.site,
                "site_out": sae.site_out,
            }
            for sae in saes
        ],
        "token_ids": None if ids is None else list(ids),
        "script": script,
    }


def _script(
    setup: Setup, saes: Sequence[SAESource], imports: Sequence[str], body: Sequence[str]
) -> str:
    """About ten lines of Python that load the same files, run `body` and print the value."""
    sources = ", ".join(f"{sae.name!r}: load_sae({sae.source!r}, {setup.device!r})" for sae in saes)
    lines = [
        *(line for line in imports if line.startswith("import ")),
        "import torch",
        *sorted(
            [
                "from sae_core.language_model import load_language_model",
                "from sae_core.sources import load_sae",
                "from sae_core.splice import SplicedLM",
                *(line for line in imports if line.startswith("from ")),
            ]
        ),
        f"model, tokenizer = load_language_model({setup.model!r}, torch.{setup.dtype}, "
        f"{setup.device!r}, attention={setup.attention!r})",
        f"lm = SplicedLM(model, tokenizer, {{{sources}}})",
        *(
            f"assert lm.sae({sae.name!r}).cfg.metadata['content_hash'] == {sae.content_hash!r}"
            for sae in saes
            if sae.content_hash
        ),
        *body,
    ]
    return "\n".join(lines) + "\n"
