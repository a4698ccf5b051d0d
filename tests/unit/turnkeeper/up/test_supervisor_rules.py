"""How long a dead process waits for its next start, and how its end is told."""

import pytest

from turnkeeper.up.supervisor import Backoff, ended


def test_the_first_death_is_answered_at_once():
    assert Backoff().after(0.1) == 0.0


def test_a_process_that_keeps_dying_at_once_is_started_ever_more_slowly():
    backoff = Backoff()
    assert [backoff.after(0.1) for _ in range(8)] == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_a_process_that_lived_is_started_at_once_again():
    backoff = Backoff()
    for _ in range(5):
        backoff.after(0.1)
    assert backoff.after(60.0) == 0.0


@pytest.mark.parametrize(("code", "told"), [(3, "ended with code 3"), (-9, "was ended by SIGKILL")])
def test_an_end_is_told_by_its_cause(code: int, told: str):
    assert ended(code) == told
