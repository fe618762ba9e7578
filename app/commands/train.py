"""`jumpscope train`: SAEs from a language model and a corpus."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

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
        results = train(TrainConfig(**{name: getattr(self, name) for name in names}))
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


def _option(args: Sequence[str], flag: str) -> str | None:
    """The value that `args` give to `flag`, as `--flag value` or `--flag=value`."""
    for i, arg in enumerate(args):
        if arg == flag and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith(f"{flag}="):
            return arg.partition("=")[2]
    return None
