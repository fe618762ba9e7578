"""Ctrl-C ends a server also when it comes in the instant in which the wait begins."""

import signal
import time

import pytest

from app import waiting


def test_a_signal_that_does_not_wake_the_sleep_ends_the_wait_after_it(monkeypatch):
    """Python marks such a signal and looks at the mark when the thread goes on."""
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(time, "sleep", sleep)
    try:
        with pytest.raises(KeyboardInterrupt):
            waiting.wait_for_interrupt()
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(slept) == 3
    assert max(slept) <= 1
