"""Steps of turns give way to the loop that streams; the loop is a real one, in a thread of its own."""

import threading
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest

from worker.process.admission import MOST_SECONDS, Admission
from worker.process.loop import LoopThread

SECONDS = 60


class Busy:
    """Keeps a loop from answering until it is let go."""

    def __init__(self, loop):
        self.is_held = threading.Event()
        self.let_go = threading.Event()
        loop.call_soon_threadsafe(self._hold)
        assert self.is_held.wait(SECONDS)

    def _hold(self):
        self.is_held.set()
        assert self.let_go.wait(SECONDS)


@pytest.fixture
def loop():
    with LoopThread() as thread:
        yield thread.loop


def admission(loop, **options):
    return Admission(loop, **{"steps_at_once": 1, "patience_seconds": SECONDS, **options})


def test_with_no_stream_to_hold_up_the_loop_is_not_asked(loop):
    busy = Busy(loop)
    with admission(loop).step(0):
        assert not busy.let_go.is_set()  # we are here although the loop cannot answer
    busy.let_go.set()


def test_a_step_waits_while_the_loop_is_slow_but_not_for_long(loop):
    busy = Busy(loop)
    began = monotonic()
    with admission(loop).step(1):
        waited = monotonic() - began
    busy.let_go.set()
    assert waited >= MOST_SECONDS


def test_a_step_is_taken_once_the_loop_answers(loop):
    busy = Busy(loop)
    taken = threading.Event()

    def step():
        with admission(loop).step(1):
            taken.set()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(step)
        busy.let_go.set()
        assert taken.wait(SECONDS)
        done.result(SECONDS)


def test_only_so_many_steps_are_taken_at_once(loop):
    spaced = admission(loop, steps_at_once=2)
    lock, both = threading.Lock(), threading.Barrier(2)
    now, most = 0, 0

    def step():
        nonlocal now, most
        with spaced.step(0):
            with lock:
                now += 1
                most = max(most, now)
            both.wait(SECONDS)  # two are in here together, each time
            with lock:
                now -= 1

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(step) for _ in range(8)]:
            done.result(SECONDS)
    assert most == 2


def test_whoever_waits_too_long_for_a_place_goes_on_without(loop):
    spaced = admission(loop, patience_seconds=0.01)
    with spaced.step(0), spaced.step(0):
        pass
    with spaced.step(0), pytest.raises(RuntimeError), spaced.step(0):
        raise RuntimeError("a step that fails gives back no place that it did not have")
    with spaced.step(0):
        pass
