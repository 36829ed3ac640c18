"""Signals that wait for the end of a step, or that a clean-up ignores."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from frostline.signals import held_back, undisturbed


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal; a shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_does_not_disturb_a_clean_up():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with undisturbed():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_clean_up_in_another_thread_is_left_alone():
    with ThreadPoolExecutor() as pool, undisturbed():
        assert pool.submit(lambda: undisturbed().__enter__()).result() is None


def received(number: int, inside: str, handler: str = "stop") -> str:
    """What a process prints that gets a signal within `held_back`."""
    program = f"""
import os, signal, sys, time
from frostline.signals import held_back

def stop(number, frame):
    print("stopped by", number)
    raise KeyboardInterrupt

signal.signal({number}, {handler})
try:
    with held_back(0.2) as held:
        os.kill(os.getpid(), {number})
        print("came", bool(held.came))
        {inside}
        print("end of block")
    print("after it")
except KeyboardInterrupt:
    print("interrupted", signal.getsignal({number}) is stop)
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_the_block(number):
    lines = ["came True", "end of block", f"stopped by {int(number)}", "interrupted True"]
    assert received(number, "pass").splitlines() == lines


@pytest.mark.parametrize(
    "inside", ["time.sleep(60)", "os.kill(os.getpid(), 15); time.sleep(60)"], ids=["late", "second"]
)
def test_a_second_signal_or_too_much_time_ends_the_block(inside):
    started = time.monotonic()
    lines = received(signal.SIGTERM, inside).splitlines()
    assert "end of block" not in lines
    assert lines[-2:] == ["stopped by 15", "interrupted True"]
    assert time.monotonic() - started < 30


def test_what_is_ignored_stays_ignored():
    """As SIGINT is in what a shell starts in the background."""
    assert received(signal.SIGINT, "pass", "signal.SIG_IGN").splitlines() == ["came False", "end of block", "after it"]


def test_an_error_in_the_block_does_not_lose_the_signal():
    lines = received(signal.SIGINT, "raise ValueError").splitlines()
    assert lines == ["came True", "stopped by 2", "interrupted True"]


def test_outside_of_the_main_thread_nothing_is_held_back():
    def inside() -> object:
        with held_back():
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(inside).result() is signal.getsignal(signal.SIGINT)


def test_a_handler_that_returns_ends_nothing():
    """As that of a program that only notes that it is to end; the next signal is held back again."""
    inside = "held.act(); print('acted', bool(held.came)); os.kill(os.getpid(), 15); print('again', bool(held.came))"
    lines = received(signal.SIGTERM, inside, "lambda *_: print('noted')").splitlines()
    assert lines == ["came True", "noted", "acted False", "again True", "end of block", "noted", "after it"]
