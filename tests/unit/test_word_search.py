"""The search for text among features' words, against a slow search of each word."""

import itertools
import re
from pathlib import Path

import duckdb
import numpy as np
import pytest

from sae_core.index import Index
from sae_core.index.schema import connect
from sae_core.index.signature import words_in
from sae_core.index.word_search import Words, WordSearch, read_words, terms
from tests import tiny

WORDS = ["said", " said", "Said", "re", "éa", "İstanbul", "i", "😀!", "אב", "a", " ", "\x00", ""]


def search_of(words: list[str], features: list[list[int]], d_sae: int) -> WordSearch:
    number = Words()
    pairs = [(number(word), f) for word, of in zip(words, features, strict=True) for f in of]
    word, feature = np.array(pairs, np.int64).reshape(-1, 2).T
    return WordSearch(list(number), word, feature, d_sae)


def texts_of(connection: duckdb.DuckDBPyConnection) -> list[str]:
    rows = connection.execute("SELECT text FROM vocabulary ORDER BY token").fetchall()
    return [text for (text,) in rows]


@pytest.fixture(scope="module")
def several() -> tuple[WordSearch, list[list[int]]]:
    rng = np.random.default_rng(0)
    features = [sorted(rng.permutation(40)[: 1 + n].tolist()) for n in range(len(WORDS))]
    return search_of(WORDS, features, 40), features


@pytest.mark.parametrize(
    "query",
    [
        "said", "SAID", '" said"', "ai", "e", "é", "i", "i̇", "İ", "a", "😀", "א", "ב", "aid", "sre",
        "said re", "re said", '"said" é', '" "', "\x00", "zz", "said zz", "· said → …", "",
    ],
)  # fmt: skip
def test_features_with_every_term_in_a_word(several, query: str) -> None:
    search, features = several
    having = [
        {f for of, word in zip(features, WORDS, strict=True) if term in word.casefold() for f in of}
        for term in terms(query)
    ]
    expected = sorted(set(range(40)).intersection(*having))
    assert np.flatnonzero(search.matching(query)).tolist() == expected


def test_marks_of_a_signature_are_no_terms_but_in_quotes() -> None:
    assert terms("said · replied → “…") == ["said", "replied", "“…"]
    assert terms('"·" "a  b" x') == ["·", "a  b", "x"]


def test_a_term_does_not_run_on_into_the_next_word() -> None:
    search = search_of(["ab", "cd", "bc"], [[0], [1], [2]], 3)
    assert np.flatnonzero(search.matching("bc")).tolist() == [2]
    assert not search.matching("dbc").any()


def test_rare_and_common_words_are_gathered_alike() -> None:
    """Common ones in one pass over all entries, rare ones each by itself."""
    rng = np.random.default_rng(1)
    words = [f"{'c' if n % 2 else 'r'}{n}" for n in range(50)]
    features = [rng.permutation(300)[: 100 if n % 2 else 1].tolist() for n in range(50)]
    search = search_of(words, features, 300)
    for letter, first in (("c", 1), ("r", 0)):
        expected = sorted(set(itertools.chain.from_iterable(features[first::2])))
        assert np.flatnonzero(search.matching(letter)).tolist() == expected


def test_no_words_match_nothing() -> None:
    search = WordSearch([], np.empty(0, np.int64), np.empty(0, np.int64), 3)
    assert not search.matching("a").any()


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
    """Read by DuckDB; here each feature's page is read."""
    index = Index.open(tiny_index)
    connection = connect(tiny_index)
    texts = [
        text
        for (text,) in connection.execute("SELECT text FROM vocabulary ORDER BY token").fetchall()
    ]
    search = read_words(connection, tiny_index, texts)
    words: list[set[str]] = []
    for i in range(tiny.D_SAE):
        page = index.feature(i)
        parts = re.split(" · | → |, such as ", page["signature"])
        own = {word for part in parts for word in words_in(part)}
        words.append(
            {w.casefold() for w in own | {row["token"] for row in page["fires_on"]["tokens"]}}
        )
    for query in ["the", "a", "train", "tokens", "fires", "many", "e", ".", "ing"]:
        expected = [i for i in range(tiny.D_SAE) if any(query in word for word in words[i])]
        assert np.flatnonzero(search.matching(query)).tolist() == expected, query
    connection.close()


def test_a_letter_in_half_of_a_large_vocabulary(tiny_index: Path, tmp_path: Path) -> None:
    """As Gemma's has: what is listed for a feature alone matters, whatever else has the letter."""
    large = tmp_path / "large.duckdb"
    large.write_bytes(tiny_index.read_bytes())
    with duckdb.connect(str(large)) as connection:
        [(tokens,)] = connection.execute("SELECT count(*) FROM vocabulary").fetchall()
        connection.execute(
            f"INSERT INTO vocabulary SELECT {tokens} + n, 'ae' || n, NULL FROM range(200000) t(n)"
        )
    texts_before = Index.open(tiny_index).search("ae", limit=100)["total"]
    connection = connect(large)
    texts = [
        t for (t,) in connection.execute("SELECT text FROM vocabulary ORDER BY token").fetchall()
    ]
    assert read_words(connection, large, texts).matching("ae").sum() == texts_before
    connection.close()
