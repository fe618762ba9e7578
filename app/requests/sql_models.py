"""The request of a query in SQL."""

from app.requests.models import sae_parameter
from app.requests.parameters import Request, Whole, parameter


class SqlRequest(Request):
    """A query over an index."""

    query: str = parameter(
        "",
        "Query",
        "One SELECT over features, feature_contexts, feature_logits, histograms, neighbours, "
        "token_shares, source_shares, documents, vocabulary and meta.",
        unit="characters",
        most="max_sql_chars",
    )
    sae: str = sae_parameter()
    limit: Whole = parameter(
        200, "Limit", "Most rows to return.", unit="rows", least=1, most="max_sql_rows"
    )
