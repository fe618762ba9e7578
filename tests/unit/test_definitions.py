"""docs/metrics.md says what the code says."""

import re
from pathlib import Path

from app.service.prove import DEFINITIONS as PROOF_DEFINITIONS
from app.service.token_rows import PROMPT_DEFINITIONS, UNINDEXED_DEFINITIONS
from sae_core.definitions import (
    DEFINITIONS,
    EFFECT_DEFINITIONS,
    EXPLANATION_DEFINITIONS,
    RATING_DEFINITIONS,
    SCORE_DEFINITIONS,
)

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def _defined(section: str) -> dict[str, str]:
    """Heading -> first paragraph, of the third-level headings under a second-level one."""
    body = PAGE.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    entries = re.findall(r"^### `(\w+)`[^\n]*\n([^\n]+)$", body, re.MULTILINE)
    assert len(dict(entries)) == len(entries) == body.count("\n### ")
    return dict(entries)


def test_the_page_defines_every_number_of_an_sae_in_the_code_s_words() -> None:
    assert _defined("Of an SAE") == DEFINITIONS


def test_the_page_defines_every_number_of_a_prompt_in_the_code_s_words() -> None:
    defined = _defined("Of a prompt")
    shared = {name for name, text in PROMPT_DEFINITIONS.items() if DEFINITIONS.get(name) == text}
    assert defined == {k: v for k, v in PROMPT_DEFINITIONS.items() if k not in shared}


def test_the_page_defines_every_number_of_a_prediction_in_the_code_s_words() -> None:
    assert _defined("Of a prediction") == EFFECT_DEFINITIONS


def test_the_page_defines_every_number_of_a_proof_in_the_code_s_words() -> None:
    assert _defined("Of a proof") == PROOF_DEFINITIONS


def test_the_page_defines_what_a_feature_writes_in_the_code_s_words() -> None:
    assert _defined("Of what a feature writes") == SCORE_DEFINITIONS


def test_the_page_defines_every_number_of_an_explanation_and_of_ratings() -> None:
    assert _defined("Of an explanation") == EXPLANATION_DEFINITIONS
    assert _defined("Of ratings") == RATING_DEFINITIONS


def test_the_page_says_what_differs_without_an_index() -> None:
    differing = UNINDEXED_DEFINITIONS.items() - PROMPT_DEFINITIONS.items()
    assert {name for name, _ in differing} == {"fvu"}
    body = PAGE.read_text().partition("\n## Of a prompt\n")[2]
    for name in PROMPT_DEFINITIONS.keys() - UNINDEXED_DEFINITIONS.keys():
        assert f"`{name}`" in body
    assert UNINDEXED_DEFINITIONS["fvu"].removeprefix(DEFINITIONS["fvu"]).strip() in body
