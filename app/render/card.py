"""The card behind "Reproduce": what a number was computed from, and the script that prints it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.render.numbers import number
from app.render.text import escape

Data = Mapping[str, Any]

_OF_TEXT: Final = {
    "l0": "features active per token (L0)",
    "fvu": "variance unexplained (FVU)",
    "ce_base": "cross-entropy of the model as it is, nats per token",
    "ce_spliced": "cross-entropy with the SAE spliced in, nats per token",
    "delta_lm_loss": "delta LM loss, nats per token",
    "kl_mean": "KL divergence, nats per token",
}
_OF_TOKEN: Final = {
    "loss": "loss of token {token}, nats",
    "spliced_loss": "loss of token {token} with the SAE spliced in, nats",
    "delta": "spliced loss minus loss of token {token}, nats",
    "kl": "KL divergence at token {token}, nats",
    "activation": "activation of feature #{feature} on token {token}",
    "pre-activation": "pre-activation of feature #{feature} on token {token}",
    "activation after the edit": (
        "activation of feature #{feature} on token {token}, after the edit"
    ),
}


def reproduce_button(asked: Data, choices: Sequence[tuple[str, Data]], *, of: str) -> str:
    """A button that opens the card of one of several numbers, each its words and what tells it
    from the others, as `app.cards` asks; `of` says whose numbers they are.
    """
    written = {"asked": asked, "choices": [{"words": w, "asked": more} for w, more in choices]}
    return (
        f'<button type="button" class="plain" aria-haspopup="dialog" '
        f'aria-label="Reproduce: {escape(of)}" data-reproduce="{escape(json.dumps(written))}">'
        "Reproduce</button>"
    )


def card_html(card: Data, value: float | None) -> str:
    """The card of `app.reproduce`, with its value, which a steering run's card does not have."""
    shown = "not defined" if value is None else f"{value:.8g}"
    facts = "".join(
        f"<div><dt>{escape(name)}</dt><dd{kind}>{escape(words)}</dd></div>"
        for name, words, kind in _facts(card)
        if words
    )
    corpus = " CORPUS" if card["token_ids"] is None else ""
    given = ", with the corpus's files in place of CORPUS" if corpus else ""
    return (
        f'<p class="value"><b>{shown}</b> {escape(words_of(card))}</p>'
        f'<dl class="facts">{facts}</dl>'
        '<div class="between"><h3 id="script-title">Script</h3>'
        '<button type="button" class="plain" data-copy-script>Copy</button></div>'
        '<pre tabindex="0" aria-labelledby="script-title"><code>'
        f"{escape(card['script'])}</code></pre>"
        f'<p class="quiet">Save it as <code>script.py</code> and run <code>python script.py{corpus}'
        f"</code> where Jumpscope is installed{given}: it prints the number above.</p>"
    )


def words_of(card: Data) -> str:
    """What the number is."""
    quantity = card["quantity"]
    if quantity in _OF_TEXT:
        return _OF_TEXT[quantity]
    return _OF_TOKEN[quantity].format(**card)


def _facts(card: Data) -> list[tuple[str, str, str]]:
    """Names, values and the attributes of their cells."""
    mono, plain = ' class="mono"', ""
    model, _, commit = card["model"].partition("@")
    facts = [("model", model, plain), ("revision", commit, mono)]
    for sae in card["saes"]:
        source, _, revision = sae["source"].partition("@")
        site = f"{sae['site']} → {sae['site_out']}" if sae["site_out"] else sae["site"]
        facts += [
            ("SAE", source, plain),
            ("revision", revision, mono),
            ("SHA-256 of weights", sae["content_hash"], mono),
            ("site", site, plain),
        ]
    facts += _run_facts(card) if "edits" in card else []
    if card["token_ids"] is None:
        facts += _corpus_facts(card)
    else:
        ids = ", ".join(map(str, card["token_ids"]))
        scrolls = ' class="mono ids" tabindex="0" role="group" aria-label="Token ids"'
        facts.append((f"token ids ({len(card['token_ids']):,})", ids, scrolls))
    return [
        *facts,
        ("number format", f"{card['dtype']}, the SAE's own arithmetic float32", plain),
        ("computed on", f"{card['device']}, attention {card['attention']}", plain),
    ]


def _run_facts(card: Data) -> list[tuple[str, str, str]]:
    edits = "; ".join(
        f"#{edit['feature']} {edit['mode']}"
        + ("" if edit["mode"] == "ablate" else f" {edit['value']:.6g}")
        + f" on {_positions(edit['positions'])}"
        for edit in card["edits"]
    )
    sampling = f"temperature {card['temperature']:g}, seed {card['seed']}"
    return [("continuation", card["arm"], ""), ("edits", edits, ""), ("sampling", sampling, "")]


def _positions(positions: Any) -> str:
    if isinstance(positions, str):
        return {"all": "all tokens", "prompt": "the prompt", "generated": "new tokens"}[positions]
    return f"tokens {', '.join(map(str, positions))}"


def _corpus_facts(card: Data) -> list[tuple[str, str, str]]:
    named = [f"number {card['document']:,} of the corpus", card["title"], card["source"]]
    size = card["context_size"]
    return [
        ("document", " · ".join(part for part in named if part), ""),
        ("row", f"{card['row']:,} of its tokens, {size:,} to a row, counted from 0", ""),
        ("stored to", f"± {number(card['within'], 2)}", ""),
    ]
