"""When a provider is not called any more, and when it is again."""

import pytest

from shared.errors import Fault, ProviderError
from worker.providers.breaker import Breaker, Permit

BUSY = Fault.PROVIDER_OVERLOADED


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return Breaker(clock, 10.0)


def admitted(breaker):
    call = breaker.call()
    assert isinstance(call, Permit), call
    return call


def refused(breaker):
    refusal = breaker.call()
    assert isinstance(refusal, ProviderError)
    return refusal


def fail(breaker, times=1, fault=BUSY, *, is_passing=True):
    for _ in range(times):
        admitted(breaker).fail(fault, is_passing=is_passing)


def succeed(breaker, times=1):
    for _ in range(times):
        admitted(breaker).succeed()


def test_it_opens_when_half_of_twenty_calls_failed_and_says_when_to_come_back(breaker, clock):
    succeed(breaker, 10)
    fail(breaker, 9)
    assert breaker.is_closed()
    fail(breaker)
    clock.now += 4
    refusal = refused(breaker)
    assert (refusal.fault, refusal.retry_after_ms, refusal.sent) == (BUSY, 6000, False)


def test_fewer_failures_or_fewer_calls_open_nothing(breaker):
    fail(breaker, 19)
    assert breaker.is_closed()
    succeed(breaker, 30)
    fail(breaker, 10)
    assert breaker.is_closed()


def test_failures_that_lie_half_a_minute_back_do_not_count(breaker, clock):
    fail(breaker, 19)
    clock.now += 30
    fail(breaker, 1)
    assert breaker.is_closed()


def opened(breaker, fault=BUSY):
    fail(breaker, 20, fault)
    refused(breaker)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault.PROVIDER_UNREACHABLE, Fault.PROVIDER_UNREACHABLE),
        (Fault.PROVIDER_OVERLOADED, Fault.PROVIDER_OVERLOADED),
        (Fault.PROVIDER_TIMEOUT, Fault.PROVIDER_OVERLOADED),
        (Fault.PROVIDER_PROTOCOL, Fault.PROVIDER_OVERLOADED),
    ],
)
def test_it_refuses_with_what_it_opened_for(breaker, fault, told):
    opened(breaker, fault)
    assert refused(breaker).fault is told


def test_one_call_tries_the_provider_and_its_first_word_closes_the_breaker(breaker, clock):
    opened(breaker)
    clock.now += 10
    probe = admitted(breaker)
    assert refused(breaker).retry_after_ms == 10_000
    probe.answer()
    admitted(breaker)
    probe.fail(BUSY, is_passing=True)
    assert breaker.is_closed(), "one failure after the answer is one failure"


def test_a_probe_that_fails_keeps_it_open_for_as_long_again(breaker, clock):
    opened(breaker)
    clock.now += 10
    admitted(breaker).fail(BUSY, is_passing=True)
    clock.now += 9
    assert refused(breaker).retry_after_ms == 1000
    clock.now += 1
    admitted(breaker)


def test_a_probe_that_was_stopped_leaves_the_trying_to_the_next_call(breaker, clock):
    opened(breaker)
    clock.now += 10
    admitted(breaker).let_go()
    probe = admitted(breaker)
    probe.succeed()
    assert breaker.is_closed()


def test_calls_that_began_before_it_opened_change_nothing(breaker, clock):
    late, lucky = admitted(breaker), admitted(breaker)
    opened(breaker)
    clock.now += 5
    late.fail(BUSY, is_passing=True)
    lucky.succeed()
    assert refused(breaker).retry_after_ms == 5000


@pytest.mark.parametrize(
    ("fault", "is_passing"),
    [
        (Fault.PROVIDER_REJECTED, False),
        (Fault.CONTEXT_TOO_LONG, False),
        (Fault.TOOL_CALL_UNSUPPORTED, False),
        (Fault.PROVIDER_PROTOCOL, False),
        (Fault.TURN_TIMEOUT, False),
        (Fault.INTERNAL, False),
        (Fault.PROVIDER_RATE_LIMITED, True),
    ],
)
def test_what_a_prompt_brought_upon_itself_never_opens_it(breaker, fault, is_passing):
    fail(breaker, 1000, fault, is_passing=is_passing)
    assert breaker.is_closed()


def test_a_rejected_probe_shows_that_the_provider_is_there(breaker, clock):
    opened(breaker)
    clock.now += 10
    admitted(breaker).fail(Fault.PROVIDER_REJECTED, is_passing=False)
    assert breaker.is_closed()


def test_credentials_that_are_refused_three_times_in_a_row_open_it(breaker):
    fail(breaker, 2, Fault.PROVIDER_AUTH, is_passing=False)
    succeed(breaker)
    fail(breaker, 2, Fault.PROVIDER_AUTH, is_passing=False)
    assert breaker.is_closed()
    fail(breaker, 1, Fault.PROVIDER_AUTH, is_passing=False)
    assert refused(breaker).fault is Fault.PROVIDER_AUTH


def test_a_call_has_one_verdict(breaker):
    call = admitted(breaker)
    for _ in range(100):
        call.fail(BUSY, is_passing=True)
        call.let_go()
    assert breaker.is_closed()


def test_zero_seconds_turn_it_off(clock):
    breaker = Breaker(clock, 0.0)
    fail(breaker, 1000)
    assert breaker.is_closed()
