"""A training step whose loss and gradients come from lists of active features: `ListedStep`.

The encoder's product is computed in full, and all else for the entries of
`training.sparse_features`; the update is the dense step's, of every row: most of these rules cut
the gradient, for which all of it must be known before anything moves. The state is always that of
the dense step, so that either may follow the other.
"""

from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor

from training.kernels.entries import room
from training.losses import BatchStats, Parameters
from training.losses.base import FeatureLoss
from training.optim import Control
from training.shard import ALONE, Shard
from training.sparse_features import SparseFeatures, TooManyError
from training.sparse_step import report
from training.step import DenseStep, Setting, State

MOST = 1 / 128
"""Share of a batch's (token, feature) pairs above which the dense step is taken: half of
JumpReLU's, because an entry costs as much, and there is less to be saved."""
PAUSE = 15
"""Dense steps that follow one whose entries were too many, before they are counted again: it takes
the encoder's product to count them, of which a dense step has five and more."""


def lists_for(device: torch.device) -> ModuleType:
    """The kernels in Triton on CUDA, plain PyTorch elsewhere."""
    if device.type == "cuda":
        from training.kernels import fused_lists

        return fused_lists
    from training.kernels import plain_lists

    return plain_lists


class ListedStep:
    """The step of an SAE with a `FeatureLoss`, its parameters held in `feature_rows`.

    Where a batch has more entries than the lists have room for, the dense step is taken, and
    `PAUSE` more of them. Waits for the device once a step, for the number of entries, with the
    gradients already on their way.
    """

    def __init__(
        self,
        state: State,
        loss: FeatureLoss,
        setting: Setting,
        dense: DenseStep,
        *,
        kernels: ModuleType | None = None,
        most: float | None = None,
        pause: int = PAUSE,
        shard: Shard = ALONE,
        name: str = "SAE",
    ) -> None:
        """`dense`: the dense step of the same state; `kernels`: `lists_for` the device if None;
        `most`: `MOST` if None; `name`: of the SAE, for the log.
        """
        assert state.plain["W_enc"].T.is_contiguous(), "see feature_rows"
        self._state = state
        self._loss = loss
        self._setting = setting
        self._dense = dense
        self._kernels = lists_for(setting.mean.device) if kernels is None else kernels
        self._most = MOST if most is None else most
        self._name = name
        self._shard = shard
        self._fitted = True
        self._pause = pause
        self._paused = 0

    def __call__(self, raw: Float[Tensor, "batch d_model"], control: Control) -> None:
        """As `Step`."""
        if self._paused:
            self._paused -= 1
            self._dense(raw, control)
            return
        space = room(len(raw), len(self._state.parameters["W_dec"]), self._most)
        try:
            gradients, stats = self._gradients(raw, control, space)
        except TooManyError as error:
            report(self._name, self._fitted, False, error.entries, space)
            self._fitted = False
            self._paused = self._pause
        else:
            self._fitted = True
            self._dense.update(gradients, stats, control, len(raw))
            return
        # The lists and pre-activations are gone by now: this takes memory of its own.
        self._dense(raw, control)

    def _gradients(
        self, raw: Tensor, control: Control, space: int
    ) -> tuple[Parameters, BatchStats]:
        state, setting, loss = self._state, self._setting, self._loss
        p = state.parameters
        with torch.no_grad():
            b_dec = p["b_dec"].detach()
            centred = self._kernels.centre(raw, setting.scale, b_dec, loss.products)
        features = SparseFeatures(
            p, centred, self._kernels, space, self._shard, at_once=not self._fitted
        )
        value, stats = loss.on(features, p, self._dense.batch(raw, control))
        features.forget()
        gradients = loss.derivatives(p, value)
        entries = features.check()
        report(self._name, self._fitted, True, entries, space)
        return gradients, stats

    @property
    def paused(self) -> Tensor:
        """How many dense steps are to be taken before entries are counted again, so that a resumed
        run takes them as well; part of what a checkpoint keeps.
        """
        return torch.tensor(self._paused, dtype=torch.int32)

    def restored(self, paused: Tensor | int) -> None:
        """Go on from a state that was changed from outside; `paused`: as the property was."""
        self._paused = int(paused)
