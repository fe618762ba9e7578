"""How objects show themselves in a notebook: escaped, alone, in colours that the app has too."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from app.web.templating import part
from sae_core import Bundle, Index, SplicedLM, encode_text, notebook
from sae_core.compare import Comparison
from sae_core.edits import Edit
from sae_core.effects import effects
from sae_core.ladder import Ladder
from sae_core.shown_feature import show_feature
from tests import tiny

ROOT = Path(__file__).parents[2]
HOSTILE = "<img src=x onerror=alert(1)>&\"'</div></table>"
TEXT = "The river follows the harbour."


class Elements(HTMLParser):
    """Names of elements, and whether each that opens is closed in its place."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.open.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(thing: Any) -> Elements:
    """What a notebook makes of an object; it stands alone and runs nothing."""
    elements = Elements(thing._repr_html_())
    assert not elements.open
    assert not {"img", "script", "style", "link", "iframe"} & set(elements.names)
    for name, value in elements.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "href", "class")
        assert "url(" not in (value or "")
        # The notebook's own colour of words serves its light and its dark theme.
        assert not re.search(r"(^|;)color:", value or "")
    return elements


@pytest.fixture(scope="module")
def lm(tiny_bundle: Bundle) -> SplicedLM:
    return tiny_bundle.load()


@pytest.fixture(scope="module")
def ids(lm: SplicedLM) -> list[int]:
    return encode_text(lm.tokenizer, TEXT)


def test_a_bundle_a_model_and_an_sae(lm: SplicedLM, tiny_bundle: Bundle) -> None:
    assert tiny.SAE_NAME in shown(tiny_bundle).text
    model = shown(lm)
    assert "Gemma2ForCausalLM" in model.text
    assert str(tiny.SITE) in model.text
    sae = lm.sae(tiny.SAE_NAME)
    drawn = shown(sae)
    assert "JumpReLUSAE" in drawn.text
    assert drawn.names.count("rect") in (0, 40)
    with_thresholds = type(sae)(sae.cfg)
    with_thresholds.threshold.data = torch.linspace(0.1, 1, sae.cfg.d_sae)
    assert shown(with_thresholds).names.count("rect") == 40


def test_what_bundles_and_saes_say_is_escaped(lm: SplicedLM, tiny_bundle: Bundle) -> None:
    hostile = replace(tiny_bundle, title=HOSTILE, sources={tiny.SAE_NAME: HOSTILE})
    assert HOSTILE in shown(hostile).text
    sae = lm.sae(tiny.SAE_NAME)
    named = type(sae)(replace(sae.cfg, metadata={**sae.cfg.metadata, "model_name": HOSTILE}))
    assert "JumpReLUSAE" in shown(named).text
    spliced = SplicedLM(lm.model, lm.tokenizer, {HOSTILE: sae})
    assert HOSTILE in shown(spliced).text


def test_an_analysis_says_its_text_and_its_totals(lm: SplicedLM, ids: list[int]) -> None:
    analysis = lm.analyse(ids, tiny.SAE_NAME)
    assert len(analysis.texts) == len(ids)
    drawn = shown(analysis)
    assert TEXT in drawn.text
    assert "delta_lm_loss" in drawn.text
    assert f"#{analysis.feature[analysis.activation.argmax()]}" in drawn.text
    assert HOSTILE in shown(replace(analysis, texts=(HOSTILE,) * len(ids))).text
    # Without the texts the ids stand there.
    assert f"[{ids[1]}]" in shown(replace(analysis, texts=())).text
    alone = lm.analyse(ids[:1], tiny.SAE_NAME)
    assert "1 tokens" in shown(alone).text


def test_effects_a_comparison_and_a_ladder(lm: SplicedLM, ids: list[int]) -> None:
    at = len(ids) - 1
    result = effects(lm, ids, tiny.SAE_NAME, at, read_at=at)
    drawn = shown(result)
    assert f"#{result.feature[0]}" in drawn.text
    assert repr(result.texts[int(result.target)]) in drawn.text
    assert repr(HOSTILE) in shown(replace(result, texts={int(result.target): HOSTILE})).text
    other = encode_text(lm.tokenizer, "The river leaves the harbour.")
    assert "KL between" in shown(Comparison(lm, ids, other)).text
    rung = [Edit(feature=1, mode="set", value=2.0, sae=tiny.SAE_NAME)]
    ladder = Ladder(
        lm, ids, [rung], (tiny.SAE_NAME, 1), seeds=[0], max_new_tokens=2, temperature=0.0
    )
    for _ in ladder.grow():
        pass
    assert "A ladder of strengths" in shown(ladder).text


def test_a_feature_of_an_index(tiny_bundle: Bundle) -> None:
    index = Index.open(tiny_bundle.index_path(tiny.SAE_NAME))
    feature = int(index.frequencies().argmax())
    view = show_feature(index, feature)
    drawn = shown(view)
    assert f"#{feature}" in drawn.text
    assert "rect" in drawn.names
    assert f"#{feature}" in repr(view)
    hostile = {**view.data, "signature": HOSTILE}
    assert HOSTILE in shown(type(view)(hostile)).text
    with pytest.raises(ValueError, match="feature"):
        show_feature(index, 10**6)


def test_the_colours_are_those_of_the_app() -> None:
    sheet = (ROOT / "app/web/css/colours.css").read_text()
    for name, (*rgb, full) in {
        "heat": notebook.HEAT,
        "worse": notebook.WORSE,
        "better": notebook.BETTER,
    }.items():
        numbers = " ".join(map(str, rgb))
        assert f"--{name}: light-dark(rgb({numbers} / {100 * full:.0f}%)" in sheet


def test_a_heat_map_colours_as_the_app_does() -> None:
    tokens, values, largest = ["a", " b", "c"], [0.0, 1.0, 3.0], 2.0
    app = part("parts.html", "heat_map", tokens, values, largest, "label")
    shares = [float(each) for each in re.findall(r"--a:([\d.]+)", app)]
    assert shares == [notebook.share(value, largest) for value in values if value > 0]
    drawn = notebook.heat_map(tokens, values, largest, "label")
    percents = [float(each) for each in re.findall(r"/ (\d+)%", drawn)]
    assert percents == [round(100 * notebook.HEAT[3] * each) for each in shares]


def test_a_histogram_is_grey_below_its_threshold() -> None:
    drawn = notebook.histogram([0, 1, 2, 3], [10, 0, 5], "label", threshold=1.2)
    assert drawn.count(notebook.BELOW) == 1
    heights = [float(each) for each in re.findall(r'height="([\d.]+)" fill', drawn)][:3]
    assert heights == pytest.approx([97, 0, 97 * math.log10(6) / math.log10(11)], abs=0.01)


def test_long_texts_and_tables_say_what_they_leave_out() -> None:
    many = notebook.heat_map(["x"] * 500, [1.0] * 500, 1.0, "label")
    assert "and 100 further tokens" in many
    assert "and 8 more" in notebook.table(("a",), [(i,) for i in range(20)])
