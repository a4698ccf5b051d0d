"""Pauses between attempts grow up to a bound, and only a connection that lasted ends them."""

from shared.redis.pauses import FIRST_SECONDS, LONGEST_SECONDS, Pauses


class Clock:
    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def test_pauses_grow_up_to_a_bound():
    pauses = Pauses(Clock(), lambda: 1.0)
    taken = [pauses.after_loss() for _ in range(12)]
    assert taken[0] == FIRST_SECONDS
    assert taken == sorted(taken)
    assert taken[-1] == LONGEST_SECONDS


def test_a_server_that_lets_connect_and_refuses_is_not_asked_at_once():
    clock = Clock()
    pauses = Pauses(clock, lambda: 1.0)
    taken = []
    for _ in range(12):
        pauses.connected()
        clock.seconds += 0.1
        taken.append(pauses.after_loss())
    assert taken[-1] == LONGEST_SECONDS


def test_a_connection_that_lasted_ends_them():
    clock = Clock()
    pauses = Pauses(clock, lambda: 1.0)
    for _ in range(12):
        pauses.after_loss()
    pauses.connected()
    clock.seconds += 60
    assert pauses.after_loss() == FIRST_SECONDS
