"""The check's sentence: what the numbers are, which reading fits, what to do next."""

import math

from torch import nn

from sae_core.check.judge import FEW_TOKENS, GOOD_FVU, Declared, Outcome
from sae_core.check.measure import Numbers
from sae_core.check.readings import Reading
from sae_core.config import SAEConfig, Site
from sae_core.sites import layers, module_path


def sentence(model: nn.Module, cfg: SAEConfig, outcome: Outcome) -> str:
    """One or two sentences of plain words that go with the outcome's verdict."""
    if not outcome.found.finite:
        return (
            "The model's activations hold values that are not finite numbers: run it in bfloat16 "
            "or float32, not in float16."
        )
    if outcome.here is None:
        return _unplaced(model, outcome)
    if outcome.fitting is not None:
        return _another(model, cfg, outcome, outcome.here, *outcome.fitting)
    beside = f"At {outcome.here.where} {_beside(outcome.found, outcome.declared)}"
    if outcome.fits:
        return _fitting(outcome, beside)
    if outcome.few:
        return (
            f"{beside}, but {_number(outcome.found.tokens)} tokens are too few to judge by: give "
            f"{FEW_TOKENS} or more."
        )
    tried = f"none of {outcome.others} other readings fits"
    if outcome.nearest is not None:
        reading, numbers = outcome.nearest
        tried += f" (the nearest, {reading}: {_these(numbers)})"
    if outcome.verdict == "red":
        model_name = cfg.model_name or "none is named"
        return (
            f"{beside}: {_hopeless(outcome)}, and {tried}. Check that the weights are whole and "
            f"belong to this model (theirs: {model_name})."
        )
    if outcome.declared.nothing:
        return (
            f"{beside}; nothing is declared to compare with, an SAE that is read right mostly has "
            f"an FVU below {GOOD_FVU}, and {tried}. Check its site and model."
        )
    return (
        f"{beside}; {tried}. The text may be unlike what the SAE was trained on: check it on text "
        "of that kind."
    )


def _fitting(outcome: Outcome, beside: str) -> str:
    few = f" These are few tokens: {_number(outcome.found.tokens)}." if outcome.few else ""
    if outcome.declared.nothing:
        return f"{beside}; nothing is declared to compare with, but that is a good SAE's.{few}"
    others = f", and none of {outcome.others} similar readings fits better" * bool(outcome.others)
    return f"{beside}: as it should be{others}.{few}"


def _another(
    model: nn.Module,
    cfg: SAEConfig,
    outcome: Outcome,
    here: Reading,
    reading: Reading,
    numbers: Numbers,
) -> str:
    there, ours = _these(numbers), _these(outcome.found)
    if reading.bos == "counted":
        return (
            f"The declared numbers count BOS as a token: so {there}; without it, as Jumpscope "
            f"counts, {ours}. Nothing needs to be changed."
        )
    if reading.bos == "absent":
        return (
            f"These look like an SAE of prompts without BOS: on those {there}; with BOS, which "
            f"Jumpscope puts before every prompt, {ours}. Its features are less exact here than "
            "where they were trained."
        )
    if reading.factor != 1:
        return (
            "The activations look as if they had been multiplied by about "
            f"{_number(reading.factor)} before training: read so, {there}; at {here.where} as it "
            f"is, {ours}. {_fold(cfg, reading, numbers)}"
        )
    if reading.scale == "none" and not reading.minus_b_dec:
        return (
            f"These look like {_kind(reading)} of {_described(model, reading)}: there {there}; at "
            f"the declared {here.where} {ours}. {_set_site(reading)}"
        )
    return (
        f"These weights expect {_expected(reading, numbers)}: read so, {there}; on the activations "
        f"of {here.where} as they are, {ours}. {_fold(cfg, reading, numbers)}"
    )


def _unplaced(model: nn.Module, outcome: Outcome) -> str:
    if outcome.fitting is None:
        return (
            f"The weights do not say where they read, and at none of {outcome.others} activations "
            f"of their width do they fit; the best numbers are: {_these(outcome.found)}. They "
            "probably belong to another model."
        )
    reading, numbers = outcome.fitting
    few = f" These are few tokens: {_number(numbers.tokens)}." if outcome.few else ""
    return (
        f"The weights do not say where they read. They look like {_kind(reading)} of "
        f"{_described(model, reading)}: there {_these(numbers)}. {_set_site(reading)}{few}"
    )


def _hopeless(outcome: Outcome) -> str:
    if not outcome.found.usable:
        return "the reconstruction is not made of finite numbers"
    if outcome.silent_or_dense:
        silent = outcome.found.l0 < 1
        return "hardly anything fires" if silent else "so much fires that nothing is sparse"
    return "the reconstruction is worse than the mean activation"


def _expected(reading: Reading, numbers: Numbers) -> str:
    scaled = {
        "none": "activations",
        "unit": (
            f"activations divided by {numbers.divisor:.3g}, so that their mean squared norm is 1"
        ),
        "sqrt_d": (
            f"activations divided by {numbers.divisor:.3g}, so that their mean norm is the root of "
            "their width"
        ),
        "layer_norm": "activations with each token's mean subtracted and divided by its deviation",
    }[reading.scale]
    if not reading.minus_b_dec:
        return scaled
    return f"{scaled}{' with' if reading.scale == 'none' else ', and then'} b_dec subtracted"


def _fold(cfg: SAEConfig, reading: Reading, numbers: Numbers) -> str:
    """How to change the weights so that they take raw activations."""
    if reading.scale == "layer_norm":
        return "No change of the weights can do that: this SAE cannot be used as it is."
    gated = cfg.architecture == "gated"
    steps = []
    if reading.minus_b_dec:
        also = " and exp(r_mag) times that from b_mag" if gated else ""
        steps.append(f"subtract b_dec @ W_enc from {'b_gate' if gated else 'b_enc'}{also}")
    if reading.scale != "none" or reading.factor != 1:
        names = ["b_gate", "b_mag"] if gated else ["b_enc"]
        names += ["threshold", "b_dec"] if cfg.architecture == "jumprelu" else ["b_dec"]
        listed = f"{', '.join(names[:-1])} and {names[-1]}"
        steps.append(f"multiply {listed} by the scale of its training, about {numbers.divisor:.3g}")
    return f"To fold that in, {', then '.join(steps)}."


def _kind(reading: Reading) -> str:
    return "an SAE" if reading.site == reading.target else "a transcoder"


def _set_site(reading: Reading) -> str:
    out = "" if reading.site == reading.target else f" --site-out {reading.target}"
    return f"To say so: jumpscope convert SOURCE TARGET --site {reading.site}{out}."


def _described(model: nn.Module, reading: Reading) -> str:
    """A reading's sites with the modules they are the input or output of."""
    sites = [reading.site] if reading.site == reading.target else [reading.site, reading.target]
    return " to ".join(f"{site} ({_module(model, site)})" for site in sites)


def _module(model: nn.Module, site: Site) -> str:
    path, side = module_path(model, site)
    block = f"{layers(model)[0]}.{site.layer}"
    name = path.removeprefix(block).removeprefix(".") or f"layer {site.layer}"
    unit = ", normed without gain" if site.kind == "mlp_in_unit" else ""
    return f"{name}'s {side}{unit}"


def _beside(found: Numbers, declared: Declared) -> str:
    """The numbers, each with the declared one behind it."""
    l0, fvu = (
        "" if value is None else f" (declared: {_number(value)})"
        for value in (declared.l0, declared.fvu)
    )
    return f"L0 is {_number(found.l0)}{l0} and FVU {_number(found.fvu)}{fvu}"


def _these(found: Numbers) -> str:
    return f"L0 is {_number(found.l0)} and FVU {_number(found.fvu)}"


def _number(value: int | float) -> str:
    """Two or three digits, as one says them."""
    if not math.isfinite(value):
        return "not defined"
    if abs(value) < 10:
        return f"{value:.2g}"
    return f"{value:.1f}" if abs(value) < 100 and value % 1 else f"{value:,.0f}"
