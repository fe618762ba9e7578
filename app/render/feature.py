"""One feature's page: its facts, a field to test it, its contexts by interval."""

from collections.abc import Mapping
from typing import Any, Final

from app.render.card import reproduce_button
from app.render.evidence import evidence_html
from app.render.notices import missing_html
from app.render.numbers import count, number, percent
from app.render.text import escape, link, signature_html
from app.render.tokens import heat_map

Data = Mapping[str, Any]

NEAR: Final = (14, 6)
"""Tokens kept before and after the peak of a context until it is unfolded."""
SHOWN: Final = 10
"""Contexts of a group that show at once."""


def feature_html(data: Data, *, default_sae: str, text: str = "") -> str:
    """The page from `Service.feature`'s answer; `text` fills the test field."""
    sae = "" if data["sae"] == default_sae else data["sae"]
    of = f'data-feature="{data["feature"]}" data-sae="{escape(data["sae"])}"'
    return (
        f'<div data-view="feature" {of}>{_heading(data, sae, text)}'
        f'<div class="two"><div class="contexts compact">{_test(data, text)}{_groups(data)}</div>'
        f'<aside class="evidence" aria-label="Evidence">{evidence_html(data, sae)}</aside>'
        "</div></div>"
    )


def _heading(data: Data, sae: str, text: str) -> str:
    number_ = data["feature"]

    def step(target: object, words: str, name: str) -> str:
        if target is None:
            return f'<span class="button off" aria-disabled="true">{words}</span>'
        address = link("features", sae=sae, feature=target, text=text)
        return f'<a class="button" id="{name}" href="{address}">{words}</a>'

    before, after = data["previous"], data["next"]
    earlier = '<span class="vh">Previous feature</span> ‹' + (
        "" if before is None else f" {before}"
    )
    later = '<span class="vh">Next feature</span> ' + ("›" if after is None else f"{after} ›")
    return (
        '<div class="heading"><div class="grow">'
        f'<h1><span class="id">#{number_}</span> {signature_html(data["signature"])}</h1>'
        f'<p class="sub">{_facts(data)}</p></div><div class="buttons">'
        + step(before, earlier, "previous")
        + step(after, later, "next")
        + step("random", 'Random<span class="vh"> feature</span>', "random")
        + f'<a class="button primary" href="{_steer(data, sae)}">Steer with it</a></div></div>'
    )


def _steer(data: Data, sae: str) -> str:
    # Without an index the page begins with a value of its own.
    strength = '"strength":1,' if data["missing"] is None else ""
    edits = f'[{{"feature":{data["feature"]},"mode":"set",{strength}"positions":"all"}}]'
    return link("steer", sae=sae, edits=edits)


def _facts(data: Data) -> str:
    if data["missing"] is not None:
        norms = data["norms"]
        return (
            f"threshold {number(data['threshold'])} · length of its weights "
            f"{number(norms['encoder'])} in the encoder, {number(norms['decoder'])} in the decoder"
        )
    if data["frequency"] <= 0:
        return f"never fired on {count(data['tokens'])} tokens"
    facts = [
        f"fires on {percent(data['frequency'])} of tokens",
        f"largest {number(data['max_act'])}",
        f"threshold {number(data['threshold'])}",
    ]
    sources = data["fires_on"]["sources"]
    if sources:
        top = max(sources, key=lambda row: row["share"])
        lift = f" ({number(top['lift'], 2)}x its share)" if top.get("lift") else ""
        facts.append(f"{percent(top['share'])} of its firing is in {escape(top['source'])}{lift}")
    return " · ".join(facts)


def _test(data: Data, text: str) -> str:
    return (
        '<form class="panel test" data-test><label for="test-text">Test your own text</label>'
        f'<div class="line"><input id="test-text" name="text" value="{escape(text)}" '
        'autocomplete="off" spellcheck="false" placeholder="Type, and see where it fires">'
        '<button>Test</button></div><div class="result" aria-live="polite"></div></form>'
    )


def own_text_html(tested: Data, text: str) -> str:
    """The user's own text as a heat map, from `Service.test_text`'s answer to it."""
    activations = tested["activations"]
    top = max(range(len(activations)), key=lambda i: activations[i], default=None)
    fired = sum(value > 0 for value in activations)
    peak = top if top is not None and activations[top] > 0 else None
    tokens = heat_map(
        tested["tokens"],
        activations,
        # Without an index the text's own peak has the full colour.
        scale=tested["max_act"] or max(activations, default=0.0),
        label="Your text, coloured by activation",
        peak=peak,
        special=tested["special"],
    )
    if peak is None:
        nearest = max((v for v in tested["pre_activations"] if v is not None), default=0.0)
        words = (
            f"It fires nowhere here. Closest: {number(nearest)}, "
            f"against a threshold of {number(tested['threshold'])}."
        )
    else:
        noun = "token" if fired == 1 else "tokens"
        strongest = number(activations[peak])
        if tested["max_act"]:
            strongest += f" ({percent(activations[peak] / tested['max_act'])} of its largest)"
        words = f"Fires on {fired} {noun}, at most {strongest}. {_reproduce_text(tested, text)}"
    return f'{tokens}<p class="quiet">{words}</p>'


def _reproduce_text(tested: Data, text: str) -> str:
    """A button for the activations on the user's own text, the strongest first."""
    asked = {"quantity": "activation", "sae": tested["sae"], "feature": tested["feature"]}
    firing = [(i, value) for i, value in enumerate(tested["activations"]) if value > 0]
    firing.sort(key=lambda pair: -pair[1])
    choices = [
        (f"{number(value)} on “{tested['tokens'][i]}”, token {i}", {"token": i})
        for i, value in firing
    ]
    return reproduce_button({**asked, "text": text}, choices, of="activations on your text")


def _groups(data: Data) -> str:
    if data["missing"] is not None:
        return missing_html(data["missing"])
    groups = [group for group in data["groups"] if group["contexts"]]
    if not groups:
        return '<p class="quiet">The index holds no context for this feature.</p>'
    toggle = ""
    if any(_can_unfold(context) for group in groups for context in group["contexts"]):
        toggle = (
            '<button type="button" class="plain" data-unfold aria-pressed="false">'
            "More of each context</button>"
        )
    return "".join(
        _group(group, data, toggle if position == 0 else "")
        for position, group in enumerate(groups)
    )


def _can_unfold(context: Data) -> bool:
    """Whether the compact view leaves out tokens or line breaks."""
    before, after = context["peak"], len(context["tokens"]) - 1 - context["peak"]
    return before > NEAR[0] or after > NEAR[1] or any("\n" in t for t in context["tokens"])


def _group(group: Data, data: Data, toggle: str) -> str:
    contexts = group["contexts"]
    rows = [_context(context, group, data) for context in contexts]
    body = "".join(rows[:SHOWN])
    if len(rows) > SHOWN:
        body += (
            f'<details class="rest"><summary>{len(rows) - SHOWN} more</summary>'
            f"{''.join(rows[SHOWN:])}</details>"
        )
    # Near misses lie so close to the threshold that three digits would round them to it.
    digits = 4 if group["name"] == "near_miss" else 3
    bounds = f"{number(group['low'], digits)} to {number(group['high'], digits)}"
    name = escape(group["name"])
    asked = {"sae": data["sae"], "feature": data["feature"], "group": group["name"]}
    choices = [
        (f"{number(context['value'], digits)}, {context['title'] or 'no title'}", {"context": i})
        for i, context in enumerate(contexts)
    ]
    tools = f"{toggle}{reproduce_button(asked, choices, of=group['title'])}"
    return (
        f'<section aria-labelledby="group-{name}"><div class="between"><h2 id="group-{name}">'
        f"{escape(group['title'])} <span>{bounds}</span></h2>"
        f'<span class="tools">{tools}</span></div>'
        f'<div class="panel list">{body}</div></section>'
    )


def _context(context: Data, group: Data, data: Data) -> str:
    near_miss = group["name"] == "near_miss"
    peak = context["peak"]
    word = context["tokens"][peak].strip() if peak < len(context["tokens"]) else ""
    tokens = heat_map(
        context["tokens"],
        context["activations"],
        scale=data["max_act"],
        label=f"{context['title']}, {number(context['value'])} at {word}",
        peak=peak,
        peak_value=context["value"] if near_miss else None,
        near=NEAR,
    )
    terms = " · ".join(escape(part) for part in (context["title"], context["license"]) if part)
    return (
        f'<div class="context{" near-miss" if near_miss else ""}">{tokens}'
        f'<p class="quiet"><span class="title">{terms}</span>'
        f'<span class="n">{number(context["value"], 4 if near_miss else 3)}</span></p></div>'
    )
