"""`jumpscope train`: SAEs from a language model and a corpus."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import tyro

from app.commands.shared import JSONFlag, shown, table, to_json
from training.train_config import PRESETS, TrainConfig

Preset = Literal["gemma_scope", "short_run", "frequency", "anthropic"]


@dataclass(frozen=True, kw_only=True)
class Train(TrainConfig):
    """Train SAEs: all sites, architectures, sparsities and rates in one pass over the activations.

    An interrupted run goes on from its last checkpoint when the same command is given again.
    """

    preset: Preset = "gemma_scope"
    """Where the other defaults come from: Gemma Scope's recipe, one for 100 M tokens, Gemma Scope's
    with a penalty on high frequencies, or Anthropic's of January 2025."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Train nothing and write nothing: say what would be trained, and estimate its time and memory
    from a probe of some seconds."""
    json: JSONFlag = False
    """Print a summary as JSON."""

    @staticmethod
    def variant(args: Sequence[str]) -> "type[Train]":
        """This class with the defaults of the preset that `args` ask for."""
        preset = _option(args, "--preset")
        if preset is None or preset not in get_args(Preset):
            return Train  # the default, or an unknown one, which parsing rejects
        defaults = {field.name: field for field in dataclasses.fields(Train)}
        changes = [
            (name, defaults[name].type, dataclasses.field(default=value))
            for name, value in PRESETS[preset].items()
        ]
        return dataclasses.make_dataclass(
            "Train", changes, bases=(Train,), frozen=True, kw_only=True
        )

    def execute(self) -> str | None:
        """Train, save, measure; of several processes under torchrun, the first one speaks."""
        from training.loop import train

        names = [field.name for field in dataclasses.fields(TrainConfig)]
        cfg = TrainConfig(**{name: getattr(self, name) for name in names})
        if self.dry_run:
            from training.dry_run import estimate

            plan = estimate(cfg).as_dict()
            return to_json(plan) if self.json else _as_text(plan)
        results = train(cfg)
        if not results:
            return None
        if self.json:
            return to_json({"saes": [result.as_dict() for result in results]})
        rows = [["SAE", "L0", "FVU", "delta LM loss", "folder"]]
        for result in results:
            measured = result.measured or {}
            numbers = (measured.get(key) for key in ("l0", "fvu", "delta_lm_loss"))
            rows.append([result.name, *(shown(number) for number in numbers), str(result.folder)])
        findings = [
            f"{result.name}: {finding.sentence}"
            for result in results
            for finding in result.findings
        ]
        return "\n".join([table(rows), *findings])


def _as_text(plan: dict[str, Any]) -> str:
    """A dry run as a table; what is estimated says so."""
    estimated = plan["estimate"]
    rate = f"{estimated['harvest_rate']:,.0f} tokens/s, {estimated['step_seconds']:.3g} s a step"
    rows = [
        ["SAEs", ", ".join(plan["saes"])],
        ["device", f"{plan['device']}, {plan['precision']}"],
        ["steps", f"{plan['steps']:,}"],
        ["tokens", f"{plan['tokens']:,} ({plan['harvested_tokens']:,} read by the model)"],
        ["buffer", f"{plan['buffer_tokens']:,} tokens, {_bytes(plan['buffer_bytes'])}"],
        ["checkpoints", f"{_bytes(plan['checkpoint_bytes'])} of disk at most"],
        ["time", f"about {_duration(estimated['seconds'])} (estimate: {rate})"],
        ["memory", f"about {_bytes(estimated['memory_bytes'])} (estimate)"],
        ["", "Nothing was trained or written; the probe took its steps at the run's start."],
    ]
    return table(rows)


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _option(args: Sequence[str], flag: str) -> str | None:
    """The value that `args` give to `flag`, as `--flag value` or `--flag=value`."""
    for i, arg in enumerate(args):
        if arg == flag and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith(f"{flag}="):
            return arg.partition("=")[2]
    return None
