"""Signals raise a flag; what was there before comes back."""

import os
import signal
import threading

import pytest

from editr2_jax.runtime import signals


def test_sigterm_raises_the_flag_and_nothing_else():
    before = signal.getsignal(signal.SIGTERM)
    with signals.stop_flag() as stop_requested:
        assert not stop_requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_requested()
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_second_interrupt_is_not_polite():
    with signals.stop_flag() as stop_requested:
        signal.raise_signal(signal.SIGINT)
        assert stop_requested()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handlers_return_after_an_error():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError), signals.stop_flag():
        raise RuntimeError("inside")
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_get_a_flag_that_nothing_raises():
    seen = []

    def work():
        with signals.stop_flag() as stop_requested:
            seen.append(stop_requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
