"""What servers know is read seldom, and a server that hangs holds up nobody for long."""

import threading

from shared.errors import UnavailableError
from shared.metrics.servers import FRESH_SECONDS, Reading
from shared.metrics.table import DOORBELLS, REDIS_UP

KNOWN = {DOORBELLS: {(): 3.0}}


class Clock:
    """Seconds that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_scrapes_that_follow_each_other_cost_one_reading():
    clock, asked = Clock(), []
    reading = Reading(lambda: asked.append(1) or KNOWN, REDIS_UP, clock)
    assert reading.get(5) == {**KNOWN, REDIS_UP: {(): 1.0}}
    clock.now += FRESH_SECONDS - 0.1
    assert reading.get(5) == {**KNOWN, REDIS_UP: {(): 1.0}}
    assert len(asked) == 1
    clock.now += 0.2
    reading.get(5)
    assert len(asked) == 2


def test_a_server_that_is_away_is_said_to_be_and_asked_again():
    clock, answers = Clock(), [UnavailableError("away"), RuntimeError("not expected"), KNOWN]

    def ask():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    reading = Reading(ask, REDIS_UP, clock)
    for _ in range(2):
        assert reading.get(5) == {REDIS_UP: {(): 0.0}}
        clock.now += FRESH_SECONDS + 0.1
    assert reading.get(5) == {**KNOWN, REDIS_UP: {(): 1.0}}


def test_a_server_that_hangs_costs_one_thread_and_a_moment():
    answered, asked = threading.Event(), []

    def hang():
        asked.append(1)
        answered.wait(60)
        return KNOWN

    reading = Reading(hang, REDIS_UP)
    for _ in range(3):
        assert reading.get(0.05) == {REDIS_UP: {(): 0.0}}  # and not what it says in the end
    assert asked == [1]
    answered.set()
    assert reading.get(60) == {**KNOWN, REDIS_UP: {(): 1.0}}
