"""`jumpscope prove`: a steering against its controls, and a written proof run again."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from app.commands.shared import JSONFlag, chosen_bundle, shown, table, to_json
from sae_core.placement import Device, DType

LONGEST_SECONDS = 1e9
"""Of a run that nobody else waits for."""

LONGEST_TEXT = 8192
"""Tokens of the prompt, and new ones; the model's own context may set less."""

_KINDS = {
    "without": "without the edit",
    "target": "steered",
    "feature": "other feature",
    "random": "random direction",
    "opposite": "wrong sign",
}


_WRITTEN = (
    "prompt",
    "feature",
    "mode",
    "strength",
    "value",
    "positions",
    "seeds",
    "seed",
    "max_new_tokens",
    "temperature",
)
"""Options that a proof's file has already."""


@dataclass(frozen=True, kw_only=True)
class Prove:
    """Say whether it is this feature that steers: run it against controls of the same norm.

    The prompt is continued with each seed without the edit, with it, and pushed by the same norm
    along five features of like frequency, a random direction and the wrong sign. The unedited model
    reads the texts; a run passes when the feature fires on at least 5 % of the new tokens more
    than without the edit.
    """

    prompt: str = ""
    """Text to continue."""
    feature: int | None = None
    """Number of the feature that is edited."""
    mode: Literal["set", "scale", "add", "ablate", "cap"] = "set"
    """What is done to it."""
    strength: float | None = None
    """How much, in multiples of its largest activation in the index; a factor for scale; 1 where
    neither strength nor value is given."""
    value: float | None = None
    """How much, in the activation's own units, instead of a strength."""
    positions: Literal["continuation", "all", "prompt", "generated"] = "continuation"
    """Tokens to edit; continuation is the prompt's last one and the new ones."""
    seeds: int = 6
    """Runs of the edit and of each control, 3 to 20; with fewer than 4 nothing separates."""
    seed: int = 0
    """The first seed; the others follow it."""
    max_new_tokens: int = 60
    """Tokens of each text."""
    temperature: float = 0.8
    """Sampling temperature, above 0."""
    again: str = ""
    """File of a proof to run again instead, with its settings; exit status 2 where it comes out
    with other digits."""
    out: str = ""
    """File that gets the whole proof as JSON, texts and settings, for --again."""
    bundle: str = ""
    """Folder of the bundle; the bundled demo if neither it nor a model is given."""
    model: str = ""
    """Without a bundle: hub id of the language model, maybe with @revision, or its folder."""
    sae: str = ""
    """Name of the bundle's SAE; empty is its first. With model: hub id of the SAE, or its
    folder."""
    device: Device = "auto"
    """Where the model runs; `auto` is CUDA if there is a device, else the CPU."""
    dtype: DType = "auto"
    """The model's dtype; `auto` is float32 on the CPU, bfloat16 on CUDA."""
    json: JSONFlag = False
    """Print JSON: the whole proof."""

    def __post_init__(self) -> None:
        if self.again:
            if given := [name for name in _WRITTEN if getattr(self, name) != _default(name)]:
                raise ValueError(
                    f"again repeats its file's settings: leave {' and '.join(given)} out."
                )
        elif self.feature is None or not self.prompt.strip():
            raise ValueError("give feature and prompt, or again and the file of a proof.")
        if self.strength is not None and self.value is not None:
            raise ValueError("strength and value are two ways to say how much: give one of them.")
        if self.out and Path(self.out).is_dir():
            raise ValueError(f"out {self.out} is a folder: name a file.")
        if self.out and Path(self.out).resolve() == Path(self.again).resolve():
            raise ValueError("out would overwrite the proof that runs again: name another file.")

    def execute(self) -> str:
        """The proof as JSON or text; ValueError where one that is run again has other digits."""
        from app.service.prove_again import compared

        before = self._read() if self.again else None
        bundle = chosen_bundle(self.bundle, self.model, [self.sae] if self.sae else [], "demo")
        if before:
            names = {each["name"] for each in before["setup"]["saes"]} & set(bundle.sae_names)
            self._check_weights(before, {each: bundle.content_hash(each) for each in names})
        name = "" if self.model else self.sae
        answer = self._run(bundle, name, before)
        if before:
            # What the files of an SAE say of themselves need not be so.
            made = {each["name"]: each["content_hash"] for each in answer["setup"]["saes"]}
            self._check_weights(before, made)
        if self.out:
            _write(Path(self.out), answer)
        said = ""
        if before:
            same, said = compared(before, answer)
            if not same:
                raise ValueError(f"{self.again}: {said}")
        return to_json(answer) if self.json else "\n\n".join(filter(None, [as_text(answer), said]))

    def _settings(self, sae: str) -> dict[str, Any]:
        amount = {"strength": self.strength, "value": self.value}
        edit = {"feature": self.feature, "mode": self.mode, "positions": self.positions}
        return {
            "sae": sae,
            "prompt": self.prompt,
            "edits": [edit | {k: v for k, v in amount.items() if v is not None}],
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "seeds": self.seeds,
        }

    def _read(self) -> dict[str, Any]:
        from app.service.prove_again import checked

        try:
            written = json.loads(Path(self.again).read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.again} is no proof: it is not JSON.") from error
        try:
            return checked(written)
        except ValueError as error:
            raise ValueError(f"{self.again} is no proof: {error}") from error

    def _check_weights(self, before: dict[str, Any], hashes: dict[str, str]) -> None:
        from app.service.prove_again import other_weights

        if wrong := other_weights(before, hashes):
            raise ValueError(f"{self.again} was made with other weights of SAE {wrong[0]}.")

    def _run(self, bundle: Any, sae: str, before: dict[str, Any] | None) -> dict[str, Any]:
        """The last answer of the endpoint, with a bar while texts grow."""
        settings = before["settings"] if before else self._settings(sae)
        setup = before["setup"] if before else {}
        from tqdm import tqdm

        from app.engine.workbench import Workbench
        from app.requests import ProveRequest, parsed
        from app.service.prove import prove
        from app.settings import Settings

        chosen = Settings(
            device=self.device,
            # Another dtype, or another number of threads, rounds otherwise.
            dtype=setup.get("dtype", "auto") if self.dtype == "auto" else self.dtype,
            threads=setup.get("threads", 0),
            max_seconds=LONGEST_SECONDS,
            max_prompt_tokens=LONGEST_TEXT,
            max_new_tokens=LONGEST_TEXT,
        )
        request = parsed(ProveRequest, settings, chosen)
        answer: dict[str, Any] = {}
        with tqdm(total=request.max_new_tokens, unit="token", desc="proving") as bar:
            for answer in prove(Workbench(chosen, bundle), request):
                bar.update(answer["progress"]["tokens"] - bar.n)
        return answer


def _default(option: str) -> Any:
    return next(each.default for each in fields(Prove) if each.name == option)


def _write(path: Path, answer: dict[str, Any]) -> None:
    from sae_core.files import atomic_write

    with atomic_write(path) as partial:
        partial.write_text(to_json(answer) + "\n", encoding="utf-8")


def as_text(answer: dict[str, Any]) -> str:
    """The sentences and a row for each arm."""
    rows = [["", "feature", "passes", "95 % of", "fires on (median)", "nats/token", "cosine"]]
    for arm in answer["arms"]:
        is_edit = arm["kind"] != "without"
        rows.append(
            [
                _KINDS[arm["kind"]],
                "-" if arm["feature"] is None else f"#{arm['feature']}",
                f"{arm['passed']} of {len(arm['runs'])}" if is_edit else "-",
                f"{100 * arm['low']:.0f} to {100 * arm['high']:.0f} %" if is_edit else "-",
                _median([run["share"] for run in arm["runs"]], percent=True),
                _median([run["nll"] for run in arm["runs"]]),
                shown(arm["cosine"]),
            ]
        )
    note = [answer["note"]] if answer["note"] else []
    return "\n\n".join(
        [
            *note,
            answer["sentence"],
            table(rows),
            "\n".join([answer["rule"], answer["cost"], answer["controls"]]),
        ]
    )


def _median(values: list[float | None], *, percent: bool = False) -> str:
    from statistics import median

    defined = [value for value in values if value is not None]
    if not defined:
        return "-"
    return f"{100 * median(defined):.1f} %" if percent else f"{median(defined):.2f}"
