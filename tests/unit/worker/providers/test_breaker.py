"""When a provider is not called any more, and when it is again."""

from uuid import UUID

import pytest

from shared.errors import Fault, ProviderError
from worker.providers.breaker import MOST_ORGANIZATIONS, Breaker, Permit

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


PROMPTS = (Fault.PROVIDER_OVERLOADED, Fault.PROVIDER_TIMEOUT, Fault.PROVIDER_PROTOCOL)
"""What a prompt can cause."""
HOSTILE, QUIET = UUID(int=1), UUID(int=2)


def asks(breaker, organization, times=1):
    permits = [breaker.of(organization).call() for _ in range(times)]
    assert all(isinstance(permit, Permit) for permit in permits)
    return permits


def fails(breaker, organization, times=1, fault=BUSY):
    for _ in range(times):
        asks(breaker, organization)[0].fail(fault, is_passing=True)


@pytest.mark.parametrize("fault", PROMPTS)
def test_the_prompts_of_one_organization_open_it_for_that_one_alone(breaker, clock, fault):
    for _ in range(10):
        for permit in asks(breaker, QUIET):
            permit.succeed()
    fails(breaker, HOSTILE, 20, fault)
    refusal = breaker.of(HOSTILE).call()
    assert isinstance(refusal, ProviderError)
    assert refusal.retry_after_ms == 10_000
    assert not breaker.of(HOSTILE).is_closed()
    assert (breaker.state, breaker.open_for(), breaker.of(QUIET).is_closed()) == ("closed", 1, True)
    # The hostile one fails at each probe, for minutes; the other's calls go on, with one failing now and then.
    for _ in range(30):
        clock.now += 10
        fails(breaker, HOSTILE, 1, fault)
        fails(breaker, QUIET, 1, fault)
        for permit in asks(breaker, QUIET, 5):
            permit.succeed()
    assert breaker.of(QUIET).is_closed()
    clock.now += 10
    for permit in asks(breaker, HOSTILE):
        permit.answer()
    assert breaker.of(HOSTILE).is_closed()


def test_one_failure_of_another_does_not_make_many_of_one_everybodys(breaker):
    fails(breaker, HOSTILE, 19)
    fails(breaker, QUIET)
    fails(breaker, HOSTILE)
    assert breaker.of(QUIET).is_closed()


@pytest.mark.parametrize("fault", PROMPTS)
def test_what_most_organizations_see_opens_it_for_all(breaker, fault):
    for number in range(10):
        fails(breaker, UUID(int=number), 2, fault)
    assert breaker.state == "open"
    assert isinstance(breaker.of(UUID(int=77)).call(), ProviderError)


@pytest.mark.parametrize(("fault", "times"), [(Fault.PROVIDER_AUTH, 3), (Fault.PROVIDER_UNREACHABLE, 20)])
def test_what_no_prompt_can_cause_opens_it_for_all_whoever_saw_it(breaker, fault, times):
    fails(breaker, HOSTILE, times, fault)
    assert breaker.state == "open"
    assert isinstance(breaker.of(QUIET).call(), ProviderError)


def test_a_probe_that_one_organization_spoils_leaves_the_next_to_another(breaker, clock):
    fails(breaker, HOSTILE, 10)
    fails(breaker, QUIET, 10)
    assert breaker.state == "open"
    clock.now += 10
    fails(breaker, HOSTILE)
    assert isinstance(breaker.of(HOSTILE).call(), ProviderError)
    (probe,) = asks(breaker, QUIET)
    assert probe.is_probe
    probe.succeed()
    assert breaker.of(QUIET).is_closed()


def test_two_organizations_whose_probes_fail_keep_it_open(breaker, clock):
    fails(breaker, HOSTILE, 10)
    fails(breaker, QUIET, 10)
    clock.now += 10
    fails(breaker, HOSTILE)
    fails(breaker, QUIET)
    clock.now += 9
    assert isinstance(breaker.of(UUID(int=3)).call(), ProviderError)
    clock.now += 1
    asks(breaker, UUID(int=3))


def test_it_remembers_a_bounded_number_of_organizations(breaker):
    for number in range(3000):
        fails(breaker, UUID(int=number), fault=Fault.PROVIDER_RATE_LIMITED)
    assert len(breaker._each) == MOST_ORGANIZATIONS
