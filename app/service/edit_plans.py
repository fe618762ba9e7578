"""Edits as users write them, checked, and what they come to.

A strength is in multiples of the feature's largest activation in its index ("x max"); a value is in
the activation's own units, the only choice where there is no index. For mode `scale` both are a
factor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.engine.workbench import Workbench
from app.requests import EditRequest, RequestError
from app.settings import Settings

if TYPE_CHECKING:
    from sae_core.edits import Edit

_KEYS: Final = ("feature", "mode", "strength", "value", "positions", "sae")
_CONDITION: Final = ("condition_feature", "condition_above", "condition_sae")


@dataclass(frozen=True, kw_only=True)
class PlannedEdit:
    """An edit as written, and what it comes to."""

    sae: str
    feature: int
    mode: str
    strength: float | None
    """Multiples of `max_act`; a factor for scale; None if the edit was written with a value."""
    value: float
    """In the activation's own units; a factor for scale; 0 for ablate."""
    positions: str | list[int]
    condition_feature: int | None
    """A feature that must fire where the edit applies; None without a condition."""
    condition_above: float
    condition_sae: str
    fade: int | None
    max_act: float | None
    """The feature's largest activation in its index; None without one."""
    signature: str

    @property
    def edit(self) -> "Edit":
        """The edit in the activation's own units."""
        from sae_core.edits import Condition, Edit

        where = self.positions if isinstance(self.positions, str) else tuple(self.positions)
        condition = None
        if self.condition_feature is not None:
            condition = Condition(
                feature=self.condition_feature,
                above=self.condition_above,
                sae=self.condition_sae,
            )
        return Edit(
            feature=self.feature,
            mode=self.mode,  # pyright: ignore[reportArgumentType] - a request's mode is one
            value=self.value,
            positions=where,  # pyright: ignore[reportArgumentType]
            sae=self.sae,
            condition=condition,
            fade=self.fade,
        )

    @property
    def sae_names(self) -> list[str]:
        """The SAEs that have to be there: its own, and that of its condition."""
        return [self.sae] if self.condition_feature is None else [self.sae, self.condition_sae]

    def as_written(self) -> dict[str, Any]:
        """The edit as a user would write it, every default spelt out; a condition and a fading
        only where it has them.
        """
        left_out = "value" if self.strength is not None else "strength"
        written = {key: getattr(self, key) for key in _KEYS if key != left_out}
        if self.condition_feature is not None:
            written |= {key: getattr(self, key) for key in _CONDITION}
        return written if self.fade is None else {**written, "fade": self.fade}

    def as_run(self) -> dict[str, Any]:
        """The edit in the activation's own units alone, as a script makes it."""
        written = {key: value for key, value in self.as_written().items() if key != "strength"}
        return {**written, "value": self.value}

    def as_answered(self) -> dict[str, Any]:
        """The edit with its value in the activation's own units, and what it was computed from."""
        return {
            **self.as_written(),
            "value": self.value,
            "max_act": self.max_act,
            "signature": self.signature,
        }


def planned_edit(
    workbench: Workbench,
    written: EditRequest,
    number: int,
    sae: str,
    *,
    last_position: int,
    usual: str = "all",
) -> PlannedEdit:
    """The edit of that number, counted from 0; `sae` is of edits that name none, and `usual` where
    an edit applies that does not say. RequestError for what does not exist.
    """
    field = f"edits.{number}"
    name = workbench.sae_name(written.sae or sae, f"{field}.sae")
    feature = workbench.feature_number(name, written.feature, f"{field}.feature")
    summary = workbench.sources.features(name).summaries([feature])[feature]
    strength, value = _amount(written, number, summary, workbench.settings)
    condition, condition_sae = _condition(workbench, written, number, name)
    return PlannedEdit(
        sae=name,
        feature=feature,
        mode=written.mode,
        strength=strength,
        value=value,
        positions=_positions(written, number, last_position, usual),
        condition_feature=condition,
        condition_above=written.condition_above,
        condition_sae=condition_sae,
        fade=written.fade,
        max_act=summary["max_act"],
        signature=str(summary["signature"]),
    )


def _amount(
    written: EditRequest, number: int, summary: Mapping[str, Any], settings: Settings
) -> tuple[float | None, float]:
    """Strength, None if the edit gives a value, and the value in the activation's own units."""
    if written.mode == "ablate":
        return 0.0, 0.0
    if written.value is not None:
        most = settings.max_strength
        if written.mode == "scale" and abs(written.value) > most:
            raise RequestError(
                f"The factor of edit {number + 1} must be a number from {-most:,g} to {most:,g}.",
                f"edits.{number}.value",
            )
        return None, written.value
    strength = 1.0 if written.strength is None else written.strength
    if written.mode == "scale":
        return strength, strength
    largest = summary["max_act"]
    if largest is None:
        raise RequestError(
            f"Edit {number + 1} needs a value in the activation's own units: without an index no "
            "largest activation is known to measure a strength in.",
            f"edits.{number}.strength",
        )
    if not largest > 0:
        raise RequestError(
            f"Feature {summary['feature']} never fired in the index, so there is no largest "
            "activation to measure a strength in: give a value, or choose another feature.",
            f"edits.{number}.strength",
        )
    return strength, strength * float(largest)


def _condition(
    workbench: Workbench, written: EditRequest, number: int, sae: str
) -> tuple[int | None, str]:
    """The feature and SAE of an edit's condition; None and "" without one."""
    field = f"edits.{number}"
    if written.condition_feature is None:
        if written.condition_sae or written.condition_above:
            raise RequestError(
                f"Edit {number + 1} has a condition without a feature: say which must fire.",
                f"{field}.condition_feature",
            )
        return None, ""
    name = workbench.sae_name(written.condition_sae or sae, f"{field}.condition_sae")
    feature = written.condition_feature
    return workbench.feature_number(name, feature, f"{field}.condition_feature"), name


def _positions(written: EditRequest, number: int, last: int, usual: str) -> str | list[int]:
    if written.positions is None:
        return usual
    if isinstance(written.positions, str):
        return written.positions
    field = f"edits.{number}.positions"
    if not written.positions:
        raise RequestError(f"Edit {number + 1} names no token: give their numbers, from 0.", field)
    outside = [each for each in written.positions if not 0 <= each <= last]
    if outside:
        raise RequestError(
            f"Edit {number + 1} names token {outside[0]:,}, but this run has tokens 0 to {last:,}.",
            field,
        )
    return sorted(set(written.positions))
