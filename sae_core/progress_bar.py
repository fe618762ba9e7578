"""A bar on stderr for library calls that take long, where the caller does not show their progress
itself.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int], object]
"""Told how many tokens are done since it was last told."""

PATIENCE = 2.0
"""Seconds after which a bar appears: what is done by then needs none."""


def silent(tokens: int) -> None:
    """The progress of a call that shows none."""


@contextmanager
def reported(progress: Progress | None, title: str, total: int | None) -> Iterator[Progress]:
    """`progress`, or that of a bar over `total` tokens (None: not known) that stands while the
    block runs.
    """
    if progress is not None:
        yield progress
        return
    # Only here: who shows progress in another way does not need it.
    from tqdm import tqdm

    with tqdm(
        total=total,
        unit="token",
        unit_scale=True,
        desc=title,
        dynamic_ncols=True,
        delay=PATIENCE,
    ) as bar:
        yield bar.update
