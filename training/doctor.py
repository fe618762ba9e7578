"""The doctor: named checks of a run's metrics that say what to change.

A check is a function of the lines of metrics.jsonl so far (one SAE's, the newest last), of what the
run is to reach, and of whether the check found something in the line before; it returns None, or a
sentence. Runs fail quietly in a few ways only, and each shows in these numbers long before the end.
What has been found holds until the number is well inside its limit, so that noise around the limit
does not make it come and go. A run of a few steps shows nothing: of it, no more is said than that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from training.assembly import penalises_l0
from training.losses.base import Limits
from training.optim import rate_share, sparsity_share
from training.recipes import RECIPES
from training.step import DEAD_TOKENS
from training.train_config import Plan, TrainConfig

Line = dict[str, Any]

LEAST_STEPS = 100
"""Steps of a run below which its numbers are those of its start, whatever the settings."""
CALM = 2 / 3
"""Share of its limit that a number must come within before what was found is over."""
FROZEN = 0.01
"""Relative move of every quantile of the thresholds below which they count as frozen: a threshold
that learns moves by more than that in a hundred steps."""
LEAST_DRIFT = 10
"""Steps at the full learning rate after which a threshold must have moved."""
SATURATED = 0.99
"""Share of its bound at which a multiplier is as far as it goes."""
FULL_COEFFICIENT = 1.0
"""target_coefficient from which on a larger one moves an L0 no faster."""
ALL_DEAD = 0.9
"""Share of features without activity at which hardly anything is learned any more."""
MANY_DEAD = 0.25
"""The same at which a run is worth repeating with other settings."""
FEWEST_ACTIVE = 0.5
"""Active features per token below which a reconstruction is little more than its bias."""
ALL_DENSE = 0.25
"""Share of all features active on a token above which an SAE is not sparse."""
FEWEST_IN_WINDOW = 0.05
"""Pre-activations in a feature's window, per step, below which its threshold learns from next to
nothing: one sample in twenty steps."""
OUTLIER = 10
"""Norm over the median norm above which a token counts as a hundred others in the squared error."""
FAR = 0.1
"""Relative distance from the target L0 that is worth a word while a run goes on."""
FAR_AT_END = 0.03
"""The same after the last step."""
RECENT = 3
"""Lines over whose mean an L0 is taken, which of a single small line is noisy."""
SETTLED = 0.3
"""Share of the steps after the warm-up of the penalty that an L0 is given to settle."""


@dataclass(frozen=True)
class Finding:
    """The result of a check: its name and a sentence that says what to change."""

    check: str
    sentence: str


@dataclass(frozen=True)
class Goal:
    """What a run is to make of one SAE."""

    cfg: TrainConfig
    plan: Plan
    limits: Limits

    def full(self, line: Line) -> bool:
        """Whether the penalty is at its full strength."""
        return sparsity_share(self.cfg, line["step"]) >= 1

    def over(self, line: Line) -> bool:
        """Whether this is the last line of the run."""
        return line["step"] == self.cfg.steps

    def settled(self, line: Line) -> bool:
        """Whether the L0 has had time to settle."""
        warmup = self.cfg.in_steps(self.cfg.sparsity_warmup)
        return line["step"] >= warmup + SETTLED * max(0, self.cfg.steps - warmup)


Check = Callable[[Sequence[Line], Goal, bool], str | None]


def _above(value: float, limit: float, held: bool) -> bool:
    """Whether a number is above its limit or, where it was, not well below it."""
    return value > limit * (CALM if held else 1)


def _below(value: float, limit: float, held: bool) -> bool:
    """Whether a number is below its limit or, where it was, not well above it."""
    return value < limit / (CALM if held else 1)


def not_finite(lines: Sequence[Line], goal: Goal, held: bool) -> str | None:
    """A loss that is infinite or not a number."""
    if lines[-1]["loss"] is not None:
        return None
    return (
        f"the loss of {goal.plan.name} is no longer finite at step {lines[-1]['step']:,}: "
        "lower lrs, or check the model's activations."
    )


def too_short(lines: Sequence[Line], goal: Goal, held: bool) -> str | None:
    """A run of so few steps that nothing can be said of it; known from the start."""
    if goal.cfg.steps >= LEAST_STEPS:
        return None
    return (
        f"a run of {goal.cfg.steps} steps is too short to train an SAE or to judge it by: give "
        f"tokens {LEAST_STEPS * goal.cfg.batch:,} or more ({LEAST_STEPS} steps of batch)."
    )


def thresholds_frozen(lines: Sequence[Line], goal: Goal, held: bool) -> str | None:
    """Thresholds that are where they began."""
    line = lines[-1]
    if goal.plan.architecture != "jumprelu" or goal.cfg.loss.decoder == "free":
        return None
    names = [f"threshold_{q}" for q in ("p05", "p50", "p95")]
    # A fitted start is not known here: the first line is as near to it as can be seen.
    given = goal.cfg.threshold_init
    start = dict.fromkeys(names, given) if given else {name: lines[0][name] for name in names}
    moved = any(
        not _below(abs(line[name] - start[name]), FROZEN * start[name], held) for name in names
    )
    since = max(0 if given else lines[0]["step"], goal.cfg.in_steps(goal.cfg.lr_warmup))
    seen = line["step"] - since
    if moved or seen < LEAST_DRIFT:
        return None
    return (
        f"thresholds are where they began ({start['threshold_p50']:g}): raise lrs or bandwidth, "
        "or begin with larger ones (threshold_init)."
    )


def ends_in_warm_up(lines: Sequence[Line], goal: Goal, held: bool) -> str | None:
    """A run that is over before the penalty has reached its full strength; known from the start."""
    steps, warmup = goal.cfg.steps, goal.cfg.in_steps(goal.cfg.sparsity_warmup)
    penalised = RECIPES[goal.plan.architecture].has_lambda
    if not penalised or warmup <= steps:
        return None
    return (
        f"the run ends after {steps:,} steps, before its penalty is at full strength (after "
        f"{warmup:,}): train longer or shorten sparsity_warmup."
    )


def lambda_saturated(lines: Sequence[Line], goal: Goal, held: bool) -> str | None:
    """A multiplier that can go no further, with the L0 still away from its target."""
    line, target = lines[-1], goal.plan.l0_target
    if target is None or not _above(abs(line["multiplier"]), SATURATED * goal.limits.bound, held):
        return None
    if not _above(abs(_recent_l0(lines) / target - 1), FAR_AT_END, held):
        return None
    strong = line["multiplier"] > 0
    if penalises_l0(goal.cfg, goal.plan):
        change = f"raise {_rates(goal)}"
        if goal.cfg.loss.target_coefficient < FULL_COEFFICIENT:
            change += ", or target_coefficient"
    else:
        change = "choose other lrs, or a target nearer to this"
    return (
        f"the penalty is as {'strong' if strong else 'weak'} as it gets and the L0 is "
        f"{_recent_l0(lines):.4g}, not {target:g}: {change}."
    )


def all_dead(lines: Sequence[Line], goal: Goal, held: bool) -> str | None:
    """Hardly any feature is active."""
    line = lines[-1]
    enough = line["tokens"] >= DEAD_TOKENS or goal.full(line)
    l0 = _recent_l0(lines)
    many = _below(1 - line["dead"], 1 - ALL_DEAD, held)
    if not enough or not (many or _below(l0, FEWEST_ACTIVE, held)):
        return None
    dead = f"{line['dead']:.0%} of the features are dead and " if many else "only "
    return (
        f"{dead}{l0:.3g} features are active per token: "
        f"lower {_pressure(goal)} or lrs, or lengthen sparsity_warmup."
    )


def many_dead(lines: Sequence[Line], goal: Goal, held: bool) -> str | None:
    """A good part of the features is dead, and will stay so."""
    line = lines[-1]
    if not _above(line["dead"], MANY_DEAD, held) or not (goal.over(line) or goal.settled(line)):
        return None
    unused = goal.plan.architecture == "jumprelu" and not goal.cfg.loss.revive
    changes = ["set revive (10)"] * unused + ["lower lrs"]
    changes += ["lower lambdas"] * (goal.plan.lambda_ is not None)
    return (
        f"{line['dead']:.0%} of the features are dead: {', '.join(changes)}, "
        "or have fewer features (d_sae)."
    )


def all_dense(lines: Sequence[Line], goal: Goal, held: bool) -> str | None:
    """A large share of all features is active."""
    line, l0 = lines[-1], _recent_l0(lines)
    if not goal.full(line) or not _above(l0, ALL_DENSE * goal.cfg.d_sae, held):
        return None
    if goal.plan.l0_target is not None and not goal.settled(line):
        return None
    if goal.plan.l0_target is None:
        change = "raise lambdas, or give l0_targets instead"
    else:
        wanted = goal.plan.l0_target > ALL_DENSE * goal.cfg.d_sae
        change = "lower l0_targets" if wanted else f"raise {_rates(goal)}"
    return (
        f"{l0:.4g} of {goal.cfg.d_sae} features are active per token, "
        f"which is not sparse: {change}."
    )


def bandwidth_narrow(lines: Sequence[Line], goal: Goal, held: bool) -> str | None:
    """Too few pre-activations near thresholds to learn from."""
    share = lines[-1].get("in_window")
    if share is None:
        return None
    seen = share * goal.cfg.batch
    if not _below(seen, FEWEST_IN_WINDOW, held) or _recent_l0(lines) < FEWEST_ACTIVE:
        return None
    return (
        f"a threshold sees {seen:.2g} pre-activations per step: "
        f"make bandwidth ({goal.cfg.bandwidth:g}) larger."
    )


def outliers(lines: Sequence[Line], goal: Goal, held: bool) -> str | None:
    """Tokens whose activations are many times longer than others."""
    ratio = lines[-1]["norm_max"] / max(lines[-1]["norm_p50"], 1e-30)
    if not _above(ratio, OUTLIER, held):
        return None
    return (
        f"activations at {goal.plan.site} are up to {ratio:.3g} times as long as their median: "
        "few tokens make most of the loss; choose another site, or leave those tokens out of the "
        "corpus."
    )


def l0_far(lines: Sequence[Line], goal: Goal, held: bool) -> str | None:
    """An L0 that has settled away from its target, or one that a run ends with."""
    line, target = lines[-1], goal.plan.l0_target
    over = goal.over(line)
    if target is None or not (over or goal.settled(line)):
        return None
    l0 = _recent_l0(lines)
    distance = l0 / target - 1
    if not _above(abs(distance), FAR_AT_END if over else FAR, held):
        return None
    return (
        f"the L0 is {l0:.4g}, {abs(distance):.0%} {'above' if distance > 0 else 'below'} "
        f"its target of {target:g}: {_nearer(line, goal)}."
    )


def _recent_l0(lines: Sequence[Line]) -> float:
    recent = [line["l0"] for line in lines[-RECENT:]]
    return sum(recent) / len(recent)


def _nearer(line: Line, goal: Goal) -> str:
    recent = rate_share(goal.cfg, max(0, line["step"] - 1))
    if goal.plan.architecture == "topk":
        return "fewer than k pre-activations are positive; lower k"
    if recent < FAR and line["step"] < goal.cfg.steps:
        return f"lr is nearly 0 by now; train longer or raise {_rates(goal)}"
    return f"train longer, or raise {_rates(goal)}"


def _rates(goal: Goal) -> str:
    """What moves an L0 faster: no coefficient does, Adam's steps being of one size anyway."""
    slower = goal.plan.architecture == "jumprelu" and goal.cfg.loss.vector_rate < 1
    return "lrs or vector_rate" if slower else "lrs"


def _pressure(goal: Goal) -> str:
    if goal.plan.lambda_ is not None:
        return "lambdas"
    return "target_coefficient" if penalises_l0(goal.cfg, goal.plan) else "lrs"


CHECKS: dict[str, Check] = {
    "loss-not-finite": not_finite,
    "too-short": too_short,
    "thresholds-frozen": thresholds_frozen,
    "ends-in-warm-up": ends_in_warm_up,
    "lambda-saturated": lambda_saturated,
    "all-dead": all_dead,
    "many-dead": many_dead,
    "all-dense": all_dense,
    "bandwidth-narrow": bandwidth_narrow,
    "outliers": outliers,
    "l0-far": l0_far,
}
"""Name -> check, the gravest first."""
ALONE = ("loss-not-finite", "too-short")
"""Checks that leave nothing to be said by those after them."""
OF_L0 = ("ends-in-warm-up", "lambda-saturated", "all-dense", "l0-far")
OF_DEAD = ("all-dead", "many-dead")
"""Checks that see one L0, or one share of dead features, from several sides: of these, only the
first that finds something says so."""


def alike(check: str) -> tuple[str, ...]:
    """The checks that see what this one sees, itself included."""
    return next((group for group in (OF_L0, OF_DEAD) if check in group), (check,))


def examine(lines: Sequence[Line], goal: Goal) -> list[Finding]:
    """What the checks find in the newest line; the `findings` of the line before are what held.

    Of a run's last line only what it shows itself counts: that is what the run ended with.
    """
    last = len(lines) < 2 or goal.over(lines[-1])
    held = set() if last else set(lines[-2].get("findings", ()))
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        if any(finding.check in alike(name) for finding in findings):
            continue
        if sentence := check(lines, goal, name in held):
            findings.append(Finding(name, sentence))
            if name in ALONE:
                break
    return findings
