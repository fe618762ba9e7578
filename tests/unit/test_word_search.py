"""The search for text among features' words, and the order of what matches, against slow ones."""

import json
import re
import shutil
import unicodedata
from pathlib import Path

import duckdb
import numpy as np
import pytest
import torch

from sae_core.bundle import Bundle
from sae_core.index import Index, match_ranking
from sae_core.index.arrays import pack, unpack
from sae_core.index.build import build_index
from sae_core.index.described_words import DescribedWords, from_pages
from sae_core.index.index_config import IndexConfig
from sae_core.index.match_ranking import MatchRanking
from sae_core.index.schema import GATHERED, connect
from sae_core.index.signature import words_in
from sae_core.index.text_folding import folded, marked_parts
from sae_core.index.word_search import Place, Words, WordTable, as_written, encoded, terms
from tests import tiny

WORDS = ["said", " said", "Said", "re", "éa", "İstanbul", "i", "😀!", "אב", "a", " ", "\x00", ""]


def ranking_of(
    features: list[dict[str, float]], base: dict[str, float] | None = None, active: int = 1000
) -> MatchRanking:
    """Features given as word -> share; 0 for a word of the line alone."""
    numbers = Words()
    triples = [(f, numbers(w), s) for f, words in enumerate(features) for w, s in words.items()]
    feature, word, share = (np.array(column) for column in zip(*triples, strict=True))
    shares = dict.fromkeys(numbers, 1e-4)
    shares |= {encoded(folded(w)): share for w, share in (base or {}).items()}
    described = DescribedWords(
        words=WordTable(list(numbers)),
        base=np.array([shares[w] for w in numbers], np.float32),
        feature=feature.astype(np.int32),
        word=word.astype(np.int32),
        share=share.astype(np.float32),
        strongest=np.full(len(features), -1),
    )
    return MatchRanking(described, np.full(len(features), active))


def found(ranking: MatchRanking, query: str, **given: dict[int, tuple[str, str]]) -> list[int]:
    matches = ranking.matching(query, **given)
    return ranking.best(matches, np.ones(len(matches.tiers), bool), 100).tolist()


def test_notes_of_features_that_are_not_there_are_passed_over() -> None:
    """Of a file that somebody imported."""
    ranking = ranking_of([{"sea": 0.1}, {"re": 0.1}])
    notes = {-1: ("ship", ""), 1: ("Ship", ""), 2: ("ship", ""), 5_000_000: ("", "ship")}
    assert found(ranking, "ship", notes=notes) == [1]


def test_notes_are_folded_once_for_all_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    ranking = ranking_of([{"sea": 0.1}, {"re": 0.1}])
    notes = {1: ("The Ship", "A Note")}
    folds: list[str] = []
    monkeypatch.setattr(match_ranking, "folded", lambda text: (folds.append(text), folded(text))[1])
    for query in ("ship", "the note", "note ship the"):
        found(ranking, query, notes=notes)
    assert folds == ["The Ship", "A Note"]
    assert found(ranking, "harbour", notes={0: ("Harbour", "")}) == [0]


def test_a_query_of_too_many_words_is_one_sentence() -> None:
    ranking = ranking_of([{"sea": 0.1}, {"re": 0.1}])
    assert found(ranking, "sea " * match_ranking.MOST_TERMS) == [0]
    with pytest.raises(ValueError, match="may have 16 words, and this one has 17") as caught:
        ranking.matching("sea " * 17)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "query",
    ["said", "SAID", '" said"', "ai", "e", "é", "i", "i̇", "İ", "a", "😀", "א", "ב", "aid",
     "said re", "re said", '"said" é', "\x00", "· said → …"],
)  # fmt: skip
@pytest.mark.parametrize("often", [False, True])
def test_features_with_every_term_in_a_word(query: str, often: bool) -> None:
    """Rare words are taken one by one, common ones in one pass over all pairs."""
    rng = np.random.default_rng(0)
    chosen: list[dict[str, float]] = [{} for _ in range(40)]
    for n, word in enumerate(WORDS):
        for f in rng.permutation(40)[: 30 if often else 1 + n]:
            chosen[f][word] = 0.1
    chosen = [words | {f"filler{n}": 0.1 for n in range(5)} for words in chosen]
    expected = {
        f
        for f, words in enumerate(chosen)
        if all(any(term in folded(word) for word in words) for term in terms(query))
    }
    if expected:  # where no feature has all of several, it is a text of several tokens
        assert set(found(ranking_of(chosen), query)) == expected


def test_whole_tokens_before_beginnings_before_what_is_within() -> None:
    ranking = ranking_of([{"uphe": 0.9}, {" hers": 0.9}, {" He": 0.1}, {"he": 0.0, "x": 1.0}])
    assert found(ranking, "he") == [2, 1, 3, 0]


def test_a_tier_is_ordered_by_the_share_of_the_firing() -> None:
    shares = np.random.default_rng(0).permutation(50) / 60 + 0.01
    ranking = ranking_of([{" raise": float(s), f"w{n}": 0.1} for n, s in enumerate(shares)])
    assert found(ranking, "raise") == np.argsort(-shares).tolist()


def test_three_firings_prove_less_than_a_thousand() -> None:
    ranking = ranking_of([{"sea": 1.0}, {"sea": 0.9}])
    ranking._active[:] = [3, 1000]
    assert found(ranking, "sea") == [1, 0]


def test_what_it_fires_on_less_than_the_text_has_comes_last() -> None:
    assert found(ranking_of([{"the": -0.04}, {"bathe": 0.5}]), "the") == [1, 0]


def test_several_words_must_all_match() -> None:
    ranking = ranking_of([{"sea": 0.9}, {"sea": 0.4, "ship": 0.4}, {"ship": 0.9, "sea": 0.01}])
    assert found(ranking, "sea ship") == found(ranking, "ship sea") == [1, 2]


def test_a_text_of_several_tokens_is_looked_for_by_each_of_them() -> None:
    base = {" the": 0.05, " value": 1e-4, "error": 1e-4}
    features = [{" the": 1.0}, {" value": 0.5, "error": 0.4}, {" value": 0.5}, {" sea": 1.0}]
    ranking = ranking_of(features, base)
    assert found(ranking, '"the ValueError"') == [1, 2, 0]
    assert found(ranking, "ValueError") == [1, 2]
    matches = ranking.matching("sea ValueError")  # no feature has both: one text of several tokens
    assert matches.phrases == ("sea valueerror",)
    assert ranking.matching("value ValueError").phrases == ("valueerror",)
    assert found(ranking, "the value sea error") == []  # a sentence is no text of tokens
    assert "value" in " ".join(matches.marks)
    # No token has a letter of it, or it falls into single letters, which say nothing.
    assert found(ranking_of([{"q": 1.0, "z": 1.0}]), "zqzq") == []


def test_a_number_is_found_where_each_digit_is_a_token() -> None:
    ranking = ranking_of([{"1": 1.0}, {"9": 0.5, "8": 0.5}, {" sea": 1.0}])
    assert sorted(found(ranking, "198")) == [0, 1]
    assert sorted(found(ranking, "1.8")) == []  # the point is no feature's
    assert ranking.matching("198").phrases == ("198",)


def test_what_an_open_quote_begins_is_one_text() -> None:
    assert terms('sea "raise value') == ["sea", "raise value"]
    assert terms('"raise value" sea') == ["raise value", "sea"]
    assert terms('say "') == ["say", '"']
    assert terms('""') == ['""']


def test_terms_that_no_feature_has_are_named() -> None:
    ranking = ranking_of([{" sea": 1.0}, {" king": 1.0}])
    assert ranking.matching("sea zqx").nowhere == ("zqx",)
    assert ranking.matching("sea king").nowhere == ()  # each is somewhere, but not together
    assert ranking.matching("sea", {0: ("ships", "")}).nowhere == ()
    assert ranking.matching("ships", {0: ("ships", "")}).nowhere == ()


def test_tokens_that_are_parts_of_characters() -> None:
    numbers = Words()
    first, second = numbers.of_tokens(["�", "�"], [b"\xf0\x9f", b"\x98\x80"])
    dash = numbers("—")  # E2 80 94 has the byte 80 in it
    table = WordTable(list(numbers))
    assert table.pieces("😀".encode()) == [b"\xf0\x9f", b"\x98\x80"]
    assert table.find(b"\x98\x80")[0].tolist() == [second]
    assert table.find(b"\x80")[0].tolist() == []
    assert table.find("—".encode())[0].tolist() == [dash]
    assert first == 0


def test_labels_come_first_and_notes_before_tokens() -> None:
    ranking = ranking_of([{" sea": 1.0}, {"x": 1.0}, {"x": 1.0}, {"x": 1.0}])
    notes = {1: ("the sea at night", ""), 2: ("", "perhaps the SEA"), 3: ("seaside", "")}
    assert found(ranking, "Sea", notes=notes) == [1, 3, 2, 0]
    assert found(ranking, "sea x", notes=notes) == [1, 2, 3]


@pytest.mark.parametrize(
    ("word", "term", "place"),
    [(" said", "said", Place.WHOLE),
     ("“said", "said", Place.WHOLE), ("(self", "self", Place.WHOLE),
     ("-ing", "ing", Place.WHOLE),
     ("saids", "said", Place.BEGINS), ("unsaid", "said", Place.WITHIN),
     ("sad said", "said", Place.WITHIN), ("ee e", "e", Place.WITHIN), ("אב", "א", Place.BEGINS)],
)  # fmt: skip
def test_where_in_a_word_a_term_stands(word: str, term: str, place: Place) -> None:
    words, places = WordTable([b"zz", encoded(word), b"yy"]).find(encoded(term))
    assert (words.tolist(), places.tolist()) in (([1], [place]), ([1], [Place.BEGINS]))


def test_text_is_folded_alike_however_it_is_written() -> None:
    assert folded("É") == folded(unicodedata.normalize("NFD", "é")) == "é"
    assert folded("ﬁrst ＡＢ²") == "first ab2"
    assert folded("…½´") == "…½´"
    assert folded("İ") != "i"
    assert folded("ß") == "ss"


def test_marks_of_a_signature_are_no_terms_but_in_quotes() -> None:
    assert terms("said · replied → “…") == ["said", "replied", "“…"]
    assert terms('"·" "a  b" x') == ["·", "a  b", "x"]


def test_a_term_does_not_run_on_into_the_next_word() -> None:
    table = WordTable([b"ab", b"cd", b"bc"])
    assert table.find(b"bc")[0].tolist() == [2]
    assert table.find(b"dbc")[0].tolist() == []
    assert WordTable([]).find(b"a")[0].tolist() == []


def test_parts_of_a_text_are_marked_where_terms_stand() -> None:
    assert marked_parts("He SAID so", ["said", "o"]) == [
        ("He ", False), ("SAID", True), (" s", False), ("o", True),
    ]  # fmt: skip
    text = "Straße ﬁne"
    assert "".join(part for part, _ in marked_parts(text, ["ss", "f"])) == text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("said · replied · cried", ["said", "replied", "cried"]),
        ("court · law · judge …", ["court", "law", "judge"]),
        ("many tokens, such as house · door", ["house", "door"]),
        ("self · cls, in python-peps", ["self", "cls", "python-peps"]),
        ("many tokens, in the first 4 tokens", []),
        ("many tokens …, in books → been", ["books", "been"]),
        ("I · , · you", ["I", ",", "you"]),
        ("had · have → been · gone", ["had", "have", "been", "gone"]),
        ("many tokens, in books, such as house · door", ["books", "house", "door"]),
        ("never fires in 3,000,000 tokens", []),
    ],
)
def test_the_words_of_a_signature_are_none_of_its_own(line: str, words: list[str]) -> None:
    parts = re.split(" · | → |, such as ", line)
    assert [word for part in parts for word in words_in(part)] == words


def test_the_words_of_an_index_are_its_tokens_and_those_of_its_lines(tiny_index: Path) -> None:
    """Read by DuckDB and from parts of pages; here each feature's page is read."""
    index = Index.open(tiny_index)
    pages = [index.feature(i) for i in range(tiny.D_SAE)]
    for query in ["the", "a", "train", "tokens", "fires", "many", "e", ".", "ing"]:
        expected = set()
        for i, page in enumerate(pages):
            parts = re.split(" · | → |, such as ", page["signature"])
            own = {word for part in parts for word in words_in(part)}
            own |= {row["token"] for row in page["fires_on"]["tokens"]}
            if any(query in word.casefold() for word in own):
                expected.add(i)
        actual = index.search(query, limit=100)
        assert {row["feature"] for row in actual["features"]} == expected, query
        for row in actual["features"]:
            listed = pages[row["feature"]]["fires_on"]["tokens"]
            for match in row["matches"]:
                shares = [
                    each["share"]
                    for each in listed
                    if folded(each["token"]).strip() == match["word"]
                ]
                assert match["share"] == pytest.approx(sum(shares), rel=1e-5)


def test_a_large_index_has_what_a_search_takes_from_its_pages_in_one_piece(
    tiny_bundle: Bundle,
    tiny_index: Path,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sae_core.index.write.MANY_PAGES", 0)
    monkeypatch.setattr("sae_core.index.write._COUNTED", 7)
    model, tokenizer = tiny_bundle.load_model(torch.float32, torch.device("cpu"))
    sae = tiny_bundle.load_sae(tiny.SAE_NAME, torch.device("cpu"))
    path = tmp_path / "large.duckdb"
    build_index(model, tokenizer, sae, IndexConfig(corpus=(str(tiny_corpus),)), path)
    with connect(path) as connection:
        rows = connection.execute("SELECT name, data FROM arrays").fetchall()
        lengths = connection.execute("SELECT len(tokens) FROM features ORDER BY feature").fetchall()
        entries = connection.execute("SELECT key, value FROM meta").fetchall()
        meta = {key: json.loads(value) for key, value in entries}
        counts, strongest = from_pages(connection, path, meta, np.ravel(lengths))
    gathered = {name: unpack(data, GATHERED[name])[0] for name, data in rows if name in GATHERED}
    assert gathered["listed_count"].tolist() == counts.tolist()
    assert (gathered["strongest_place"].astype(int) - 1).tolist() == strongest.tolist()
    assert strongest[tiny.DEAD] == -1
    with monkeypatch.context() as patch:
        patch.setattr("sae_core.index.described_words.from_pages", None)  # pages are not read
        large = Index.open(path)
        large.prepare_search()
    one = Index.open(tiny_index)
    one.prepare_search()
    assert large.glimpses(range(tiny.D_SAE)) == one.glimpses(range(tiny.D_SAE))
    for query in ("a", "the", "e"):
        assert large.search(query) == one.search(query)
    large.close()
    # What cannot be is refused.
    for name, wrong in (
        ("listed_count", counts[1:]),
        ("strongest_place", np.full(tiny.D_SAE, meta["stored_tokens"] + 1)),
        ("strongest_place", np.zeros(tiny.D_SAE)),
    ):
        copy = Path(shutil.copy(path, tmp_path / f"{name}.duckdb"))
        with duckdb.connect(str(copy)) as connection:
            connection.execute(
                "UPDATE arrays SET data = ? WHERE name = ?", [pack(wrong, GATHERED[name]), name]
            )
        with pytest.raises(ValueError, match="is damaged: build it again"):
            Index.open(copy).prepare_search()


def test_a_glimpse_is_the_middle_of_the_strongest_context(tiny_index: Path) -> None:
    fresh, searched = Index.open(tiny_index), Index.open(tiny_index)
    searched.prepare_search()
    ids = list(range(tiny.D_SAE))
    assert fresh.glimpses(ids) == searched.glimpses(ids)
    glimpses = fresh.glimpses(ids)
    assert tiny.DEAD not in glimpses
    for i in set(ids) - {tiny.DEAD}:
        top = fresh.feature(i)["groups"][0]["contexts"][0]
        shift = top["peak"] - glimpses[i]["peak"]
        stop = shift + len(glimpses[i]["tokens"])
        assert glimpses[i]["tokens"] == top["tokens"][shift:stop]
        assert glimpses[i]["peak"] <= 8


def test_a_letter_in_half_of_a_large_vocabulary(tiny_index: Path, tmp_path: Path) -> None:
    """As Gemma's has: what is listed for a feature alone matters, whatever else has the letter."""
    large = tmp_path / "large.duckdb"
    large.write_bytes(tiny_index.read_bytes())
    with duckdb.connect(str(large)) as connection:
        [(tokens,)] = connection.execute("SELECT count(*) FROM vocabulary").fetchall()
        connection.execute(
            f"INSERT INTO vocabulary SELECT {tokens} + n, 'ae' || n, NULL FROM range(20000) t(n)"
        )
        row = connection.execute("SELECT data FROM arrays WHERE name = 'token_counts'").fetchone()
        assert row is not None
        counts = np.append(unpack(row[0], "<u8")[0], np.zeros(20000, np.uint64))
        connection.execute(
            "UPDATE arrays SET data = ? WHERE name = 'token_counts'", [pack(counts, "<u8")]
        )
    before = Index.open(tiny_index).search("ae", limit=100)
    assert Index.open(large).search("ae", limit=100)["total"] == before["total"]


def test_terms_are_named_as_somebody_wrote_them() -> None:
    assert as_written('İx "Raise  B" ＡＢ') == {"i̇x": "İx", "raise  b": "Raise  B", "ab": "ＡＢ"}
