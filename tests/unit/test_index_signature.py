"""Signatures and the choice of highlights."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sae_core.index.highlights import rank_highlights, ranking
from sae_core.index.signature import (
    MAX_LENGTH,
    Facts,
    RankedWords,
    Signature,
    WordForms,
    describe,
)
from sae_core.index.token_words import is_whole, plain_forms, visible, word_forms


def facts(**changes: Any) -> Facts:
    """A feature that fires on 1,000 tokens, of no kind in particular."""
    given: dict[str, Any] = {
        "tokens_read": 1_000_000,
        "active_tokens": 1000,
        "tokens": [],
        "sources": [("books", 0.9, 0.9)],
        "early_share": 0.0,
        "raises": [],
    }
    given |= changes
    tokens = given.pop("tokens")
    forms = [word for word, _, _ in tokens]
    ids = np.argsort([-share for _, share, _ in tokens], kind="stable")
    share, base = np.array([row[1:] for row in tokens], float).reshape(-1, 2).T
    feature = np.zeros(len(ids), int)
    ranked = RankedWords(feature, ids, share[ids], base[ids], WordForms(forms))
    return Facts(leading=ranked.leading(1)[0], telling=ranked.telling(1)[0], **given)


def text(**changes: Any) -> str:
    return describe(facts(**changes)).text


def test_a_dead_feature_says_on_how_many_tokens() -> None:
    assert text(active_tokens=0) == "never fires in 1,000,000 tokens"


def test_words_that_differ_in_case_or_spaces_count_together() -> None:
    result = describe(
        facts(
            tokens=[
                ("said", 0.4, 0.002),
                ("Said", 0.1, 0.0001),
                ("replied", 0.2, 0.0005),
                ("SAID", 0.05, 0.0001),
                (",", 0.05, 0.05),
            ]
        )
    )
    assert result.text == "said · replied"
    assert result.words == ("said", "replied")
    assert abs(result.share - 0.75) < 1e-9


def test_what_is_common_everywhere_does_not_lead() -> None:
    tokens = [("the", 0.06, 0.05), (",", 0.06, 0.06), ("court", 0.05, 1e-4), ("law", 0.04, 1e-4)]
    assert text(tokens=tokens) == "court · law …"
    assert text(tokens=[("the", 0.8, 0.05)]) == "the"


def test_no_token_stands_out() -> None:
    spread = [(f"w{i}", 0.004, 0.001) for i in range(40)]
    assert text(tokens=spread) == "many tokens"
    assert text(tokens=spread, early_share=0.9) == "many tokens, in the first 4 tokens"
    sources = [("code", 0.8, 0.1), ("books", 0.2, 0.9)]
    assert text(tokens=spread, sources=sources) == "many tokens, in code"
    # A source that has most of the text anyway says nothing.
    assert text(tokens=spread, sources=[("code", 0.8, 0.7)]) == "many tokens"
    assert text(tokens=spread, sources=[("", 0.8, 0.1)]) == "many tokens"


def test_examples_where_no_token_stands_out() -> None:
    spread = [("-ing", 0.01, 0.0001), ("house", 0.009, 0.0002), ("the", 0.01, 0.008)]
    assert text(tokens=spread) == "many tokens"
    spread += [("door", 0.008, 0.0002), ("room", 0.007, 0.0003), ("yard", 0.006, 0.0003)]
    result = describe(facts(tokens=spread))
    assert result.text == "many tokens, such as house · door · room"
    assert result.words == ()


def test_what_it_makes_the_model_expect() -> None:
    tokens = [("had", 0.6, 0.01), ("has", 0.3, 0.01)]
    raises = [("been", 9.0), ("Been", 8.0), ("gone", 6.0), ("weak", 3.0)]
    assert text(tokens=tokens, raises=raises) == "had · has → been · gone"
    assert text(tokens=tokens, raises=[("weak", 3.0)]) == "had · has"
    one = [("had", 0.9, 0.01)]
    assert text(tokens=one, raises=[("had", 9.0), ("gone", 6.0)]) == "had → gone"


def test_fragments_of_words_are_marked() -> None:
    texts = [" comm", "ission", " talk", "ing", " in", ".", "in", "\ufffd", "", "  "]
    stream = np.array([0, 1, 5, 2, 3, 4, 2, 5, 4, 6, 5, 0, 1, 9, 4, 2])
    assert word_forms(texts, plain_forms(texts), stream) == [
        "comm-", "-ission", "talk", "-ing", "in", ".", "-in", "", "", "␣␣",
    ]  # fmt: skip
    assert [is_whole(w) for w in ("talk", "-ing", "comm-", "in", "__")] == [True] + [False] * 4


def test_fragments_are_counted_over_a_stream_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    texts = ["a", " b", "c.", ".", "d", " e"]
    stream = rng.integers(0, 6, 50_000)
    whole = word_forms(texts, plain_forms(texts), stream)
    monkeypatch.setattr("sae_core.index.token_words._PART", 7)
    assert word_forms(texts, plain_forms(texts), stream[:1000]) == word_forms(
        texts, plain_forms(texts), np.tile(stream[:1000], 1)
    )
    monkeypatch.setattr("sae_core.index.token_words._PART", 49_999)
    assert word_forms(texts, plain_forms(texts), stream) == whole


def test_whitespace_is_drawn_and_control_characters_cannot_act() -> None:
    assert visible("\n\n") == "↵↵"
    assert visible("        ") == "␣×8"
    assert visible(" x\u202ey\x00 ") == "x�y�"
    assert visible("y" * 50) == "y" * 23 + "…"
    assert visible("<b>") == "<b>"


def test_tokens_without_a_form_are_left_out() -> None:
    assert text(tokens=[("", 0.5, 0.001), ("é", 0.3, 0.001)]) == "é …"


def test_never_too_long_and_always_the_same() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        words = ["".join(rng.choice(list("abcXY \n-"), rng.integers(1, 40))) for _ in range(12)]
        shares = rng.dirichlet(np.ones(12))
        given = facts(
            tokens=[(w, float(s), float(s) / 50) for w, s in zip(words, shares, strict=True)],
            sources=[("a source with a rather long name", 0.9, 0.1)],
            raises=[(w, 10.0) for w in words],
        )
        result = describe(given)
        assert 0 < len(result.text) <= MAX_LENGTH
        assert result == describe(given)


def signature(
    *words: str,
    share: float = 0.8,
    bits: float = 3.0,
    source: str = "",
    text: str = "",
    expected: tuple[str, ...] = (),
) -> Signature:
    return Signature(
        text=text,
        words=words,
        share=share,
        telling=tuple((word, share / len(words)) for word in words),
        telling_bits=bits,
        source=source,
        expected=expected,
    )


NONE = np.zeros((6, 1))


def of_some(signatures: list[Signature]) -> Callable[[list[int]], list[Signature]]:
    return lambda features: [signatures[i] for i in features]


def ranked(signatures: list[Signature], frequency: list[float], **near: Any) -> list[int]:
    ids, cosine = near.get("near", NONE.astype(int)), near.get("cosine", NONE)
    of = ranking(signatures, np.array(frequency))
    return [int(row[0]) for row in rank_highlights(of, of_some(signatures), ids, cosine)]


def test_telling_words_are_whole_frequent_and_marked() -> None:
    tokens = [
        ("wish", 0.2, 0.001),
        ("-ing", 0.2, 0.001),
        ("the", 0.2, 0.05),
        ("seldom", 0.004, 0.0001),
        ("want", 0.1, 0.001),
        ("Wish", 0.1, 0.001),
    ]
    result = describe(facts(tokens=tokens))
    assert [word for word, _ in result.telling] == ["wish", "want"]
    assert [share for _, share in result.telling] == pytest.approx([0.3, 0.1])
    bits = 0.3 * np.log2(0.3 / 0.002) + 0.1 * np.log2(0.1 / 0.001)
    assert result.telling_bits == pytest.approx(bits)


def test_highlights_prefer_varied_telling_words_of_middling_frequency() -> None:
    signatures = [
        signature("look", "looked", "looking", "like", bits=4.0),
        signature("said", "replied", "cried"),
        signature("wish", "want"),
        signature("kept", "held", share=0.1),
        signature("rare", "few"),
        signature(),
    ]
    # 4 is too rare, 5 never fires; what does not fit the rule comes after what does.
    frequency = [0.01, 0.01, 0.01, 0.01, 1e-6, 0.0]
    result = ranked(signatures, frequency)
    assert result[:3] == [1, 0, 2]
    assert set(result[3:]) == {3, 4}


def test_highlights_prefer_features_that_expect_other_whole_words() -> None:
    signatures = [
        signature("sea", "ship"),
        signature("king", "queen", expected=("throne",)),
        signature("river", "lake", expected=("-s", "to")),
        signature("red", "blue", expected=("green", "colour")),
        signature("sal-", "cut-", expected=("short", "long", "wide")),
        signature(),
    ]
    # 2 expects no whole word and 4 lists fragments.
    assert ranked(signatures, [0.01] * 6) == [3, 1, 0, 2, 4, 5]


def test_highlights_show_no_feature_twice() -> None:
    signatures = [
        signature("said", "cried"),
        signature("Said", "shouted"),
        signature("king", "queen"),
        signature("prince", "duke"),
        signature("river", "lake"),
        signature("red", "blue"),
    ]
    near = np.array([[5], [5], [3], [2], [5], [4]])
    cosine = np.array([[0.1], [0.1], [0.9], [0.9], [0.2], [0.2]])
    result = ranked(signatures, [0.01] * 6, near=near, cosine=cosine)
    assert len({0, 1} & set(result)) == 1
    assert len({2, 3} & set(result)) == 1
    assert {4, 5} <= set(result)


def test_every_third_place_goes_to_a_source_and_they_take_turns() -> None:
    sources = ["", "", "", "code", "code", "mail"]
    signatures = [
        signature(f"a{n}word", f"b{n}word", bits=5 - n / 10, source=source)
        for n, source in enumerate(sources)
    ]
    assert ranked(signatures, [0.01] * 6) == [0, 1, 3, 2, 5, 4]


def test_the_reason_says_how_much_is_on_how_many_words() -> None:
    signatures = [signature("said", "cried"), signature("alone"), signature()]
    of = ranking(signatures, np.full(3, 0.01))
    result = rank_highlights(of, of_some(signatures), NONE[:3].astype(int), NONE[:3])
    assert [why for _, why in result] == [
        "80 % of its firing is on 2 words",
        "80 % of its firing is on one word",
        "fires on many tokens",
    ]
