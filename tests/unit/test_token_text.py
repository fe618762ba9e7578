"""Tokens on a page, as tests/js/dom.test.js has them for the browser."""

import pytest

from app.web.token_text import quoted, token_parts


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
