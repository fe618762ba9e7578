"""Ten queries to begin with, shown on the app's SQL page and in docs/sql.md."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A query and what it answers."""

    title: str
    query: str


RECIPES: Final = (
    Recipe(
        title="Strongest features",
        query="SELECT feature, signature, max_act, frequency\n"
        "FROM features\n"
        "ORDER BY max_act DESC\n"
        "LIMIT 20",
    ),
    Recipe(
        title="Rare features far above their threshold",
        query="SELECT feature, signature, frequency, max_act / threshold AS times_threshold\n"
        "FROM features\n"
        "WHERE frequency BETWEEN 0.00001 AND 0.001 AND threshold > 0\n"
        "ORDER BY times_threshold DESC\n"
        "LIMIT 20",
    ),
    Recipe(
        title="Where a feature fires most",
        query="SELECT rank, activation, token, text, title\n"
        "FROM feature_contexts\n"
        "WHERE feature = 12 AND kind = 'top'\n"
        "ORDER BY rank",
    ),
    Recipe(
        title="Contexts in colour, one of each kind",
        query="SELECT kind, activation, gap, tokens, activations\n"
        "FROM feature_contexts\n"
        "WHERE feature = 12 AND rank = 1",
    ),
    Recipe(
        title="Who raises a token",
        query="SELECT feature, rank, logit, signature\n"
        "FROM feature_logits\n"
        "JOIN features USING (feature)\n"
        "WHERE token = ' sea' AND direction = 'raises'\n"
        "ORDER BY logit DESC\n"
        "LIMIT 20",
    ),
    Recipe(
        title="Features of one token alone",
        query="SELECT feature, token, share, lift\n"
        "FROM token_shares\n"
        "WHERE rank = 1 AND share > 0.95\n"
        "ORDER BY lift DESC\n"
        "LIMIT 50",
    ),
    Recipe(
        title="Specialists of a source",
        query="SELECT source, feature, share, lift, signature\n"
        "FROM source_shares\n"
        "JOIN features USING (feature)\n"
        "WHERE rank = 1 AND share > 0.8 AND lift > 4\n"
        "ORDER BY source, lift DESC",
    ),
    Recipe(
        title="Nearly the same direction",
        query="SELECT n.feature, n.neighbour, n.cosine, a.signature, b.signature AS of_neighbour\n"
        "FROM neighbours n\n"
        "JOIN features a ON a.feature = n.feature\n"
        "JOIN features b ON b.feature = n.neighbour\n"
        "WHERE n.feature < n.neighbour\n"
        "ORDER BY n.cosine DESC\n"
        "LIMIT 20",
    ),
    Recipe(
        title="How a feature's activations are spread",
        query="SELECT bin, low, high, count\n"
        "FROM histograms\n"
        "WHERE feature = 12 AND kind = 'activation'\n"
        "ORDER BY bin",
    ),
    Recipe(
        title="What the contexts are from",
        query="SELECT source, count(*) AS documents\n"
        "FROM documents\n"
        "GROUP BY source\n"
        "ORDER BY documents DESC",
    ),
)
