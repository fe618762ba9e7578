"""What a list shows of a feature: its signature and its numbers, kept in memory."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from sae_core.index.feature_columns import FeatureColumns
from sae_core.index.schema import SCORES, columns_of, rows_of


class FeatureSummaries:
    """Summaries and signatures of an index's features.

    Signatures are one text in UTF-8, a tenth of what as many strings of Python's take, and cut
    where they are shown: DuckDB needs tens of milliseconds for fifty of a million.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, path: Path, columns: FeatureColumns
    ) -> None:
        """Read the signatures; ValueError where a feature has none."""
        self._columns = columns
        lengths = columns_of(
            connection, path, "SELECT strlen(signature) AS bytes FROM features ORDER BY feature"
        )["bytes"]
        if np.isnan(lengths).any():
            raise ValueError("a feature has no signature")
        self._end = np.cumsum(lengths, dtype=np.int64)
        [(joined,)] = rows_of(
            connection, path, "SELECT string_agg(signature, '' ORDER BY feature) FROM features"
        )
        self._signatures = joined.encode()

    def of(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """The summary of each of these features."""
        columns, frequency = self._columns, self._columns.frequency
        rows = []
        for i in ids:
            scores = {name: float(columns[name][i]) for name in SCORES}
            rows.append(
                {
                    "feature": i,
                    "signature": self.signature(i),
                    "frequency": frequency(i),
                    **{n: float(columns[n][i]) for n in ("max_act", "mean_act", "threshold")},
                    **{name: None if math.isnan(v) else v for name, v in scores.items()},
                }
            )
        return rows

    def signature(self, i: int) -> str:
        """The signature of a feature."""
        start = self._end[i - 1] if i else 0
        return self._signatures[start : self._end[i]].decode()
