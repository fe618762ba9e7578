"""The language models of a study, some of which may still be in training while it runs, and how a
study goes on with what is there.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from benchmarks.paper.comparison_plan import DEMO, FAMILIES
from benchmarks.paper.demo import Demo
from benchmarks.paper.results import FOLDER, content_hash, path_of, read


class NeedsModel(Protocol):
    """A pass of a study."""

    @property
    def name(self) -> str:
        """Unlike that of every other pass."""
        ...

    @property
    def model(self) -> str:
        """The language model that it needs: the demo's, or one of a family."""
        ...


BROKEN = 5.0
"""Nats per token of text it never saw from which a language model has broken down in training: they
end below 4, and SAEs on what is left of one say nothing.
"""
P = TypeVar("P", bound=NeedsModel)
L = TypeVar("L")


def weights_of(bundle: Path) -> str:
    """The hash of a bundle's language model."""
    return content_hash(bundle / "model" / "model.safetensors")


def trained_of(bundle: Path) -> dict[str, Any]:
    """On how many tokens a bundle's language model was trained, and how well it predicts text that
    it never saw, by the report of `training.lm`; {} where there is none.
    """
    reports = (bundle / "report.json", bundle / "training" / "lm.json")
    path = next((each for each in reports if each.is_file()), None)
    if path is None:
        return {}
    report = json.loads(path.read_text(encoding="utf-8"))
    return {
        "trained_on": report["training"]["tokens_seen"],
        "nats_per_token": report["validation"]["nats_per_token"],
    }


def labs_of(
    demo: Demo, others: Sequence[Path], make: Callable[[Demo], L]
) -> Callable[[str], L | None]:
    """What a study measures with, by the name of the language model: made once, as soon as the
    model is there, and None until then, or for good if it broke down. `others`: folders which will
    have one in `model`.
    """
    made: dict[str, L | None] = {}

    def lab(name: str) -> L | None:
        if name not in made:
            if name == DEMO:
                made[name] = make(demo)
            elif folder := _bundle_of(name, others):
                nats = trained_of(folder).get("nats_per_token", 0.0)
                broken = nats > BROKEN
                made[name] = None if broken else make(Demo.load(folder))
                if broken:
                    print(f"{name} broke down ({nats:.2f} nats per token): left out", flush=True)
        return made.get(name)

    return lab


def _bundle_of(family: str, bundles: Sequence[Path]) -> Path | None:
    """The bundle whose language model is of a family, once it is there."""
    for bundle in bundles:
        config = bundle / "model" / "config.json"
        if config.is_file() and json.loads(config.read_text("utf-8"))["model_type"] == family:
            return bundle
    return None


def in_turn(
    passes: Sequence[P], lab: Callable[[str], L | None], deadline: float, *, wait: bool = True
) -> Iterator[tuple[P, L]]:
    """The passes that begin before the deadline, in their order but for those whose language model
    is not there yet; `wait`: for these.
    """
    left = list(passes)
    while left and time.monotonic() < deadline:
        ready = next(((each, here) for each in left if (here := lab(each.model))), None)
        if ready is None:
            if not wait:
                return
            time.sleep(1)
            continue
        left.remove(ready[0])
        yield ready
    for each in left:
        print(f"no time or no model for {each.name}", flush=True)


def gone_on_with(study: str, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The results that are there, or none; ValueError for other settings."""
    if not path_of(study, out).is_file():
        return {}
    before = read(study, out)
    mine = json.loads(json.dumps(settings))
    others = [name for name in mine if mine[name] != before["settings"].get(name)]
    if others:
        raise ValueError(f"{out} has results with another {', '.join(others)}: give a new --out.")
    return before


def same_weights(known: dict[str, Any], name: str, weights: str, out: Path) -> None:
    """ValueError if results of a language model of that name were of another one; `known`: what is
    in them by name.
    """
    if known.get(name, {}).get("weights", weights) != weights:
        raise ValueError(f"{out} has results of another language model: give a new --out.")


def study_parser(study: str, description: str | None) -> argparse.ArgumentParser:
    """The options of a study of several language models, `python -m benchmarks.paper.STUDY`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.paper.{study}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=Path("app/demo"))
    parser.add_argument(
        "--other",
        type=Path,
        nargs="+",
        default=[],
        help=f"folders with other language models in `model`, or which will have: of the families "
        f"{', '.join(FAMILIES)}, one each; without any, their passes are left out",
    )
    parser.add_argument("--corpus", nargs="+", required=True, help="text to train on")
    parser.add_argument("--validation", nargs="+", required=True, help="text to measure on")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the results")
    parser.add_argument("--context-size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2_048)
    parser.add_argument("--minutes", type=float, default=60.0, help="no pass begins after them")
    return parser


def texts_of(options: argparse.Namespace) -> dict[str, Any]:
    """What a study's results keep of its language model and texts."""
    return {
        "bundle": weights_of(options.bundle),
        "corpus": [Path(path).stem for path in options.corpus],
        "validation": [Path(path).stem for path in options.validation],
        "context_size": options.context_size,
    }
