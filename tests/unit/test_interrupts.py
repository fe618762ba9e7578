"""Ctrl-C ends a server whatever was at work when it came."""

import contextlib
import signal
import threading
import time

import pytest

from app.interrupts import remembered_interrupts


@pytest.fixture(autouse=True)
def pythons_own_handler():
    """A test run in the background has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def no_sleep(monkeypatch):
    """A wait that would go on for ever fails."""

    def sleep(seconds):
        raise AssertionError("the interrupt is forgotten")

    monkeypatch.setattr(time, "sleep", sleep)


def test_an_interrupt_is_raised_as_ever():
    with pytest.raises(KeyboardInterrupt), remembered_interrupts():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_a_library_swallowed_ends_the_wait(no_sleep):
    with remembered_interrupts() as wait:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            wait()


def test_one_that_comes_while_it_waits_ends_the_wait(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: signal.raise_signal(signal.SIGINT))
    with remembered_interrupts() as wait, pytest.raises(KeyboardInterrupt):
        wait()


def test_a_process_in_the_background_goes_on_ignoring_it():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with remembered_interrupts():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_off_the_main_thread_nothing_is_touched():
    handlers = []

    def look():
        with remembered_interrupts():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]
