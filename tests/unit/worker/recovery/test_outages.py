"""A loop that PostgreSQL refuses logs the outage's beginning and end, and little in between."""

import logging

import pytest

from shared.errors import NotServingError
from shared.metrics import table
from shared.metrics.registry import Registry
from worker.recovery.outages import LOG_SECONDS, Outages

LOG = logging.getLogger("turnkeeper.leases")


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.at = 100.0

    def __call__(self):
        return self.at


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def outages(clock):
    return Outages(LOG, "leases were not renewed", Registry().counter(table.ROUNDS_FAILED, "leases"), clock)


def test_an_outage_is_logged_less_and_less_and_as_it_is_over(outages, clock, caplog):
    caplog.set_level(logging.INFO)
    for _ in range(120):
        outages.failed(NotServingError("read-only"))
        clock.at += 1
    assert [record.rounds for record in caplog.records] == [1, 2, 4, 8, 16, 32, 32 + LOG_SECONDS, 64, 94]
    assert not any(record.exc_info for record in caplog.records)
    outages.passed()
    outages.passed()
    assert [record.getMessage() for record in caplog.records[9:]] == ["the database serves again"]


def test_what_no_list_knows_is_logged_with_its_traceback(outages, caplog):
    outages.failed(ValueError("of ours"))
    assert caplog.records[0].exc_info[1].args == ("of ours",)


def test_a_new_outage_is_logged_at_once(outages, caplog):
    for _ in range(2):
        outages.failed(NotServingError("read-only"))
        outages.passed()
    assert sum(record.levelno == logging.WARNING for record in caplog.records) == 2
