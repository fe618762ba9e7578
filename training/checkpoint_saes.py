"""The SAEs of a run's checkpoints, with small indexes, for the app while the run goes on.

They are made beside the run's bundle and take their place in it at once, each SAE's weights and
index together, so that nobody ever sees one without the other or half of either, and a run that is
killed leaves the last whole ones. Like indexes of what has been read so far, they are made at
checkpoints that are far enough apart for that to take at most a tenth of the time.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from sae_core.bundle import INDEX_FILE
from sae_core.files import atomic_folder, keep_others
from sae_core.formats.saelens import load_sae
from sae_core.index import IndexConfig, Target, build_indexes
from sae_core.index.so_far import Spacing, gives_way
from sae_core.placement import wide_device
from sae_core.progress_bar import silent
from training.results import save_trained, write_run_bundle
from training.run_provenance import model_name
from training.sae_trainer import SAETrainer
from training.train_config import TrainConfig

log = logging.getLogger(__name__)

STAGE: Final = "checkpoint-saes.partial"
"""Folder in which they are made."""


class CheckpointSAEs:
    """Writes the SAEs of checkpoints into the run's bundle."""

    def __init__(self, cfg: TrainConfig, model: Any, tokenizer: Any) -> None:
        self._cfg, self._model, self._tokenizer = cfg, model, tokenizer
        self._spacing = Spacing(len(cfg.plans) * cfg.d_sae)

    def write(self, trainers: Sequence[SAETrainer], facts: dict[str, Any]) -> None:
        """Put the SAEs as they are now into the bundle, if it is time; `facts` go into their
        metadata. What goes wrong is logged, and the run goes on.
        """
        if not self._cfg.run.index_tokens or not self._spacing.due():
            return
        stage = Path(self._cfg.out) / STAGE
        with self._spacing.writing():
            try:
                self._write(stage, trainers, facts)
            except Exception as error:  # of files, DuckDB or the device: none is worth the run
                _report("going on without the features of this checkpoint", error)
            finally:
                shutil.rmtree(stage, ignore_errors=True)

    def _write(self, stage: Path, trainers: Sequence[SAETrainer], facts: dict[str, Any]) -> None:
        shutil.rmtree(stage, ignore_errors=True)
        names = [trainer.plan.name for trainer in trainers]
        for trainer in trainers:
            told = facts | {"steps_planned": self._cfg.steps}
            save_trained(self._cfg, self._tokenizer, trainer, told, stage / trainer.plan.name)
        index(self._cfg, self._model, self._tokenizer, [stage / name for name in names])
        for name in names:
            place = Path(self._cfg.out) / "saes" / name
            with atomic_folder(place) as temporary:
                keep_others(stage / name, temporary)
                if place.is_dir():
                    keep_others(place, temporary)
        write_run_bundle(self._cfg, names)


def index(cfg: TrainConfig, model: Any, tokenizer: Any, folders: Sequence[Path]) -> None:
    """Write a small index into each of these SAEs' folders, of held-out text where there is some.
    ValueError with one sentence if that cannot be done.
    """
    device = wide_device(next(model.parameters()).device)
    targets = [
        Target(sae=load_sae(folder, device), out_path=folder / INDEX_FILE) for folder in folders
    ]
    index_cfg = IndexConfig(
        corpus=cfg.eval_corpus or cfg.corpus,
        tokens=cfg.run.index_tokens,
        text=cfg.text,
        output_scores="off",
        fresh=True,
    )
    build_indexes(
        model, tokenizer, targets, index_cfg, model_name=model_name(cfg.model), progress=silent
    )


def renew_indexes(cfg: TrainConfig, model: Any, tokenizer: Any, folders: Sequence[Path]) -> None:
    """After a run: the indexes of its checkpoints become those of what it ended with; indexes of
    the same weights, and folders without one, stay as they are. What goes wrong is logged.
    """
    if not cfg.run.index_tokens:
        return
    try:
        outdated = [
            folder
            for folder in folders
            if (folder / INDEX_FILE).is_file()
            and gives_way(
                folder / INDEX_FILE,
                cfg.run.index_tokens,
                load_sae(folder).cfg.metadata["content_hash"],
            )
        ]
        if outdated:
            index(cfg, model, tokenizer, outdated)
    except Exception as error:  # as above: the run has ended well
        _report("the indexes of the last checkpoint stay, of other weights", error)


def _report(what: str, error: Exception) -> None:
    """Log an error: a known one's sentence, and of another where it is from."""
    if isinstance(error, ValueError | torch.OutOfMemoryError):
        log.warning("%s: %s", what, error)
    else:
        log.warning("%s: %s: %s", what, type(error).__name__, error, exc_info=error)
