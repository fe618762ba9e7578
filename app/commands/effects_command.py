"""`jumpscope effects`: what comes next after a token, and which features carry that."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from app.commands.shared import JSONFlag, chosen_bundle, shown, table, to_json
from sae_core.placement import Device, DType

LONGEST_PROMPT = 8192
"""Tokens; the model's own context may set less."""


@dataclass(frozen=True, kw_only=True)
class EffectsOfFeatures:
    """Say which active features carry a prediction: each is set to 0 in turn, and the model run.

    Features come by falling KL, of the model's next-token distribution to the one without the
    feature; beside it the change of one next token's log-probability.
    """

    text: Annotated[str, tyro.conf.Positional]
    """The text; it gets a BOS token if the tokenizer has one."""
    bundle: str = ""
    """Folder of the bundle; the bundled demo if neither it nor a model is given."""
    model: str = ""
    """Without a bundle: hub id of the language model, maybe with @revision, or its folder."""
    sae: str = ""
    """Name of the bundle's SAE; empty is its first. With model: hub id of the SAE, or its
    folder."""
    token: int = -1
    """Number of the token after which the model predicts, where BOS is 0; -1 is the last."""
    target: str = ""
    """Next token to follow, as it is written (' were', with its space), or #ID; empty is the
    likeliest."""
    earlier: JSONFlag = False
    """Features of earlier tokens too: estimates of all, of which the largest are measured."""
    exact: int = 30
    """With --earlier, how many of the largest estimates to measure."""
    together: tuple[str, ...] = ()
    """Features to set to 0 all at once, as FEATURE, or FEATURE@TOKEN for one of another token."""
    rows: int = 20
    """Effects to list; 0 lists all."""
    device: Device = "auto"
    """Where the model runs; `auto` is CUDA if there is a device, else the CPU."""
    dtype: DType = "auto"
    """The model's dtype; `auto` is float32 on the CPU, bfloat16 on CUDA."""
    json: JSONFlag = False
    """Print JSON, with every number's definition."""

    def __post_init__(self) -> None:
        if self.token < -1:
            raise ValueError(f"token is {self.token} but must be -1 or more.")
        if not self.text.strip():
            raise ValueError("the text is empty: give one.")
        if self.rows < 0:
            raise ValueError(f"rows is {self.rows} but must be 0 or more.")
        for pair in self.together:
            parts = pair.split("@")
            if len(parts) > 2 or not all(part.isascii() and part.isdigit() for part in parts):
                raise ValueError(f"together {pair!r} is no FEATURE or FEATURE@TOKEN, as 12@3.")

    def execute(self) -> str:
        """The answer of the endpoint `effects` as JSON, or as tables."""
        from app.endpoints import Api
        from app.engine.workbench import Workbench
        from app.settings import Settings

        bundle = chosen_bundle(self.bundle, self.model, [self.sae] if self.sae else [], "demo")
        name = bundle.sae_names[0] if self.model or not self.sae else self.sae
        settings = Settings(
            device=self.device,
            dtype=self.dtype,
            max_prompt_tokens=LONGEST_PROMPT,
            max_rows=max(self.rows, Settings.max_rows),
        )
        workbench = Workbench(settings, bundle)
        # What names tell is said before a model is loaded.
        name = workbench.sae_name(name)
        for pair in self.together:
            workbench.feature_number(name, _pair(pair, 0)["feature"], "together")
        api = Api(workbench)
        lm = workbench.load().lm
        tokens = api.tokens(self.text)["tokens"]
        token = len(tokens) - 1 if self.token == -1 else self.token
        answer = api.effects(
            self.text,
            token=token,
            sae=name,
            target=_target(lm.tokenizer, self.target) if self.target else None,
            earlier=self.earlier,
            exact=self.exact,
            joint=[_pair(each, token) for each in self.together] or None,
            limit=self.rows,
        )
        return to_json(answer) if self.json else as_text(answer)


def _target(tokenizer: Any, written: str) -> int:
    """The id of a next token; ValueError where it is not one token."""
    if written[0] == "#" and written[1:].isascii() and written[1:].isdigit():
        return int(written[1:])
    ids = tokenizer(written, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ValueError(f"target {written!r} is {len(ids)} tokens: give one, or its #ID.")
    return int(ids[0])


def _pair(written: str, token: int) -> dict[str, int]:
    feature, _, position = written.partition("@")
    return {"feature": int(feature), "position": int(position) if position else token}


def as_text(answer: dict[str, Any]) -> str:
    """The next tokens, the effects and the joint one as people read them."""
    token, target = answer["token"], answer["target"]
    base = [["next token", "p", "p spliced", "id"]]
    base += [
        [repr(row["text"]), shown(row["p"]), shown(row["p_spliced"]), str(row["id"])]
        for row in answer["base"]
    ]
    heads = ["token", "feature", "activation", "KL", f"change of {target['text']!r}"]
    rows = [[*heads, "estimate", "likeliest without", "fires on"]]
    rows += [_row(row) for row in answer["effects"]]
    parts = [f"after token {token['i']}, {token['text']!r}, with {answer['sae']}", table(base)]
    if not answer["effects"]:
        return "\n\n".join([*parts, "no feature counts there."])
    parts.append(table(rows))
    left = answer["effects_total"] - len(answer["effects"])
    if left:
        parts.append(f"{left:,} more: --rows 0 lists all.")
    if any(not row["exact"] for row in answer["effects"]) or answer["rank_correlation"]:
        parts.append(
            "estimates are not measurements; rank correlation with the measured changes: "
            f"{shown(answer['rank_correlation'])}"
        )
    if answer["joint"]:
        parts.append(_joint(answer["joint"]))
    parts.append(f"uniformity of this token's effects: {shown(answer['uniformity'])}")
    return "\n\n".join(parts)


def _row(row: dict[str, Any]) -> list[str]:
    numbers = [shown(row[name]) for name in ("activation", "kl", "dlogp", "estimate")]
    becomes = repr(row["becomes"]["text"]) if row["exact"] else "-"
    return [str(row["position"]), f"#{row['feature']}", *numbers, becomes, row["signature"]]


def _joint(joint: dict[str, Any]) -> str:
    """The joint arm, each alone summed, and what is beyond."""
    rows = [["", "KL", "change"]]
    rows += [
        [words, shown(joint[f"{key}kl"]), shown(joint[f"{key}dlogp"])]
        for words, key in (
            ("all at once", ""),
            ("sum of each alone", "sum_"),
            ("beyond the sum", "beyond_"),
        )
    ]
    return table(rows)
