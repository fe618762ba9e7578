"""A training step that computes the encoder's product in full and the rest for what is active.

With 64 of 65,536 features active, four of a step's five matrix products are nearly all zeros: see
`training.kernels` for what takes their place, and docs/performance.md for what that is worth. The
step is that of `training.losses.jumprelu_loss` and `training.optim`: the same function of the same
state; only the order of sums differs.

Where the lists would be too long, as they are while thresholds are still near 0, the dense step is
taken, on the same state. Which one it is depends on batch and weights alone, so that a resumed run
decides as the first one did.
"""

import logging
from types import ModuleType
from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor

from training.graph import WARM_UP, RecordedHalves
from training.kernels.entries import Entries, Objective, Weights, room
from training.kernels.shards import ShardKernels
from training.losses import JumpReLULoss, Loss, Parameters
from training.optim import BETA2, Control
from training.readback import Readback
from training.recipes import RECIPES, Rule
from training.step import Setting, State, Step

log = logging.getLogger(__name__)

MOST = 1 / 64
"""Share of a batch's (token, feature) pairs above which the dense step is taken."""


def applies(loss: Loss, rule: Rule) -> TypeGuard[JumpReLULoss]:
    """Whether `SparseStep` is the step of an SAE with this loss and rule."""
    of_the_paper = isinstance(loss, JumpReLULoss) and loss.plain
    return of_the_paper and rule.unit_norm and rule.clip is None


def report(name: str, before: bool, now: bool, entries: int, space: int) -> None:
    """Say so in the log where an SAE's steps become sparse (`now`), or dense."""
    if now != before:
        log.info(
            "%s: %s steps from here on: %s entries in a batch, room for %s",
            name,
            "sparse" if now else "dense",
            f"{entries:,}",
            f"{space:,}",
        )


def feature_rows(parameters: Parameters) -> Parameters:
    """`parameters` with W_enc held one row per feature; its shape and values are the same."""
    rows = parameters["W_enc"].detach().T.contiguous()
    return {**parameters, "W_enc": rows.T.requires_grad_()}


def kernels_for(device: torch.device) -> ModuleType:
    """The kernels in Triton on CUDA, plain PyTorch elsewhere."""
    if device.type == "cuda":
        from training.kernels import fused

        return fused
    from training.kernels import plain

    return plain


class SparseStep:
    """The step of a JumpReLU SAE with unit-norm decoder, its parameters held in `feature_rows`.

    Waits for the device once a step, for the number of entries, with the rest of the step already
    on its way: where there are too many entries, it changes nothing. On CUDA, steps are replayed
    (`training.graph`) after the first few: starting their kernels from Python can take longer than
    they run, above all with features shared out between devices.
    """

    def __init__(
        self,
        state: State,
        loss: JumpReLULoss,
        setting: Setting,
        dense: Step,
        *,
        kernels: ModuleType | ShardKernels | None = None,
        most: float | None = None,
        replay: bool = True,
        rule: Rule = RECIPES["jumprelu"].rule,
        name: str = "SAE",
    ) -> None:
        """`dense`: the dense step of the same state; `kernels`: `kernels_for` the device if None;
        `most`: `MOST` if None; `replay`: whether to on CUDA; `rule`: one that `applies`; `name`:
        of the SAE, for the log.
        """
        assert applies(loss, rule)
        plain = state.plain
        W_enc, v_enc, W_dec = plain["W_enc"].T, state.second["W_enc"].T, plain["W_dec"]
        assert W_enc.is_contiguous(), "see feature_rows"
        assert v_enc.is_contiguous()
        device = W_dec.device
        self._weights = Weights(
            W_enc=W_enc,
            W_dec=W_dec,
            v_enc=v_enc,
            v_dec=state.second["W_dec"],
            enc_products=W_enc.to(loss.products),  # for float32, these are the weights themselves
            dec_products=W_dec.to(loss.products),
            touched=torch.zeros(len(W_dec), dtype=torch.int32, device=device),
            beta1=rule.beta1,
            m_enc=state.first["W_enc"].T if rule.beta1 else None,
            m_dec=state.first["W_dec"] if rule.beta1 else None,
        )
        self._b_enc, self._b_dec, self._threshold = (
            plain[name] for name in ("b_enc", "b_dec", "threshold")
        )
        self._objective = Objective(loss.bandwidth, loss.kernel, loss.targeted, loss.limits)
        self._products = loss.products
        self._rule = rule
        self._state = state
        self._setting = setting
        self._dense = dense
        self._kernels = kernels_for(device) if kernels is None else kernels
        self._most = MOST if most is None else most
        self._name = name
        self._fitted = True
        self._count = Readback(device)
        self._replay = replay and device.type == "cuda"
        self._taken = 0
        """Sparse steps since the last dense one."""
        self._recorded: RecordedHalves | None = None

    def __call__(self, raw: Float[Tensor, "batch d_model"], control: Control) -> None:
        """Train on one batch of raw activations."""
        if not self._take(raw, control):
            # The lists and pre-activations are gone by now: this takes memory of its own.
            self._take_dense(raw, control)

    @torch.no_grad()
    def _take(self, raw: Tensor, control: Control) -> bool:
        """The step; False, with nothing changed, if there are too many entries."""
        space = self._space(raw)
        recorded = self._recording(raw, control)
        if recorded is not None:
            self._count.ask(recorded.first(raw))
            recorded.second(control)
        else:
            number, selection = self._select(raw)
            self._count.ask(number)
            if not self._fitted and not self._fits(space):
                return False
            self._learn(raw, control, selection)
        fits = self._fits(space)
        self._taken = self._taken + 1 if fits else 0
        return fits

    def _recording(self, raw: Tensor, control: Control) -> RecordedHalves | None:
        """The recorded step, made where it is due; None if this one is to be taken as it is."""
        if not self._replay or self._taken < WARM_UP:
            self._recorded = None
        elif self._recorded is None:
            self._recorded = RecordedHalves(self._select, self._learn, raw, control)
        return self._recorded if self._recorded is not None and self._recorded.takes(raw) else None

    def _space(self, raw: Tensor) -> int:
        return room(len(raw), len(self._weights.W_dec), self._most)

    def _select(self, raw: Tensor) -> tuple[Tensor, tuple[Entries, Tensor]]:
        """The number of entries; they, and the centred inputs."""
        k, products = self._kernels, self._weights.enc_products
        centred = k.centre(raw, self._setting.scale, self._b_dec, self._products)
        z = centred @ products.T  # [batch, d_sae]
        entries = k.select(z, self._b_enc, self._threshold, self._objective, self._space(raw))
        return entries.column_start[-1:], (entries, centred)

    def _learn(self, raw: Tensor, control: Control, selection: tuple[Entries, Tensor]) -> None:
        """Everything from the reconstruction on."""
        setting, objective, state = self._setting, self._objective, self._state
        weights, k = self._weights, self._kernels
        entries, centred = selection
        W_dec, scale, mean = weights.dec_products, setting.scale, setting.mean
        residual = k.decode(entries, W_dec, self._b_dec, raw, scale, mean)
        gathered = k.update_rows(
            entries,
            residual,
            centred,
            weights,
            self._threshold,
            setting,
            objective,
            state.multiplier,
            control,
        )
        k.finish(
            state, setting, objective, weights, entries, residual, gathered, control, self._rule
        )

    def _fits(self, space: int) -> bool:
        """Whether there is room for the entries counted last; waits for their number."""
        number = self._count.answer()
        fits = number <= space
        report(self._name, self._fitted, fits, number, space)
        self._fitted = fits
        return fits

    def _take_dense(self, raw: Tensor, control: Control) -> None:
        weights = self._weights
        with torch.no_grad():
            settle(weights.v_enc, weights.v_dec, weights.touched, control[3] - 1)
        self._dense(raw, control)
        with torch.no_grad():
            weights.touched.copy_(control[3])
            self._copy_weights()

    def _copy_weights(self) -> None:
        weights = self._weights
        if self._products != torch.float32:
            weights.enc_products.copy_(weights.W_enc)
            weights.dec_products.copy_(weights.W_dec)

    @property
    def touched(self) -> Tensor:
        """The step whose second moments each row holds; part of what a checkpoint keeps."""
        return self._weights.touched

    def restored(self, touched: Tensor | int) -> None:
        """Go on from parameters and moments that were changed from outside.

        `touched`: as the property was, or the number of steps taken, if moments are up to date.
        """
        if isinstance(touched, int):
            self._weights.touched.fill_(touched)
        else:
            self._weights.touched.copy_(touched)
        self._copy_weights()


def settle(
    v_enc: Float[Tensor, "d_sae d_model"],
    v_dec: Float[Tensor, "d_sae d_model"],
    touched: Tensor,
    step: Tensor | int,
) -> None:
    """Bring the second moments of rows last touched at `touched` to `step`, in place."""
    shrunk = BETA2 ** (step - touched.to(torch.float32))[:, None]
    v_enc.mul_(shrunk)
    v_dec.mul_(shrunk)
