from contextlib import contextmanager
from uuid import uuid4

import pytest

from api.caller import Caller
from api.waiting import Waiting
from shared.turn.turns import TurnStatus

CALLER = Caller(uuid4(), uuid4(), "service", None, None)


class FakeDatabase:
    """Counts connections that are held; there is never more than one at a time."""

    held = 0

    @contextmanager
    def of(self, organization_id):
        self.held += 1
        yield self
        self.held -= 1


@pytest.fixture
def waiting(monkeypatch):
    database = FakeDatabase()
    now, looks, slept = [0.0], [], []
    statuses = []

    def status(db, caller, turn_id):
        looks.append(now[0])
        return statuses[min(len(looks), len(statuses)) - 1]

    def sleep(seconds):
        assert database.held == 0  # between two looks no connection is held
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("api.statements.turns.turn_status", status)
    waiting = Waiting(database, 1, clock=lambda: now[0], sleep=sleep)
    waiting.statuses, waiting.looks, waiting.slept = statuses, looks, slept
    return waiting


def test_waiting_ends_with_the_first_look_that_finds_the_turn_over(waiting):
    waiting.statuses += [TurnStatus.RUNNING, TurnStatus.STOPPING, TurnStatus.COMPLETED]
    waiting.until_ended(CALLER, uuid4(), 60)
    assert len(waiting.looks) == 3


def test_waiting_ends_in_time_and_looks_ever_less_often(waiting):
    waiting.statuses.append(TurnStatus.RUNNING)
    waiting.until_ended(CALLER, uuid4(), 10)
    assert sum(waiting.slept) == pytest.approx(10)
    assert waiting.slept[0] == 0.05
    assert max(waiting.slept) <= 0.5
    assert len(waiting.looks) < 40


def test_a_turn_that_is_not_there_is_not_waited_for(waiting):
    waiting.statuses.append(None)
    waiting.until_ended(CALLER, uuid4(), 10)
    assert waiting.slept == []


def test_not_waiting_looks_at_nothing(waiting):
    waiting.until_ended(CALLER, uuid4(), 0)
    assert waiting.looks == []


def test_whoever_comes_when_no_place_is_free_is_answered_at_once(waiting):
    waiting.statuses += [TurnStatus.RUNNING, TurnStatus.COMPLETED]
    inner = []
    look = waiting._is_over

    def while_another_waits(caller, turn_id):
        waiting.until_ended(CALLER, uuid4(), 10)  # comes second
        inner.append(len(waiting.slept))
        return look(caller, turn_id)

    waiting._is_over = while_another_waits
    waiting.until_ended(CALLER, uuid4(), 10)
    assert inner[0] == 0
