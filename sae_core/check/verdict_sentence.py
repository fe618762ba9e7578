"""The check's sentence: what the numbers are, which convention fits, what to do next."""

from collections.abc import Sequence

from torch import nn

from sae_core.check.conventions import Convention
from sae_core.check.judge import FEW_TOKENS, Declared, Outcome
from sae_core.check.measure import Numbers
from sae_core.check.numbers_in_words import fvu_in_digits, in_digits, l0_in_digits
from sae_core.check.recommended_command import converted_to
from sae_core.config import SAEConfig, Site
from sae_core.sites import layers, module_path


def sentence(model: nn.Module, cfg: SAEConfig, outcome: Outcome) -> str:
    """A few sentences of plain words that go with the outcome's verdict."""
    return f"{_verdict(model, cfg, outcome)}{_sink(outcome.numbers)}"


def _verdict(model: nn.Module, cfg: SAEConfig, outcome: Outcome) -> str:
    if not outcome.numbers.finite:
        return (
            "The model's activations hold values that are not finite numbers: run it in bfloat16 "
            "or float32, not in float16."
        )
    if outcome.here is None:
        return _unplaced(model, outcome)
    if outcome.fitting is not None:
        return _another(model, cfg, outcome, outcome.here, *outcome.fitting)
    beside = f"At {outcome.here.where} {_beside(outcome.numbers, outcome.declared)}"
    if outcome.fits:
        return _fitting(outcome, beside)
    if outcome.few:
        tokens = in_digits(outcome.numbers.tokens)
        return f"{beside}, but {tokens} tokens are too few to judge by: give {FEW_TOKENS} or more."
    tried = f"none of {outcome.others} other conventions fits"
    if outcome.nearest is not None:
        convention, numbers = outcome.nearest
        tried += f" (the nearest, {convention}: {_these(numbers)})"
    if outcome.verdict == "red":
        model_name = cfg.model_name or "none is named"
        return (
            f"{beside}: {_hopeless(outcome)}, and {tried}. Check that the weights are whole and "
            f"belong to this model (theirs: {model_name})."
        )
    if outcome.declared.nothing:
        return (
            f"{beside}; nothing is declared to compare with, an SAE that is read right mostly has "
            f"an FVU below {outcome.declared.good_fvu}, and {tried}. Check its site and model."
            f"{_besides(outcome)}"
        )
    return (
        f"{beside}; {tried}. The text may be unlike what the SAE was trained on: check it on text "
        f"of that kind.{_besides(outcome)}"
    )


def _fitting(outcome: Outcome, beside: str) -> str:
    few = f" These are few tokens: {in_digits(outcome.numbers.tokens)}." if outcome.few else ""
    if outcome.nearest is not None:
        convention, numbers = outcome.nearest
        return (
            f"{beside}, but no FVU is declared to compare with, and {convention} is nearer to what "
            f"an SAE should give ({_these(numbers)}), though not near enough to be named with "
            f"confidence. Check its site.{_besides(outcome)}"
        )
    if outcome.flaws:
        compared = "; nothing is declared to compare with" if outcome.declared.nothing else ""
        return (
            f"{beside}{compared}. It seems to be read as it was meant to be, but "
            f"{_listed(outcome.flaws)}: train it again, or choose another.{few}"
        )
    if outcome.declared.nothing:
        return f"{beside}; nothing is declared to compare with, but that is a good SAE's.{few}"
    others = ""
    if outcome.others:
        others = f", and none of {outcome.others} similar conventions fits better"
    return f"{beside}: as it should be{others}.{few}"


def _another(
    model: nn.Module,
    cfg: SAEConfig,
    outcome: Outcome,
    here: Convention,
    convention: Convention,
    numbers: Numbers,
) -> str:
    there, ours = _these(numbers), _these(outcome.numbers)
    if convention.bos == "counted":
        return (
            f"The declared numbers count BOS as a token: so {there}; without it, as Jumpscope "
            f"counts, {ours}. Nothing needs to be changed."
        )
    if convention.bos == "absent":
        return (
            f"These look like an SAE of prompts without BOS: on those {there}; with BOS, which "
            f"Jumpscope puts before every prompt, {ours}. Its features are less exact here than "
            "where they were trained."
        )
    if convention.factor != 1:
        return (
            "The activations look as if they had been multiplied by about "
            f"{in_digits(convention.factor)} before training: read so, {there}; at {here.where} as "
            f"it is, {ours}. {_fold(cfg, convention, numbers)}"
        )
    if convention.scale == "none" and not convention.minus_b_dec:
        return (
            f"These look like {_kind(convention)} of {_described(model, convention)}: there "
            f"{there}; at the declared {here.where} {ours}. {_set_site(convention)}"
        )
    return (
        f"These weights expect {_expected(convention, numbers)}: read so, {there}; on the "
        f"activations of {here.where} as they are, {ours}. {_fold(cfg, convention, numbers)}"
    )


def _besides(outcome: Outcome) -> str:
    return f" Besides, {_listed(outcome.flaws)}." if outcome.flaws else ""


def _listed(clauses: Sequence[str]) -> str:
    return ", and ".join(clauses)


def _unplaced(model: nn.Module, outcome: Outcome) -> str:
    if outcome.fitting is None:
        where = "" if outcome.nearest is None else f", those at {outcome.nearest[0]},"
        return (
            f"The weights do not say where they read, and at none of {outcome.others} activations "
            f"of their width do they give what an SAE should; the best numbers{where} are: "
            f"{_these(outcome.numbers)}. They probably belong to another model, or their training "
            "failed."
        )
    convention, numbers = outcome.fitting
    few = f" These are few tokens: {in_digits(numbers.tokens)}." if outcome.few else ""
    return (
        f"The weights do not say where they read. They look like {_kind(convention)} of "
        f"{_described(model, convention)}: there {_these(numbers)}. {_set_site(convention)}{few}"
    )


def _hopeless(outcome: Outcome) -> str:
    if not outcome.numbers.usable:
        return "the reconstruction is not made of finite numbers"
    if outcome.absurd:
        dead = outcome.numbers.l0 < 1
        return "hardly anything fires" if dead else "so much fires that nothing is sparse"
    return "the reconstruction is worse than the mean activation"


def _expected(convention: Convention, numbers: Numbers) -> str:
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
    }[convention.scale]
    if not convention.minus_b_dec:
        return scaled
    return f"{scaled}{' with' if convention.scale == 'none' else ', and then'} b_dec subtracted"


def _fold(cfg: SAEConfig, convention: Convention, numbers: Numbers) -> str:
    """How to change the weights so that they take raw activations."""
    if convention.scale == "layer_norm":
        return "No change of the weights can do that: this SAE cannot be used as it is."
    gated = cfg.architecture == "gated"
    steps = []
    if convention.minus_b_dec:
        also = " and exp(r_mag) times that from b_mag" if gated else ""
        steps.append(f"subtract b_dec @ W_enc from {'b_gate' if gated else 'b_enc'}{also}")
    if convention.scale != "none" or convention.factor != 1:
        names = ["b_gate", "b_mag"] if gated else ["b_enc"]
        names += ["threshold", "b_dec"] if cfg.architecture == "jumprelu" else ["b_dec"]
        listed = f"{', '.join(names[:-1])} and {names[-1]}"
        steps.append(f"multiply {listed} by the scale of its training, about {numbers.divisor:.3g}")
    return f"To fold that in, {', then '.join(steps)}."


def _kind(convention: Convention) -> str:
    return "an SAE" if convention.site == convention.target else "a transcoder"


def _set_site(convention: Convention) -> str:
    target = None if convention.site == convention.target else convention.target
    return f"To say so: {converted_to(convention.site, target)} writes a copy that does."


def _described(model: nn.Module, convention: Convention) -> str:
    """A convention's sites with the modules they are the input or output of."""
    sites = dict.fromkeys((convention.site, convention.target))
    return " to ".join(f"{site} ({_module(model, site)})" for site in sites)


def _module(model: nn.Module, site: Site) -> str:
    path, side = module_path(model, site)
    block = f"{layers(model)[0]}.{site.layer}"
    name = path.removeprefix(block).removeprefix(".") or f"layer {site.layer}"
    unit = ", normed without gain" if site.kind == "mlp_in_unit" else ""
    return f"{name}'s {side}{unit}"


def _beside(numbers: Numbers, declared: Declared) -> str:
    """The numbers, each with the declared one behind it."""
    l0 = "" if declared.l0 is None else f" (declared: {l0_in_digits(declared.l0)})"
    fvu = "" if declared.fvu is None else f" (declared: {fvu_in_digits(declared.fvu)})"
    return f"L0 is {l0_in_digits(numbers.l0)}{l0} and FVU {fvu_in_digits(numbers.fvu)}{fvu}"


def _these(numbers: Numbers) -> str:
    return f"L0 is {l0_in_digits(numbers.l0)} and FVU {fvu_in_digits(numbers.fvu)}"


def _sink(numbers: Numbers) -> str:
    """What was left out of the numbers; empty if nothing was."""
    if not numbers.sink_tokens:
        return ""
    several = "s" if numbers.sink_tokens > 1 else ""
    return (
        " The first token of each prompt is an attention sink of this model, which has no BOS, and "
        f"is left out ({in_digits(numbers.sink_tokens)} token{several})."
    )
