"""Tokens on a page, as tests/js/dom.test.js has them for the browser."""

import re
from typing import Any

import pytest

from app.web.templating import part
from app.web.token_text import quoted, token_parts
from tests.unit.render_support import Document


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ("", "a", "")),
        ("  a b ", ("  ", "a b", " ")),
        ("   ", ("", "   ", "")),
        ("\n  b", ("", '<i class="nl">↵</i><br>  b', "")),
        ("<b>\r", ("", "&lt;b&gt;", "")),
        ("", ("", "", "")),
        (" \N{THAI CHARACTER SARA II}", (" ", "\N{DOTTED CIRCLE}\N{THAI CHARACTER SARA II}", "")),
        ("e\N{COMBINING ACUTE ACCENT}", ("", "e\N{COMBINING ACUTE ACCENT}", "")),
    ],
)
def test_spaces_around_a_token_stand_outside(text: str, parts: tuple[str, str, str]) -> None:
    assert token_parts(text) == parts


def test_a_token_without_a_character_is_drawn_by_its_bytes() -> None:
    assert token_parts("", "F0 9F") == ("", '<i class="bytes">⟨F0 9F⟩</i>', "")
    assert quoted("", "F0 9F") == "“⟨F0 9F⟩”"


def test_quoted_text_stands_on_one_line() -> None:
    assert quoted(" a\n\tb") == "“ a↵⇥b”"


# On a heat map


def heat_map(tokens: list[str], acts: list[float], **options: Any) -> str:
    scale, peak, near = (options.get(name) for name in ("scale", "peak", "near"))
    return str(part("parts.html", "heat_map", tokens, acts, scale, "x", peak, None, near))


def test_tokens_stay_the_text_they_were() -> None:
    tokens = ["He", " said", "\n", "\t<b>", "", " & so\n\n"]
    html = heat_map(tokens, [0, 2.0, 0, 0.5, 0, 0], scale=4.0, peak=1)
    shown = re.sub(r'<i class="nl">↵</i><br>', "\n", html)
    assert Document(shown).text == "".join(tokens)
    # No colour hangs at the end of a line: the space stands outside of it.
    assert ' <span class="peak" style="--a:0.500" data-v="2.00">said</span>' in html
    assert html.count('data-v="') == 2


def test_far_tokens_are_folded_not_lost() -> None:
    tokens = [f" {i}" for i in range(30)]
    acts = [0.0] * 30
    acts[15] = 1.0
    html = heat_map(tokens, acts, scale=1.0, peak=15, near=(3, 2))
    assert Document(html).text == "".join(tokens)
    far = r'<span class="far [\w ]+">( <span>[^<]*</span>)* ?</span>'
    # The space before what is kept is folded away too: the mark has one that no line ends at.
    assert Document(re.sub(far, "", html)).text == "".join(tokens[12:18]).lstrip(" ")
    assert html.count('class="far before apart"') == 1
    inside_a_word = [*tokens[:12], "and", *tokens[13:]]
    html = heat_map(inside_a_word, acts, scale=1.0, peak=15, near=(3, 2))
    assert html.count('class="far before"') == 1


def test_a_colour_never_exceeds_the_full_one() -> None:
    html = heat_map(["a", "b"], [9.0, 1.0], scale=3.0)
    assert re.findall(r"--a:([\d.]+)", html) == ["1.000", "0.333"]
