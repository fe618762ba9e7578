"""A written proof beside the same one made anew: whether they have the same digits."""

from collections.abc import Iterator, Mapping
from typing import Any

SAME = 1e-6
"""Relative difference of numbers that counts as rounding of another machine."""


def checked(proof: Any) -> dict[str, Any]:
    """A proof as it was read from a file; ValueError if it is none that can be run again."""
    if not isinstance(proof, dict) or not isinstance(proof.get("settings"), dict):
        raise ValueError("it holds no settings: write it with jumpscope prove --out.")
    if not proof.get("done") or not proof.get("arms"):
        raise ValueError("it is not finished, so there is nothing to compare with.")
    return proof


def other_weights(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the SAEs whose weights are not those that the proof was made with."""
    hashes = {each["name"]: each["content_hash"] for each in now["setup"]["saes"]}
    return [
        each["name"]
        for each in before["setup"]["saes"]
        if hashes.get(each["name"]) != each["content_hash"]
    ]


def compared(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a proof made anew is the one that was written, and a sentence about it."""
    pairs = list(_pairs(before, now))
    texts = [name for name, one, other in pairs if _ids(one) != _ids(other)]
    if len(before["arms"]) != len(now["arms"]) or before["sentence"] != now["sentence"] or texts:
        which = f", the first that of {texts[0]}" if texts else ""
        return False, (
            f"It does not run to the same digits: {len(texts)} of {len(pairs)} texts "
            f"differ{which}{_setup_words(before, now)}."
        )
    largest = max(
        (_difference(one[key], other[key]) for _, one, other in pairs for key in ("share", "nll")),
        default=0.0,
    )
    if largest == 0:
        return True, f"All {len(pairs)} texts and their numbers are the same, digit for digit."
    if largest <= SAME:
        return True, (
            f"All {len(pairs)} texts are the same; their numbers differ by {largest:.0e} of "
            "themselves at most, which is rounding."
        )
    return False, (
        f"Its texts are the same, but a number differs by {largest:.1e} of itself"
        f"{_setup_words(before, now)}."
    )


def _pairs(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Each run of both, with its name."""
    for one, other in zip(before["arms"], now["arms"], strict=False):
        feature = "" if one["feature"] is None else f" #{one['feature']}"
        for a, b in zip(one["runs"], other["runs"], strict=False):
            yield f"{one['kind']}{feature}, seed {a['seed']}", a, b


def _ids(run: Mapping[str, Any]) -> list[int]:
    return [token["id"] for token in run["tokens"]]


def _difference(one: float | None, other: float | None) -> float:
    """Relative; undefined numbers are equal to one another alone."""
    if one is None or other is None:
        return 0.0 if one is other else float("inf")
    return abs(one - other) / max(abs(one), abs(other)) if one != other else 0.0


def _setup_words(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What was otherwise when it was made, as the end of a sentence."""
    one, other = before["setup"], now["setup"]
    keys = [k for k in ("dtype", "device", "threads", "machine", "versions") if one[k] != other[k]]
    return f"; its setup differs in {' and '.join(keys)}" if keys else ""
