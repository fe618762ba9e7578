"""A tour of the app in six steps, one idea each, on the real pages: what the panel of the step says
that the address names (`tour`, from 1), beside what it stands, and where the steps before and after
are. js/tour.js puts the panel there.

Texts hold for any SAE; where the one that is looked at lacks something, the step says so.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.engine.workbench import Workbench
from app.service import overview as service
from app.web.living import NEW_TOKENS, living
from app.web.ready_runs import DEFAULT_PROMPT
from app.web.templating import address

Data = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Place:
    """What the steps lead to, of one SAE."""

    sae: str
    """As addresses have it."""
    feature: int
    text: str
    """Read by the overview and by Prompt."""
    prompt: str
    """Continued by Steer."""
    edits: str
    """JSON, as addresses have it."""
    indexed: bool
    keeps: bool
    """Whether notes are kept."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One idea."""

    page: str
    """Name of the page it is on."""
    title: str
    words: str
    anchors: tuple[str, ...]
    """Selectors of what it speaks of; the first that is there counts."""
    link: Callable[[Place, int], str]
    lacks: Callable[[Place], str] = lambda place: ""
    """What is said in place of `words` where the SAE lacks it; "" where nothing is missing."""


def _feature(place: Place, number: int) -> str:
    return address("features", sae=place.sae, feature=place.feature, tour=number)


STEPS: Final = (
    Step(
        page="overview",
        title="A model’s thoughts, taken apart",
        words="A language model turns each word into a long row of numbers. An SAE writes that "
        "row as a sum of a few features, each of which ideally means one thing. Press a "
        "word: below it stands what the model expects next, and which features carry that.",
        anchors=("#living", "h1"),
        link=lambda place, number: address("./", sae=place.sae, tour=number),
    ),
    Step(
        page="features",
        title="What a feature means is read off its contexts",
        words="These are texts in which this feature fires, the strongest first and then weaker "
        "ones. Read some of each strength: do they have one thing in common? The strip "
        "above leads from strong to weak.",
        anchors=(".contexts .groups", ".contexts .notice", ".heading"),
        link=_feature,
        lacks=lambda place: (
            ""
            if place.indexed
            else "What a feature means is read off texts in which it fires. Of this SAE they are "
            "not known yet: the command on this page gathers them. Any text can be tested above."
        ),
    ),
    Step(
        page="features",
        title="Below its threshold a feature is silent",
        words="A JumpReLU feature passes on nothing up to its threshold, and all of the value "
        "above it. Drag the threshold: contexts enter and leave. Where noise and what is meant "
        "are apart, it lies in the valley between them; mostly they overlap, and it lies on a "
        "slope.",
        anchors=("[data-lab]", "#pre-title", ".heading"),
        link=_feature,
        lacks=lambda place: (
            ""
            if place.indexed
            else "A JumpReLU feature passes on nothing up to its threshold, which stands here, and "
            "all of the value above it. With an index there is a picture of it to try "
            "thresholds on."
        ),
    ),
    Step(
        page="prompt",
        title="Which features carry a prediction",
        words="Press a token of this text. The app takes each of its features away in turn, runs "
        "the model again, and lists by how much what it expects next changes. A large "
        "activation need not matter, a small one may.",
        anchors=(".reading", "#tokens", "#prompt-form"),
        link=lambda place, number: address("prompt", sae=place.sae, text=place.text, tour=number),
    ),
    Step(
        page="steer",
        title="Hold a feature on, and read what happens",
        words="The model continues the prompt twice, as it is and with the feature held on. "
        "Change the strength and press Generate: too little does nothing, too much breaks the "
        "text. Find the strength and Prove it tell which is which.",
        anchors=("#steer-form > .buttons",),
        link=lambda place, number: address(
            "steer",
            sae=place.sae,
            prompt=place.prompt,
            edits=place.edits,
            tokens=NEW_TOKENS,
            tour=number,
        ),
    ),
    Step(
        page="features",
        title="Keep what you found, and take it with you",
        words="Give the feature a star, a label or a note, or add it to a list: that is kept on "
        "this machine, and searches find it. Export, at the top of every page, writes what "
        "you see as a table, a picture or Python.",
        anchors=(".own-notes", ".heading"),
        link=_feature,
        lacks=lambda place: (
            ""
            if place.keeps
            else "Stars, labels, notes and lists would be here; notes are off on this server. "
            "Export, at the top of every page, writes what you see as a table, a picture or "
            "Python."
        ),
    ),
)


def tour(workbench: Workbench, page: str, query: Mapping[str, str]) -> dict[str, Any] | None:
    """The panel of the step that the address names; None where it names none of this page, or an
    SAE whose overview cannot be made: the pages say themselves what is wrong.
    """
    written = query.get("tour", "")
    numbers = {str(number): number for number in range(1, len(STEPS) + 1)}
    number = numbers.get(written)
    if number is None or STEPS[number - 1].page != page:
        return None
    try:
        place = _place(workbench, query.get("sae", ""))
    except ValueError:
        return None
    step = STEPS[number - 1]

    def link(to: int) -> str | None:
        return STEPS[to - 1].link(place, to) if 1 <= to <= len(STEPS) else None

    return {
        "number": number,
        "steps": len(STEPS),
        "title": step.title,
        "words": step.lacks(place) or step.words,
        "anchors": step.anchors,
        "previous": link(number - 1),
        "next": link(number + 1),
    }


def _place(workbench: Workbench, sae: str) -> Place:
    """What the overview's own sentence and run are of; ValueError if there is no such SAE."""
    data = service.overview(workbench, sae)
    name, first = data["sae"], workbench.sae_name()
    sentence = living(workbench, data)
    run = sentence["run"] or {}
    own = run.get("sae", first) == name and all(
        each.get("sae", name) == name for each in run.get("edits", ())
    )
    edits = list(run.get("edits", ())) if own else []
    features = [each["feature"] for each in (*edits, *data["highlights"])]
    feature = features[0] if features else 0
    edits = edits or [{"feature": feature, "mode": "set"}]
    return Place(
        sae="" if name == first else name,
        feature=feature,
        text=sentence["text"],
        prompt=run.get("prompt", DEFAULT_PROMPT),
        edits=json.dumps(edits, separators=(",", ":")),
        indexed=data["missing"] is None,
        keeps=workbench.notes.kept,
    )
