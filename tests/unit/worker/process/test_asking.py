"""A worker that cannot rely on doorbells asks for turns: one question at a time, for as many as it has room for."""

import contextlib

from shared.errors import UnavailableError
from worker.process.asking import Asking


class Office:
    """Runs what is begun when it is told to; holds the queue that a claim would take from."""

    def __init__(self, *, room=3, queued=0, must_ask=True, takes=True):
        self.places, self.queued, self.must_ask, self.takes = room, queued, must_ask, takes
        self.running = 0
        self.begun = []
        self.told = []
        self.asking = Asking(
            must_ask=lambda: self.must_ask,
            room=lambda: self.places - self.running - len(self.begun),
            begin=self.begin,
            take=self.take,
            tell=self.tell,
        )

    def begin(self, work):
        if self.takes:
            self.begun.append(work)
        return self.takes

    def take(self, answered):
        is_found = self.queued > 0
        if is_found:
            self.queued -= 1
            self.running += 1
        answered(is_found)

    def tell(self, has_asked):
        self.told.append(has_asked)

    def work(self):
        while self.begun:
            self.begun.pop(0)()


def test_one_that_hears_asks_nothing():
    office = Office(queued=5, must_ask=False)
    office.asking.beat()
    assert (office.begun, office.told) == ([], [])


def test_it_takes_as_many_as_it_has_room_for():
    office = Office(room=3, queued=5)
    office.asking.beat()
    office.work()
    assert (office.running, office.queued) == (3, 2)


def test_it_asks_one_question_at_a_time():
    office = Office(room=3, queued=5)
    office.asking.beat()
    office.asking.beat()
    assert len(office.begun) == 1


def test_one_that_found_nothing_asks_again_with_the_next_beat_only():
    office = Office(room=3)
    office.asking.beat()
    office.work()
    assert office.begun == []
    office.asking.beat()
    assert len(office.begun) == 1


def test_a_full_one_asks_nothing_and_does_not_count_as_silent():
    office = Office(room=0, queued=5)
    office.asking.beat()
    assert office.begun == []
    assert office.asking.silent_seconds() < 60


def test_one_that_ends_asks_nothing_more():
    office = Office(queued=5)
    office.asking.stop()
    office.asking.beat()
    assert office.begun == []


def test_a_question_that_breaks_is_over():
    office = Office(queued=1)
    office.take = None  # a call of it raises
    office.asking._take = office.take
    office.asking.beat()
    for work in office.begun:
        with contextlib.suppress(TypeError):
            work()
    office.begun.clear()
    office.asking.beat()
    assert len(office.begun) == 1


def test_a_pool_that_takes_nothing_leaves_no_question_open():
    office = Office(queued=1, takes=False)
    office.asking.beat()
    office.takes = True
    office.asking.beat()
    assert len(office.begun) == 1


def test_others_are_told_while_it_asks_and_once_when_it_is_over():
    office = Office()
    office.asking.beat()
    office.must_ask = False
    office.asking.beat()
    office.asking.beat()
    assert office.told == [True, False]


def test_a_database_that_is_away_ends_nothing():
    office = Office()

    def tell(_has_asked):
        raise UnavailableError("away")

    office.asking._tell = tell
    office.asking.beat()
    office.asking.beat()
