"""The bundle of a training run that has not written one yet: its SAEs come while it is served."""

from dataclasses import dataclass
from pathlib import Path

from sae_core.bundle import BUNDLE_FILE, Bundle
from sae_core.formats.origin import Origin
from training.run_status import is_run, model_of, status_of


@dataclass(frozen=True, kw_only=True, repr=False)
class RunBundle(Bundle):
    """The SAEs that a run is to make; of those that are not there yet, that is said instead."""

    every: int
    """Steps from one checkpoint to the next; 0: none before the end."""

    def _locate(self, name: str) -> tuple[Path, Origin | None]:
        if name in self.sae_names and not self.sae_path(name).is_dir():
            raise ValueError(self._not_yet(name))
        return super()._locate(name)

    def _not_yet(self, name: str) -> str:
        if status_of(self.path)[0] == "at work":
            checkpoints = (
                f"with a checkpoint (every {self.every:,} steps) or " if self.every else ""
            )
            return (
                f"SAE {name} is not there yet: it comes {checkpoints}at the end of the training "
                "run, whose page (Run) shows how far it is."
            )
        return (
            f"SAE {name} is not there: its training run ended before it was saved; the same "
            "jumpscope train command goes on with it."
        )


def is_bundle_to_come(folder: Path) -> bool:
    """Whether a folder is a training run's that holds no bundle yet."""
    return not (folder / BUNDLE_FILE).exists() and is_run(folder)


def run_bundle(folder: Path) -> RunBundle:
    """The bundle that a run in `folder` will be; ValueError with one sentence for settings that
    cannot be read.
    """
    # Only here: a run's settings take PyTorch.
    from training.results import title_of
    from training.run_folder import read_begun

    run = read_begun(folder)
    names = tuple(plan.name for plan in run.cfg.plans)
    return RunBundle(
        path=folder,
        name=run.name,
        title=title_of(run.cfg, names),
        model=model_of(folder) or run.cfg.model,
        sae_names=names,
        every=run.cfg.run.checkpoint_every,
    )
