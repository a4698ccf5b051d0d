"""A deaf worker ends itself; a busy, an idle and a cut-off one do not."""

from worker.process.liveness import CANARY_SECONDS, DEAF_SECONDS, Liveness


class Ward:
    def __init__(self, *, taken=True, full=False):
        self.seconds = 0.0
        self.taken, self.full = taken, full
        self.sent = 0
        self.ended = 0
        self.liveness = Liveness(self.send, lambda: self.full, self.end, lambda: self.seconds)

    def send(self):
        self.sent += 1
        return self.taken

    def end(self):
        self.ended += 1

    def pass_time(self, seconds, *, hearing=False):
        for _ in range(int(seconds / CANARY_SECONDS)):
            self.seconds += CANARY_SECONDS
            self.liveness.beat()
            if hearing:
                self.liveness.hear()


def test_a_worker_that_hears_its_canaries_goes_on():
    ward = Ward()
    ward.pass_time(10 * DEAF_SECONDS, hearing=True)
    assert ward.ended == 0
    assert ward.sent > 0


def test_a_worker_that_hears_nothing_ends_itself():
    ward = Ward()
    ward.pass_time(DEAF_SECONDS + 2 * CANARY_SECONDS)
    assert ward.ended >= 1


def test_a_worker_that_cannot_reach_redis_is_not_deaf():
    ward = Ward(taken=False)
    ward.pass_time(10 * DEAF_SECONDS)
    assert ward.ended == 0


def test_a_worker_with_no_room_for_another_turn_is_not_deaf():
    ward = Ward(full=True)
    ward.pass_time(10 * DEAF_SECONDS)
    assert (ward.ended, ward.sent) == (0, 0)
