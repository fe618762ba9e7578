"""Whatever comes from a model, a corpus or a user stays text on the Features page."""

from typing import Any

import pytest

from app.web.features_view import list_page
from tests.tiny import HOSTILE
from tests.unit.features_page_support import (
    QUERY,
    drawn,
    feature_html,
    group,
    unindexed_feature,
    unindexed_list,
)
from tests.unit.page_support import assert_plain
from tests.unit.render_support import Document, context, result


def hostile_feature(**changed: Any) -> str:
    contexts = context(tokens=[HOSTILE] * 5, title=HOSTILE, license=HOSTILE, source=HOSTILE)
    token = {"token": HOSTILE, "id": 1, "bytes": ""}
    return feature_html(
        text=HOSTILE,
        **{
            "signature": HOSTILE,
            "sae": HOSTILE,
            "groups": [group("top", 1.0, 2.0, contexts)],
            "logits": {
                "raises": [token | {"logit": 1.0}],
                "lowers": [token | {"logit": -1.0}],
            },
            "fires_on": {
                "tokens": [token | {"share": 0.1, "lift": 2.0}],
                "sources": [{"source": HOSTILE, "share": 0.1, "lift": 2.0}],
            },
            "neighbours": [{"feature": 1, "cosine": 0.1, "signature": HOSTILE}],
        }
        | changed,
    )


HOSTILE_MISSING = {"reason": HOSTILE, "command": HOSTILE, "does": HOSTILE}


@pytest.mark.parametrize(
    "html",
    [
        hostile_feature(),
        feature_html(**unindexed_feature(missing=HOSTILE_MISSING)),
        drawn(
            list_page(
                result(features=[result()["features"][0] | {"signature": HOSTILE}], sae=HOSTILE),
                QUERY | {"q": HOSTILE, "sort": HOSTILE, "sae": HOSTILE},
            )
        ),
        drawn(list_page(unindexed_list(missing=HOSTILE_MISSING), QUERY)),
        drawn(list_page(result(features=[]), QUERY) | {"refused": HOSTILE}),
    ],
    ids=["feature", "unindexed feature", "list", "unindexed list", "refused"],
)
def test_hostile_text_adds_no_element_and_no_attribute(html: str) -> None:
    page = Document(html)
    assert HOSTILE in page.text
    assert_plain(page)
