"""The windows of one process, by a clock that the test holds."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from api.windows import Count, LocalWindows, Window

MINUTE = Window("minute", 3, 60)
SLOT = 1.0
"""A sixtieth of a minute: what may be added to a wait."""


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


def lets_through(windows, *wanted):
    return not any(count.refuses for count in windows.take(wanted))


def test_a_window_lets_its_limit_through_and_no_more():
    windows = LocalWindows(Clock())
    assert [lets_through(windows, MINUTE) for _ in range(5)] == [True, True, True, False, False]


def test_room_comes_back_when_the_oldest_has_left():
    clock = Clock()
    windows = LocalWindows(clock)
    for _ in range(3):
        assert lets_through(windows, MINUTE)
        clock.now += 10
    refused = windows.take([MINUTE])[0]
    assert refused.refuses
    assert 30 <= refused.resets_seconds <= 30 + SLOT
    clock.now += refused.resets_seconds - 0.001
    assert not lets_through(windows, MINUTE)
    clock.now += 0.001
    assert lets_through(windows, MINUTE)
    assert not lets_through(windows, MINUTE)


def test_what_is_refused_is_counted_in_no_window():
    windows = LocalWindows(Clock())
    other = Window("other", 1, 60)
    assert lets_through(windows, MINUTE, other)
    for _ in range(10):
        assert not lets_through(windows, MINUTE, other)
    assert [lets_through(windows, MINUTE) for _ in range(3)] == [True, True, False]


def test_what_is_given_back_can_be_taken_again():
    windows = LocalWindows(Clock())
    for _ in range(10):
        assert lets_through(windows, MINUTE)
        windows.give_back([MINUTE])
    assert windows.take([MINUTE]) == [Count(2, 60 + SLOT)]


def test_zero_allows_nothing_and_says_to_wait_a_whole_window():
    assert LocalWindows(Clock()).take([Window("none", 0, 60)]) == [Count(0, 60, refuses=True)]


def test_what_another_counted_is_counted_here_when_this_process_takes_over():
    windows = LocalWindows(Clock())
    for _ in range(3):
        windows.note([MINUTE])
    assert not lets_through(windows, MINUTE)


def test_more_keys_than_are_kept_push_out_the_one_that_was_used_least_recently():
    windows = LocalWindows(Clock(), most_keys=2)
    first, second, third = (Window(name, 1, 60) for name in ("first", "second", "third"))
    assert lets_through(windows, first)
    assert lets_through(windows, second)
    assert not lets_through(windows, first)
    assert lets_through(windows, third)
    assert not lets_through(windows, first)
    assert lets_through(windows, second)


@given(
    limit=st.integers(1, 5),
    steps=st.lists(st.floats(0, 30, allow_nan=False, allow_infinity=False), min_size=1, max_size=60),
)
def test_no_window_ever_holds_more_than_its_limit_and_nobody_waits_more_than_a_slot_too_long(limit, steps):
    clock = Clock()
    windows = LocalWindows(clock)
    window = Window("any", limit, 60)
    accepted = deque()
    for step in steps:
        clock.now += step
        recent = [at for at in accepted if at > clock.now - 60]
        nearly = [at for at in accepted if at > clock.now - 60 - SLOT - 1e-6]
        if lets_through(windows, window):
            assert len(recent) < limit
            accepted.append(clock.now)
        else:
            assert len(nearly) >= limit
