"""When a call is tried again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Fault
from worker.turn.retry import Retries, RetryBudget


def rule(chance=0.5):
    return Retries(lambda: chance, RetryBudget(lambda: 0.0))


def wait(fault, tries=1, retry_after_ms=None, seconds_left=300.0):
    return rule().wait_before(fault, tries=tries, retry_after_ms=retry_after_ms, seconds_left=seconds_left)


def test_an_unreachable_provider_is_tried_twice_more():
    assert [wait(Fault.PROVIDER_UNREACHABLE, tries) is not None for tries in (1, 2, 3)] == [True, True, False]


@pytest.mark.parametrize("fault", [Fault.PROVIDER_PROTOCOL, Fault.PROVIDER_TIMEOUT])
def test_a_call_that_may_have_cost_its_input_is_tried_once_more(fault):
    assert [wait(fault, tries) is not None for tries in (1, 2)] == [True, False]


@pytest.mark.parametrize(
    "fault",
    [
        Fault.PROVIDER_REJECTED,
        Fault.PROVIDER_AUTH,
        Fault.CONTEXT_TOO_LONG,
        Fault.TOOL_CALL_UNSUPPORTED,
        Fault.TURN_TIMEOUT,
        Fault.INTERNAL,
    ],
)
def test_what_would_fail_the_same_way_is_not_tried_again(fault):
    assert wait(fault) is None


@pytest.mark.parametrize("fault", sorted(Fault))
def test_what_is_known_not_to_pass_is_not_tried_again_whatever_its_kind(fault):
    known = {"retry_after_ms": 1000, "seconds_left": 300.0}
    assert rule().wait_before(fault, tries=1, may_repeat=False, **known) is None


def test_a_refusal_of_the_moment_is_tried_twice_more():
    known = {"retry_after_ms": None, "seconds_left": 300.0, "may_repeat": True}
    waits = [rule().wait_before(Fault.PROVIDER_REJECTED, tries=tries, **known) for tries in (1, 2, 3)]
    assert [each is not None for each in waits] == [True, True, False]


def test_the_providers_own_word_is_kept():
    assert wait(Fault.PROVIDER_RATE_LIMITED, retry_after_ms=7000) == 7.0


def test_a_wait_that_does_not_fit_the_deadline_is_not_begun():
    assert wait(Fault.PROVIDER_RATE_LIMITED, retry_after_ms=7000, seconds_left=7.0) is None


def test_a_limit_that_does_not_say_when_it_ends_is_not_waited_for():
    assert wait(Fault.PROVIDER_RATE_LIMITED) is None


@given(st.sampled_from(sorted(Fault)), st.integers(1, 9), st.floats(0, 1), st.floats(0, 600))
def test_waits_are_between_a_fifth_of_a_second_and_four_and_within_the_deadline(fault, tries, chance, left):
    seconds = rule(chance).wait_before(fault, tries=tries, retry_after_ms=None, seconds_left=left)
    assert seconds is None or (0.2 <= seconds <= 4.0 and seconds < left)


def wait_before_attempt(attempts, fault=Fault.PROVIDER_PROTOCOL, retry_after_ms=None, seconds_left=300.0):
    return rule().wait_before_attempt(
        fault, attempts=attempts, retry_after_ms=retry_after_ms, seconds_left=seconds_left
    )


def test_a_turn_is_tried_three_times_and_waits_longer_each_time():
    first, second, third = (wait_before_attempt(attempts) for attempts in (1, 2, 3))
    assert third is None
    assert 0.2 < first < second < 4.0


def test_the_next_attempt_keeps_to_the_providers_word_and_to_the_deadline():
    assert wait_before_attempt(1, Fault.PROVIDER_OVERLOADED, retry_after_ms=7000) == 7.0
    assert wait_before_attempt(1, Fault.PROVIDER_OVERLOADED, retry_after_ms=7000, seconds_left=6.9) is None
    assert wait_before_attempt(1, Fault.PROVIDER_RATE_LIMITED) is None


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def taken(budget):
    count = 0
    while budget.take():
        count += 1
        assert count < 10_000, "the budget has no end"
    return count


def test_retries_of_all_turns_end_when_the_budget_is_spent_and_go_on_with_time_and_calls():
    clock = Clock()
    budget = RetryBudget(clock)
    assert taken(budget) == 100
    clock.now = 2.0
    assert taken(budget) == 20
    for _ in range(51):
        budget.note_call()
    assert taken(budget) == 10
    clock.now = 3600.0
    assert taken(budget) == 100  # an idle hour saves up no storm


def test_a_call_that_the_budget_does_not_cover_is_not_tried_again():
    budget = RetryBudget(lambda: 0.0)
    taken(budget)
    again = Retries(lambda: 0.5, budget)
    failure = Fault.PROVIDER_UNREACHABLE
    assert again.wait_before(failure, tries=1, retry_after_ms=None, seconds_left=60.0) is None
    assert again.wait_before_attempt(failure, attempts=1, retry_after_ms=None, seconds_left=60.0) is None
