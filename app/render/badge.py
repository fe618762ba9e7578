"""The badge: whether an SAE's numbers can be trusted, in a word, a line and a panel.

Everything is drawn from a state of `app.verification`.
"""

from collections.abc import Mapping
from typing import Any, Final

from app.render.numbers import fixed, number
from app.render.stats import term
from app.render.tables import cell, head, table
from app.render.text import escape, link
from sae_core.metrics import DEFINITIONS

Data = Mapping[str, Any]

_WORDS: Final = {
    "green": ("✓", "checked"),
    "amber": ("?", "unclear"),
    "red": ("✕", "wrong"),
    "checking": ("…", "checking"),
    "failed": ("–", "unchecked"),
}
"""Sign and word of each state that has a badge."""
_CONVENTION: Final = (
    "Which activation the weights are applied to, how it is scaled, and whether BOS counts."
)


def badge_html(found: Data, *, sae: str) -> str:
    """The word beside the SAE's name; it leads to the panel. `sae` as it stands in addresses."""
    if found["state"] not in _WORDS:
        return ""
    explained = f' data-tip="{escape(found["sentence"])}"' if found["sentence"] else ""
    return (
        f'<a class="badge {found["state"]}" href="{link("./", sae=sae)}"{explained}>'
        f'<span class="vh">Check of this SAE: </span>{_word(found["state"])}</a>'
    )


def doubt_html(found: Data, *, sae: str, label: str = "") -> str:
    """One line to stand above numbers that may be wrong; nothing unless the badge is red.

    `label` says of which SAE where several are on the page.
    """
    if found["state"] != "red":
        return ""
    whose = f"The numbers of {label}" if label else "These numbers"
    return (
        f'<p class="problem doubt" role="note"><b>{escape(whose)} may be wrong:</b> '
        f'{escape(found["sentence"])} <a href="{link("./", sae=sae)}">See the check</a></p>'
    )


def panel_html(found: Data) -> str:
    """The overview's part: the verdict, its sentence, the numbers, and the conventions tried."""
    state, check = found["state"], found["check"]
    if state not in _WORDS:
        return ""
    badge = f'<span class="badge {state}">{_word(state)}</span>'
    body = f"<p>{escape(_sentence(found))}</p>"
    if check is not None:
        body = f'<div class="verdict"><div>{body}{_made(check)}</div>{_numbers(check)}</div>'
        body += _tried(check)
    return (
        '<section class="panel check" aria-labelledby="check-title"><h2 class="in-panel" '
        f'id="check-title">Can its numbers be trusted? {badge}</h2>{body}</section>'
    )


def _word(state: str) -> str:
    sign, word = _WORDS[state]
    return f'<span aria-hidden="true">{sign}</span> {word}'


def _sentence(found: Data) -> str:
    if found["state"] == "checking":
        return "Its L0 and FVU are being measured on some text, beside everything else."
    if found["state"] == "failed":
        return f"It could not be checked: {found['sentence']}"
    return found["sentence"]


def _made(check: Data) -> str:
    saved = f", saved on {escape(check['date'])}" if check.get("date") else ""
    return (
        f'<p class="quiet">Verdict: {escape(check["verdict"])}. Measured on '
        f"{check['tokens']:,} tokens{saved}.</p>"
    )


def _numbers(check: Data) -> str:
    rows = [
        cell(escape(check["site"] or "site unknown"))
        + _pair(check["l0"], check["fvu"])
        + cell(f"{check['tokens']:,}", "n")
    ]
    if check["declared_l0"] is not None or check["declared_fvu"] is not None:
        rows.append(
            cell("declared") + _pair(check["declared_l0"], check["declared_fvu"]) + cell("", "n")
        )
    return table(_heads("measured at"), rows)


def _tried(check: Data) -> str:
    tried = check["tried"]
    if not tried:
        return ""
    rows = [
        cell(escape(row["reading"]))
        + _pair(row["l0"], row["fvu"])
        + cell(f"{row['tokens']:,}", "n")
        + cell("fits" if row["fits"] else "")
        for row in tried
    ]
    noun = "convention" if len(tried) == 1 else "conventions"
    heads = _heads(term("convention", _CONVENTION)) + head("")
    return (
        f'<details class="tried"><summary>The nearest {len(tried)} other {noun}</summary>'
        f'<div class="scroll">{table(heads, rows)}</div></details>'
    )


def _heads(first: str) -> str:
    numbers = (("L0", "l0"), ("FVU", "fvu"), ("tokens", "tokens"))
    return head(first) + "".join(head(term(name, DEFINITIONS[key]), "n") for name, key in numbers)


def _pair(l0: float | None, fvu: float | None) -> str:
    """Cells of both numbers; FVU of a wrong convention may be in the thousands."""
    written = "–" if fvu is None else fixed(fvu, 3) if abs(fvu) < 10 else number(fvu)
    return cell("–" if l0 is None else number(l0), "n") + cell(written, "n")
