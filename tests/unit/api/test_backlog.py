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
        assert (first.is_due, beside.is_due) == (True, False)
        first.learn(1.0, 1.0)
    for now, is_due in ((1_000.9, False), (1_001.0, True)):
        clock[0] = now
        with backlog.look() as look:
            assert look.is_due == is_due
            look.learn(1.0, 1.0)


def test_a_request_that_did_not_come_to_ask_leaves_it_to_the_next(backlog):
    with pytest.raises(ZeroDivisionError), backlog.look():
        raise ZeroDivisionError
    with backlog.look() as refused_before_it_asked:
        assert refused_before_it_asked.is_due
    with backlog.look() as look:
        assert look.is_due


def test_what_was_found_holds_for_those_who_do_not_ask(backlog):
    with backlog.look() as look:
        assert not look.is_full()
        look.learn(61.0, 61.0)
        assert look.is_full()
    with backlog.look() as look:
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
