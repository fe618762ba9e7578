"""`jumpscope report`: a training run as one page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write a training run's curves, findings, settings and cost as one HTML page.

    The page needs nothing else: no other file, no script, no network. A run that is still going
    is shown as far as it is.
    """

    run: Annotated[str, tyro.conf.Positional]
    """Out folder of a jumpscope train."""
    out: str | None = None
    """File to write; RUN/report.html if not given."""

    def execute(self) -> str:
        """Read, draw, write; returns the page's path."""
        from app.web.run_report import page
        from sae_core.files import atomic_write
        from training.run_folder import read_run

        folder = Path(self.run)
        out = Path(self.out) if self.out else folder / "report.html"
        html = page(read_run(folder))
        with atomic_write(out) as temporary:
            temporary.write_text(html, encoding="utf-8")
        return str(out)
