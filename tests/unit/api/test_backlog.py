import pytest

from api.backlog import Backlog


@pytest.fixture
def clock(monkeypatch):
    now = [1_000.0]
    monkeypatch.setattr("api.backlog.monotonic", lambda: now[0])
    return now


@pytest.fixture
def backlog(clock):
    return Backlog(full_seconds=60, timeout_seconds=900)


def test_one_request_a_second_asks(backlog, clock):
    with backlog.look() as first, backlog.look() as beside:
        assert (first.asks(), beside.asks()) == (True, False)
        first.learn(1.0, 1.0)
    for now, asks in ((1_000.9, False), (1_001.0, True)):
        clock[0] = now
        with backlog.look() as look:
            assert look.asks() == asks
            look.learn(1.0, 1.0)


def test_a_request_that_is_refused_before_it_could_ask_leaves_it_to_others(backlog):
    with backlog.look(), backlog.look() as look:
        assert look.asks()
        look.learn(1.0, 1.0)


def test_the_next_request_asks_when_one_was_not_answered(backlog):
    with backlog.look() as refused:
        assert refused.asks()
    with backlog.look() as look:
        assert look.asks()


def test_what_was_found_holds_for_those_who_do_not_ask(backlog):
    with backlog.look() as look:
        assert not look.is_full()
        assert look.asks()
        look.learn(61.0, 61.0)
        assert look.is_full()
    with backlog.look() as look:
        assert not look.asks()
        look.learn(0.0, 0.0)  # not asked, so it is not theirs to say
        assert look.is_full()


@pytest.mark.parametrize(
    ("seconds", "heard_seconds", "is_full"),
    [
        (None, None, False),
        (59.9, 59.9, False),
        (60.0, 60.0, True),
        (449.0, 5.0, False),  # waited for a Redis that was away
        (450.0, 5.0, True),  # and might expire before it runs
    ],
)
def test_a_queue_is_full_by_what_was_waited_for_workers_that_hear(backlog, seconds, heard_seconds, is_full):
    backlog.learn(seconds, heard_seconds)
    assert backlog.is_full() == is_full
