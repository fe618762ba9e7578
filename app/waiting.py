"""Waiting for Ctrl-C."""

import time
from typing import Final, NoReturn

NAP: Final = 0.5
"""Seconds after which Ctrl-C ends the wait at the latest."""


def wait_for_interrupt() -> NoReturn:
    """Wait in the main thread until Ctrl-C raises KeyboardInterrupt.

    In naps: a signal that comes in the instant between Python's last look at signals and the sleep
    does not wake the thread, and one long sleep would then never end. Right after the start, with
    other threads at work, that instant is long enough to be met.
    """
    while True:
        time.sleep(NAP)
