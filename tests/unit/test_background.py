"""Work in threads that ends with the app, and before the interpreter does."""

import gc
import subprocess
import sys
import threading
import weakref

import pytest

from app.engine.background import Background, StoppedError


class Owner:
    def __init__(self) -> None:
        self.background = Background(self)


def endless(background: Background, begun: threading.Event) -> None:
    begun.set()
    while True:
        background.go_on()


def test_closing_ends_what_is_being_done_and_waits_for_it() -> None:
    owner, begun = Owner(), threading.Event()
    thread = owner.background.start("work", lambda: endless(owner.background, begun))
    assert begun.wait(60)
    owner.background.close()
    assert not thread.is_alive()
    with pytest.raises(StoppedError):
        owner.background.go_on(5)


def test_what_begins_after_the_end_ends_at_once() -> None:
    owner, begun = Owner(), threading.Event()
    owner.background.close()
    thread = owner.background.start("work", lambda: endless(owner.background, begun))
    thread.join(60)
    assert not thread.is_alive()


def test_a_thread_may_close_what_it_works_for() -> None:
    owner = Owner()
    thread = owner.background.start("work", owner.background.close)
    thread.join(60)
    assert not thread.is_alive()


def test_an_owner_that_nobody_holds_is_not_kept() -> None:
    owner = Owner()
    owner.background.start("work", lambda: None).join(60)
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None


ENDS_IN_THE_MIDST = """
import threading
import torch
from app.engine.background import Background

torch.set_num_threads(1)
a = torch.randn(600, 600)

class Owner:
    def __init__(self):
        self.background = Background(self)

def multiply():
    while True:
        owner.background.go_on()
        a @ a
        begun.set()

owner, begun = Owner(), threading.Event()
owner.background.start("multiply", multiply)
assert begun.wait(60)
"""


def test_the_interpreter_may_end_while_it_is_in_pytorch() -> None:
    """A daemon thread that nobody ends aborts here: "terminate called ...", exit status -6."""
    ended = subprocess.run(
        [sys.executable, "-c", ENDS_IN_THE_MIDST], capture_output=True, text=True, timeout=300
    )
    assert (ended.returncode, ended.stderr) == (0, "")
