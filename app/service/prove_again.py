"""A written proof beside the same one made anew: whether they have the same digits."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeGuard

SAME = 1e-5
"""Difference that counts as rounding of another machine: of a number, or of 1 where it is less."""

MOST_THREADS: Final = 4096

_COMPARED: Final = ("arms", "target", "separates", "sentence")
_LEFT_OUT: Final = "signature"
"""What a feature is called, which is no number of the proof's."""
_SETUP: Final = ("dtype", "device", "threads", "machine", "versions")


def checked(proof: Any) -> dict[str, Any]:
    """A proof as it was read from a file; ValueError if it is none that can be run again."""
    if not isinstance(proof, dict) or not isinstance(proof.get("settings"), dict):
        raise ValueError("it holds no settings: write it with jumpscope prove --out.")
    if not proof.get("done") or not proof.get("arms"):
        raise ValueError("it is not finished, so there is nothing to compare with.")
    if missing := next(_missing(proof), None):
        raise ValueError(f"its {missing} is not as jumpscope prove --out writes it.")
    return proof


def _missing(proof: Mapping[str, Any]) -> Iterator[str]:
    """The parts that are read here, where one is not there or of another kind."""
    if not _is_setup(proof.get("setup")):
        yield "setup"
    arms = proof["arms"] if _are_dicts(proof["arms"], "kind", "feature", "runs") else [{}]
    for number, arm in enumerate(arms, 1):
        runs = arm.get("runs")
        if not (_are_dicts(runs, "seed", "tokens") and all(_has_tokens(run) for run in runs)):
            yield f"arm {number}"


def _is_setup(setup: Any) -> bool:
    return (
        isinstance(setup, dict)
        and all(key in setup for key in _SETUP)
        and setup["threads"] in range(MOST_THREADS + 1)
        and isinstance(setup["dtype"], str)
        and _are_dicts(setup.get("saes"), "name", "content_hash")
    )


def _has_tokens(run: Mapping[str, Any]) -> bool:
    return _are_dicts(run["tokens"], "id")


def _are_dicts(value: Any, *keys: str) -> TypeGuard[list[dict[str, Any]]]:
    """Whether it is a list of groups of values with these names."""
    return isinstance(value, list) and all(
        isinstance(each, dict) and all(key in each for key in keys) for each in value
    )


def other_weights(before: Mapping[str, Any], hashes: Mapping[str, str]) -> list[str]:
    """Names of the SAEs whose weights are not those that the proof was made with; `hashes` are of
    those that are there.
    """
    return [
        each["name"]
        for each in before["setup"]["saes"]
        if hashes.get(each["name"], each["content_hash"]) != each["content_hash"]
    ]


def compared(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a proof made anew is the one that was written, and a sentence about it.

    Every text is compared, every number of every run and arm, and what the proof says.
    """
    pairs = list(_pairs(before, now))
    texts = [name for name, one, other in pairs if _ids(one) != _ids(other)]
    if texts:
        return False, (
            f"It does not run to the same digits: {len(texts)} of {len(pairs)} texts "
            f"differ, the first that of {texts[0]}{_setup_words(before, now)}."
        )
    parts = ((key, before.get(key), now.get(key)) for key in _COMPARED)
    differences = [each for part in parts for each in _differences(*part)]
    if others := [place for place, difference in differences if difference is None]:
        return False, f"Its texts are the same, but not {others[0]}{_setup_words(before, now)}."
    place, largest = max(differences, key=lambda each: each[1] or 0.0, default=("", 0.0))
    if not largest:
        return True, f"All {len(pairs)} texts and their numbers are the same, digit for digit."
    if largest <= SAME:
        return True, (
            f"All {len(pairs)} texts are the same; their numbers differ by {largest:.0e} at "
            "most, which is rounding."
        )
    return False, (
        f"Its texts are the same, but a number differs by {largest:.1e}, {place}"
        f"{_setup_words(before, now)}."
    )


def _pairs(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Each run of both, with its name."""
    for one, other in zip(before["arms"], now["arms"], strict=False):
        for a, b in zip(one["runs"], other["runs"], strict=False):
            feature = "" if one["feature"] is None else f" #{one['feature']}"
            yield f"{one['kind']}{feature}, seed {a['seed']}", a, b


def _ids(run: Mapping[str, Any]) -> list[int]:
    return [token["id"] for token in run["tokens"]]


def _differences(place: str, one: Any, other: Any) -> Iterator[tuple[str, float | None]]:
    """Where two values differ, and by how much (as `SAME` has it); None for all but numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other} - {_LEFT_OUT}):
            yield from _differences(f"{place}.{key}", one.get(key), other.get(key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, both in enumerate(zip(one, other, strict=True)):
            yield from _differences(f"{place}.{number}", *both)
    elif _is_number(one) and _is_number(other):
        if one != other:
            yield place, abs(one - other) / max(abs(one), abs(other), 1.0)
    elif one != other:
        yield place, None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _setup_words(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What was otherwise when it was made, as the end of a sentence."""
    one, other = before["setup"], now["setup"]
    keys = [key for key in _SETUP if one[key] != other[key]]
    return f"; its setup differs in {' and '.join(keys)}" if keys else ""
