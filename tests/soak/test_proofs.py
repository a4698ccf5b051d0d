"""The big proofs with few turns: they run, and even a short one finds no violation."""

import pytest

from tests.soak.chaos.nemesis import Fault
from tests.soak.chaos.run import Run, execute
from tests.soak.proofs.crowd import Asked
from tests.soak.proofs.deaths import all_workers_die
from tests.soak.proofs.doorbells import flushed, killed_before_ringing
from tests.soak.proofs.failover import fails_over
from tests.soak.proofs.money import money
from tests.soak.proofs.outage import redis_hangs

pytestmark = [pytest.mark.soak, pytest.mark.timeout(400)]


def test_turns_whose_api_was_killed_before_it_rang_all_end():
    summary = killed_before_ringing(Asked(turns=40))
    assert summary["violations"] == []


def test_turns_whose_redis_is_flushed_at_random_all_end_with_their_texts():
    summary = flushed(Asked(turns=50))
    assert summary["violations"] == []


def test_a_redis_that_hangs_keeps_no_running_turn_from_its_end_and_no_post_from_its_answer():
    summary = redis_hangs(Asked(turns=50, seconds=15))
    assert summary["violations"] == []


def test_turns_whose_workers_all_died_run_again_in_time():
    summary = all_workers_die(Asked(turns=20))
    assert summary["violations"] == []


def test_a_server_that_refuses_writes_again_and_again_breaks_no_promise_and_new_turns_start_in_time():
    only = frozenset({Fault.POSTGRES_READ_ONLY})
    summary = execute(Run(turns=60, seed=1, users=15, every_seconds=12.0, kinds=only))
    assert summary["violations"] == []
    assert summary["faults"]["all"] >= 1


def test_ends_that_a_failover_lost_stand_as_they_were_told_and_new_turns_start_in_time():
    summary = fails_over(Asked(turns=20))
    assert summary["violations"] == []


def test_the_ledger_is_the_providers_log_and_no_budget_is_passed():
    summary = money(Asked(turns=60))
    assert summary["violations"] == []
