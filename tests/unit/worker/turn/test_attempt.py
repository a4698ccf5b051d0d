"""One attempt: every way in which it can end, in every phase."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from shared.errors import Fault, ProviderError
from shared.money.price_table import PriceTable
from shared.money.prices import PricedModel
from shared.money.usage import Usage, UsageSource
from shared.turn.events import EventType
from shared.turn.turns import FinishReason, Role, StopReason
from tests.unit.worker.turn.playing import Ahead, Playing, Tape
from worker.providers.breaker import Breaker
from worker.providers.provider import (
    Capabilities,
    ContentDelta,
    Finish,
    MessageStart,
    Prompt,
    ReasoningDelta,
    RunningUsage,
    UsageConflict,
    text_message,
)
from worker.turn.allowance import Allowance
from worker.turn.attempt import Attempt
from worker.turn.outcome import Completed, Failed, Fenced, Requeued, Stopped
from worker.turn.retry import RetryBudget

PROMPT = Prompt((text_message(Role.USER, "x" * 40),), None, 100)
USED = Usage(input_tokens=3, output_tokens=2)


class Once:
    """Never tries again."""

    def __init__(self):
        self.budget = RetryBudget(lambda: 0.0)

    def wait_before(self, fault, **_):
        return None

    def wait_before_attempt(self, fault, **_):
        return None


class Again(Once):
    """Tries again a number of times, without waiting."""

    def __init__(self, times, seconds=0.0):
        super().__init__()
        self.times, self.seconds, self.is_asked = times, seconds, False

    def wait_before(self, fault, *, tries, **_):
        self.is_asked = True
        return self.seconds if tries <= self.times else None

    def wait_before_attempt(self, fault, *, attempts, **_):
        self.is_asked = True
        return self.seconds if attempts <= self.times else None


def breaker():
    return Breaker(lambda: 0.0, 10.0)


def attempt(provider, seconds_left=60.0):
    return Attempt(provider, Tape(), PROMPT, "message-id", seconds_left, Once(), breaker())


def run(provider_of, *, during=None, seconds_left=60.0):
    """Run one attempt; `during(attempt, provider)` is awaited beside it."""

    async def both():
        provider = provider_of()
        one = attempt(provider, seconds_left)
        beside = asyncio.create_task(during(one, provider)) if during else None
        outcome = await asyncio.wait_for(one.run(), 60)
        if beside is not None:
            await beside
        return one, provider, outcome

    with asyncio.Runner(loop_factory=Ahead) as runner:
        return runner.run(both())


def test_a_whole_answer_is_completed_with_the_providers_usage():
    one, provider, outcome = run(
        lambda: Playing(
            [MessageStart(), ReasoningDelta("hm"), ContentDelta("a")],
            [ContentDelta("b"), Finish(FinishReason.STOP, USED)],
        )
    )
    assert isinstance(outcome, Completed)
    assert (outcome.answer.content, outcome.answer.reasoning) == ("ab", "hm")
    assert (outcome.answer.usage, outcome.answer.usage_source) == (USED, UsageSource.PROVIDER)
    assert one.channel.told == [
        (EventType.MESSAGE_START, {"message_id": "message-id"}),
        ("reasoning", "hm"),
        ("content", "a"),
        ("content", "b"),
        (EventType.MESSAGE_END, {"usage": USED.as_dict(), "finish_reason": "stop"}),
    ]
    assert provider.closed == 1


def test_an_answer_without_usage_is_estimated_and_says_so():
    _, _, outcome = run(
        lambda: Playing([MessageStart(), ContentDelta("x" * 8), Finish(FinishReason.STOP, None)])
    )
    assert outcome.answer.usage_source is UsageSource.ESTIMATED
    assert outcome.answer.usage == Usage(input_tokens=14, output_tokens=2)


def stop_when(condition: Callable[[Attempt, Playing], bool], reason=StopReason.USER):
    async def during(one, provider):
        await provider.opened.wait()
        while not condition(one, provider):  # noqa: ASYNC110
            await asyncio.sleep(0)
        one.stop(reason)

    return during


@pytest.mark.parametrize(
    ("phase", "make", "condition", "called"),
    [
        ("connecting", lambda: Playing(connects=asyncio.Event()), lambda one, _: True, False),
        (
            "silent before the first token",
            lambda: Playing(asyncio.Event()),
            lambda one, _: one.has_called(),
            True,
        ),
        (
            "mid-stream",
            lambda: Playing([MessageStart(), ContentDelta("kept")], asyncio.Event()),
            lambda one, _: len(one.channel.told) == 2,
            True,
        ),
    ],
)
def test_a_stop_closes_the_upstream_connection_in_every_phase(phase, make, condition, called):
    one, provider, outcome = run(make, during=stop_when(condition))
    assert isinstance(outcome, Stopped), phase
    assert outcome.reason is StopReason.USER
    assert provider.closed == 1
    assert one.stop_observed_at is not None
    assert outcome.answer.called is called
    assert outcome.answer.usage.is_empty() is not called
    assert one.channel.told[-1] == (EventType.STOP_REQUESTED, {"stop_reason": "user"})


def test_a_stop_that_came_before_the_start_opens_no_connection():
    async def both():
        provider = Playing([MessageStart()])
        one = attempt(provider)
        one.stop(StopReason.SESSION_CLOSED)
        return provider, await one.run()

    provider, outcome = asyncio.run(both())
    assert outcome == Stopped(outcome.answer, StopReason.SESSION_CLOSED)
    assert not provider.opened.is_set()
    assert not outcome.answer.called


def test_a_stopped_turn_is_not_free():
    _, _, outcome = run(
        lambda: Playing([MessageStart(), *[ContentDelta("a")] * 9], asyncio.Event()),
        during=stop_when(lambda one, _: len(one.channel.told) == 10),
    )
    assert outcome.answer.content == "a" * 9
    assert outcome.answer.usage == Usage(input_tokens=14, output_tokens=9)
    assert outcome.answer.usage_source is UsageSource.ESTIMATED


def test_a_stopped_turn_uses_the_providers_running_usage_where_it_follows_the_output():
    running = Usage(input_tokens=30, output_tokens=1)
    _, _, outcome = run(
        lambda: Playing(
            [MessageStart(), ContentDelta("a"), RunningUsage(running)],
            asyncio.Event(),
            capabilities=Capabilities(running_usage=True),
        ),
        during=stop_when(lambda one, _: len(one.channel.told) == 2),
    )
    assert (outcome.answer.usage, outcome.answer.usage_source) == (running, UsageSource.PARTIAL)


def test_text_that_was_shown_is_not_free_where_running_usage_was_promised_and_counts_none():
    running = Usage(input_tokens=30)
    _, _, outcome = run(
        lambda: Playing(
            [MessageStart(), RunningUsage(running), ContentDelta("abcd")],
            asyncio.Event(),
            capabilities=Capabilities(running_usage=True),
        ),
        during=stop_when(lambda one, _: len(one.channel.told) == 2),
    )
    assert outcome.answer.usage == Usage(input_tokens=30, output_tokens=1)


def test_the_inputs_figures_from_the_start_are_kept_and_the_output_is_what_was_shown():
    caches = {"cache_read_tokens": 5, "cache_write_tokens": 7, "cache_write_1h_tokens": 3}
    running = Usage(input_tokens=30, **caches, output_tokens=1)
    _, _, outcome = run(
        lambda: Playing(
            [MessageStart(), RunningUsage(running), *[ContentDelta("abcd")] * 6], asyncio.Event()
        ),
        during=stop_when(lambda one, _: len(one.channel.told) == 7),
    )
    assert outcome.answer.usage == Usage(input_tokens=30, **caches, output_tokens=6)
    assert outcome.answer.usage_source is UsageSource.PARTIAL


def test_a_fault_keeps_the_partial_text():
    fault = ProviderError(Fault.PROVIDER_OVERLOADED, "busy", retry_after_ms=500)
    _, provider, outcome = run(lambda: Playing([MessageStart(), ContentDelta("part")], fault))
    assert isinstance(outcome, Failed)
    assert (outcome.fault, outcome.detail, outcome.retry_after_ms) == (Fault.PROVIDER_OVERLOADED, "busy", 500)
    assert outcome.answer.content == "part"
    assert provider.closed == 1


def test_a_fault_before_the_request_was_sent_costs_nothing():
    _, _, outcome = run(
        lambda: Playing(ProviderError(Fault.PROVIDER_UNREACHABLE, "no", sent=False), sends=False)
    )
    assert not outcome.answer.called
    assert outcome.answer.usage.is_empty()


def test_the_turns_deadline_is_told_apart_from_a_users_stop():
    async def during(one, _provider):
        while ("content", "a") not in one.channel.told:  # noqa: ASYNC110
            await asyncio.sleep(0)
        asyncio.get_running_loop().seconds_ahead = 31.0

    _, provider, outcome = run(
        lambda: Playing([MessageStart(), ContentDelta("a")], asyncio.Event()),
        during=during,
        seconds_left=30.0,
    )
    assert isinstance(outcome, Failed)
    assert outcome.fault is Fault.TURN_TIMEOUT
    assert outcome.answer.content == "a"
    assert provider.closed == 1


def test_a_stop_that_meets_the_end_leaves_the_answer_completed():
    async def during(one, provider):
        await provider.opened.wait()
        while not any(kind is EventType.MESSAGE_END for kind, _ in one.channel.told):  # noqa: ASYNC110
            await asyncio.sleep(0)
        one.stop(StopReason.USER)

    _, _, outcome = run(
        lambda: Playing([MessageStart(), ContentDelta("a"), Finish(FinishReason.STOP, USED)]), during=during
    )
    assert isinstance(outcome, Completed)


def test_an_attempt_that_lost_its_lease_leaves_no_trace():
    async def during(one, provider):
        await provider.opened.wait()
        while not one.channel.told:  # noqa: ASYNC110
            await asyncio.sleep(0)
        one.fence()

    one, provider, outcome = run(lambda: Playing([MessageStart()], asyncio.Event()), during=during)
    assert isinstance(outcome, Fenced)
    assert one.channel.discarded
    assert provider.closed == 1


def test_an_error_of_ours_ends_the_turn_and_says_nothing_of_itself(caplog):
    _, _, outcome = run(lambda: Playing([MessageStart()], RuntimeError("secret")))
    assert isinstance(outcome, Failed)
    assert outcome.fault is Fault.INTERNAL
    assert "secret" not in outcome.detail


def test_a_checkpoint_is_what_was_shown_through_its_number():
    one, _, _ = run(lambda: Playing([MessageStart(), ContentDelta("ab"), Finish(FinishReason.STOP, USED)]))
    seq, answer = one.checkpoint()
    assert (seq, answer.content, answer.called) == (7, "ab", True)


@pytest.mark.parametrize(
    "fault", [Fault.PROVIDER_RATE_LIMITED, Fault.PROVIDER_REJECTED, Fault.PROVIDER_PROTOCOL]
)
def test_a_request_that_the_provider_refused_costs_nothing(fault):
    _, _, outcome = run(lambda: Playing(ProviderError(fault, "no")))
    assert outcome.answer.called
    assert outcome.answer.usage.is_empty()


@pytest.mark.parametrize("fault", [Fault.PROVIDER_TIMEOUT, Fault.PROVIDER_UNREACHABLE])
def test_a_request_that_the_provider_may_have_worked_on_is_billed_for_its_input(fault):
    _, _, outcome = run(lambda: Playing(ProviderError(fault, "lost")))
    assert outcome.answer.usage == Usage(input_tokens=14)


def test_an_answer_that_began_before_the_fault_is_billed():
    fault = ProviderError(Fault.PROVIDER_PROTOCOL, "cut")
    _, _, outcome = run(lambda: Playing([MessageStart(), ContentDelta("x" * 8)], fault))
    assert outcome.answer.usage == Usage(input_tokens=14, output_tokens=2)


class Moody(Playing):
    """A provider whose calls go differently."""

    def __init__(self, *calls):
        super().__init__()
        self.calls = list(calls)

    def stream(self, prompt, *, on_sent=None):
        self.steps = self.calls.pop(0)
        self.prompt = prompt
        return super().stream(prompt, on_sent=on_sent)


def run_again(calls, times=1, during=None, seconds=0.0, **options):
    async def both():
        provider = Moody(*calls)
        one = Attempt(
            provider, Tape(), PROMPT, "message-id", 60.0, Again(times, seconds), breaker(), **options
        )
        beside = asyncio.create_task(during(one, provider)) if during else None
        outcome = await asyncio.wait_for(one.run(), 60)
        if beside is not None:
            await beside
        return one, provider, outcome

    return asyncio.run(both())


BUSY = ProviderError(Fault.PROVIDER_OVERLOADED, "busy")
SILENT = ProviderError(Fault.PROVIDER_TIMEOUT, "silent")
WHOLE = [[MessageStart(), ContentDelta("ok"), Finish(FinishReason.STOP, USED)]]


def test_a_call_that_failed_before_any_text_is_tried_again_and_the_reader_sees_one_answer():
    one, provider, outcome = run_again([[BUSY], [[MessageStart()], BUSY], WHOLE], times=2)
    assert isinstance(outcome, Completed)
    assert provider.closed == 3
    assert [kind for kind, _ in one.channel.told] == [
        EventType.MESSAGE_START,
        "content",
        EventType.MESSAGE_END,
    ]


def test_a_refused_call_that_was_tried_again_costs_nothing_extra():
    _, _, outcome = run_again([[BUSY], WHOLE])
    assert (outcome.answer.usage, outcome.answer.usage_source) == (USED, UsageSource.PROVIDER)


def test_a_silent_call_that_was_tried_again_is_billed_beside_the_answer():
    _, _, outcome = run_again([[SILENT], WHOLE])
    assert outcome.answer.usage == Usage(input_tokens=14 + 3, output_tokens=2)
    assert outcome.answer.usage_source is UsageSource.ESTIMATED
    assert outcome.answer.longest == Usage(input_tokens=14)


def test_the_prompts_figures_are_noted_as_soon_as_they_are_told_and_once_for_each_call():
    told = Usage(input_tokens=5, cache_write_tokens=9, cache_write_1h_tokens=4, output_tokens=1)
    prompt = replace(told, output_tokens=0)
    calls = [MessageStart(), RunningUsage(told), RunningUsage(replace(told, output_tokens=3))]
    one, _, _ = run_again([[calls, SILENT], [calls, *WHOLE]])
    estimated = Usage(input_tokens=14)
    assert one.channel.noted == [
        (prompt, UsageSource.PARTIAL),
        (prompt + estimated, UsageSource.ESTIMATED),
        (prompt + prompt, UsageSource.ESTIMATED),
    ]


def test_a_call_in_vain_is_noted_with_the_next_so_that_a_death_bills_both():
    one, _, _ = run_again([[SILENT], WHOLE])
    assert (one.channel.calls, one.channel.noted) == (1, [(Usage(input_tokens=28), UsageSource.ESTIMATED)])


def test_a_refusal_is_noted_so_that_a_death_after_it_costs_nothing():
    one, _, _ = run_again([[BUSY], WHOLE])
    assert one.channel.noted == [(Usage(), UsageSource.ESTIMATED)]
    unsent = ProviderError(Fault.PROVIDER_OVERLOADED, "busy", sent=False)
    one, _ = run(lambda: Playing(unsent, sends=False))[:2]
    assert one.channel.noted == []


TOLD = Usage(input_tokens=5, cache_read_tokens=8, output_tokens=1)


def test_what_is_told_of_the_only_call_that_cost_anything_is_no_estimate_whatever_refused_the_next():
    one, _, outcome = run_again([[[MessageStart(), RunningUsage(TOLD)], SILENT], [BUSY]])
    assert isinstance(outcome, Failed)
    assert (outcome.answer.usage, outcome.answer.usage_source) == (TOLD, UsageSource.PARTIAL)
    assert one.channel.noted[-1] == (replace(TOLD, output_tokens=0), UsageSource.PARTIAL)


def test_nor_is_it_when_a_stop_comes_before_the_next():
    async def during(one, provider):
        while not one._retries.is_asked:  # noqa: ASYNC110
            await asyncio.sleep(0)
        one.stop(StopReason.USER)

    calls = [[[MessageStart(), RunningUsage(TOLD)], SILENT]]
    _, _, outcome = run_again(calls, during=during, seconds=3600.0)
    assert (outcome.answer.usage, outcome.answer.usage_source) == (TOLD, UsageSource.PARTIAL)


def test_of_several_calls_the_one_with_the_longest_prompt_is_named():
    long = Usage(input_tokens=5, cache_read_tokens=12, output_tokens=1)
    told = [[MessageStart(), RunningUsage(long)], SILENT]
    _, _, outcome = run_again([told, [SILENT], WHOLE], times=2)
    assert outcome.answer.usage.prompt_tokens() == 17 + 14 + USED.prompt_tokens()
    assert outcome.answer.longest == long
    _, _, outcome = run_again([WHOLE])
    assert outcome.answer.longest is None


PART = [MessageStart(), ContentDelta("part")]
CUT = ProviderError(Fault.PROVIDER_PROTOCOL, "cut", broke_off=True)
TWICE = ProviderError(Fault.PROVIDER_PROTOCOL, "started twice")


def test_once_text_was_shown_no_call_is_tried_again_in_the_same_attempt():
    _, provider, outcome = run_again([[PART, BUSY], WHOLE])
    assert isinstance(outcome, Failed)
    assert provider.closed == 1


@pytest.mark.parametrize("fault", [CUT, BUSY, ProviderError(Fault.PROVIDER_TIMEOUT, "silent")])
def test_a_text_that_broke_off_is_left_to_the_next_attempt_and_billed(fault):
    one, provider, outcome = run_again([[PART, fault], WHOLE], attempts=1)
    assert isinstance(outcome, Requeued)
    assert (outcome.answer.content, outcome.fault, outcome.handed_back) == ("part", fault.fault, False)
    assert outcome.answer.called
    assert outcome.answer.usage == Usage(input_tokens=14, output_tokens=1)
    assert provider.closed == 1
    assert [kind for kind, _ in one.channel.told] == [EventType.MESSAGE_START, "content"]


@pytest.mark.parametrize(
    ("fault", "attempts"), [(TWICE, 1), (CUT, 2), (CUT, None)], ids=["permanent", "no attempt left", "fail"]
)
def test_a_text_that_broke_off_for_good_ends_the_turn_with_its_fault(fault, attempts):
    _, _, outcome = run_again([[PART, fault]], attempts=attempts)
    assert isinstance(outcome, Failed)
    assert (outcome.fault, outcome.answer.content) == (Fault.PROVIDER_PROTOCOL, "part")


@pytest.mark.parametrize(("order", "ending"), [("stop", Stopped), ("fence", Fenced), ("hand_back", Requeued)])
def test_the_wait_for_the_next_attempt_is_cut_short(order, ending):
    async def during(one, provider):
        while not one._retries.is_asked:  # noqa: ASYNC110
            await asyncio.sleep(0)
        one.stop(StopReason.USER) if order == "stop" else getattr(one, order)()

    _, _, outcome = run_again([[PART, CUT]], during=during, seconds=3600.0, attempts=1)
    assert isinstance(outcome, ending)
    if order == "hand_back":
        assert not outcome.handed_back, "the provider failed it: the attempt counts"


def test_a_provider_that_is_not_called_for_a_moment_fails_the_turn_before_any_cost():
    async def both():
        guard = Breaker(lambda: 0.0, 10.0)
        for _ in range(20):
            guard.call().fail(Fault.PROVIDER_OVERLOADED, is_passing=True)
        provider = Moody(*WHOLE)
        one = Attempt(provider, Tape(), PROMPT, "m", 60.0, Again(5), guard, attempts=1)
        return provider, await one.run()

    provider, outcome = asyncio.run(both())
    assert not provider.opened.is_set()
    assert (outcome.fault, outcome.retry_after_ms) == (Fault.PROVIDER_OVERLOADED, 10_000)
    assert not outcome.answer.called
    assert outcome.answer.usage.is_empty()


def test_a_stop_in_the_wait_after_a_refusal_costs_nothing():
    async def during(one, provider):
        while not one._retries.is_asked:  # noqa: ASYNC110
            await asyncio.sleep(0)
        one.stop(StopReason.USER)

    _, _, outcome = run_again([[BUSY]], during=during, seconds=3600.0)
    assert isinstance(outcome, Stopped)
    assert outcome.answer.usage.is_empty()


CONTINUES = {"prefix": "The sea is ", "attempts": 2}


def test_a_continued_answer_is_the_text_so_far_and_its_rest_and_costs_the_rest():
    rest = [[MessageStart(), ContentDelta(" "), ContentDelta("blue."), Finish(FinishReason.STOP, USED)]]
    one, provider, outcome = run_again([rest], **CONTINUES)
    assert isinstance(outcome, Completed)
    assert outcome.answer.content == "The sea is blue."
    assert outcome.answer.usage == USED
    assert provider.prompt.messages[-1] == text_message(Role.ASSISTANT, "The sea is")
    assert provider.prompt.max_output_tokens == 97
    assert [kind for kind, _ in one.channel.told] == ["content", EventType.MESSAGE_END]


def test_a_continuation_that_breaks_off_estimates_only_what_it_added():
    _, _, outcome = run_again([[[MessageStart(), ContentDelta("blue")], CUT]], **CONTINUES)
    assert outcome.answer.content == "The sea is blue"
    assert outcome.answer.usage == Usage(input_tokens=14 + 3 + 4, output_tokens=1)


def test_a_text_that_the_provider_will_not_continue_is_void_and_the_question_is_asked_again():
    refused = ProviderError(Fault.PROVIDER_REJECTED, "no")
    one, provider, outcome = run_again([[refused], WHOLE], **CONTINUES)
    assert isinstance(outcome, Completed)
    assert outcome.answer.content == "ok"
    assert provider.prompt == PROMPT
    assert [kind for kind, _ in one.channel.told] == [
        EventType.MESSAGE_RESET,
        EventType.MESSAGE_START,
        "content",
        EventType.MESSAGE_END,
    ]


def test_a_continuation_that_fails_before_it_adds_anything_keeps_the_text():
    _, _, outcome = run_again([[BUSY]], times=0, **CONTINUES)
    assert isinstance(outcome, Failed)
    assert outcome.answer.content == "The sea is "
    assert outcome.answer.usage.is_empty()


def test_a_stop_ends_the_wait_for_the_next_try():
    async def during(one, provider):
        while not provider.closed:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        one.stop(StopReason.USER)

    _, provider, outcome = run_again([[BUSY], WHOLE], during=during, seconds=60.0)
    assert isinstance(outcome, Stopped)
    assert provider.closed == 1


PAID_TOKENS = 20
MODEL = PricedModel("scripted", "m", PriceTable("nowhere"), None)
# By hand: a byte of the prompt may be a token, 8 around the message and 128 around all, an hour's cache write of $6.
PROMPT_USD = Decimal(40 + 8 + 128) * 6 / 1_000_000
TOKEN_USD = Decimal(15) / 1_000_000


def run_on(hold_usd, provider, retries=None):
    """Run an attempt that may cost so much."""

    async def in_loop():
        one = Attempt(
            provider,
            Tape(),
            PROMPT,
            "message-id",
            60.0,
            retries or Once(),
            breaker(),
            allowance=Allowance(MODEL, hold_usd, 10_000),
        )
        return one, await asyncio.wait_for(one.run(), 60)

    return asyncio.run(in_loop())


class Asked(Playing):
    """Remembers the limits that it was sent."""

    def stream(self, prompt, *, on_sent=None):
        self.limits = [*getattr(self, "limits", []), prompt.max_output_tokens]
        return super().stream(prompt, on_sent=on_sent)


def endless(piece="a", **options):
    return Asked([MessageStart()], *[[ContentDelta(piece)]] * 500, **options)


def test_a_provider_is_sent_the_limit_that_the_hold_pays():
    whole = [MessageStart(), ContentDelta("a"), Finish(FinishReason.STOP, USED)]
    provider = Asked(whole)
    _, outcome = run_on(PROMPT_USD + PAID_TOKENS * TOKEN_USD, provider)
    assert isinstance(outcome, Completed)
    assert provider.limits == [PAID_TOKENS]
    _, _ = run_on(PROMPT_USD + 1000 * TOKEN_USD, provider)
    assert provider.limits == [PAID_TOKENS, PROMPT.max_output_tokens]


def test_an_attempt_that_its_hold_does_not_pay_for_calls_nobody():
    provider = Asked([MessageStart()])
    one, outcome = run_on(PROMPT_USD + 15 * TOKEN_USD, provider)
    assert outcome == Stopped(outcome.answer, StopReason.BUDGET)
    assert (outcome.answer.called, provider.closed) == (False, 0)
    assert one.channel.told == [(EventType.STOP_REQUESTED, {"stop_reason": "budget"})]


def test_a_provider_that_ignores_its_limit_is_cut_off_with_the_next_batch():
    provider = endless()
    one, outcome = run_on(PROMPT_USD + PAID_TOKENS * TOKEN_USD, provider)
    assert outcome == Stopped(outcome.answer, StopReason.BUDGET)
    assert (len(outcome.answer.content), provider.closed) == (PAID_TOKENS + 1, 1)
    assert outcome.answer.usage.output_tokens == PAID_TOKENS + 1  # never hidden
    assert one.channel.told[-1] == (EventType.STOP_REQUESTED, {"stop_reason": "budget"})


def test_long_deltas_are_counted_by_their_length():
    provider = endless("x" * 100)
    _, outcome = run_on(PROMPT_USD + PAID_TOKENS * TOKEN_USD, provider)
    assert outcome.reason is StopReason.BUDGET
    assert len(outcome.answer.content) == 400  # the first that is over 16 characters a token
    assert outcome.answer.usage.output_tokens == 100


def test_a_provider_that_counts_as_it_goes_is_believed():
    counts = Capabilities(running_usage=True)
    batches = [[ContentDelta("a"), RunningUsage(Usage(30, output_tokens=n // 4))] for n in range(1, 200)]
    provider = Asked([MessageStart()], *batches, capabilities=counts)
    _, outcome = run_on(PROMPT_USD + PAID_TOKENS * TOKEN_USD, provider)
    assert outcome.reason is StopReason.BUDGET
    assert outcome.answer.usage == Usage(30, output_tokens=PAID_TOKENS + 1)


def test_a_prompt_that_the_provider_counts_larger_leaves_less_for_the_answer():
    larger = RunningUsage(Usage(input_tokens=40 + 8 + 128 + 200))
    hold = PROMPT_USD + 100 * TOKEN_USD
    provider = Asked([MessageStart(), larger], *[[ContentDelta("a")]] * 500)
    _, outcome = run_on(hold, provider)
    # By hand: at $3 for input the hold leaves ⌊(0.001056 + 0.0015 − 376 × 0.000003) / 0.000015⌋ = 95 tokens.
    assert len(outcome.answer.content) == 96


def test_a_prompt_that_is_counted_larger_a_second_time_leaves_less_again():
    larger = RunningUsage(Usage(input_tokens=40 + 8 + 128 + 200))
    begun = [MessageStart(), larger]
    _, outcome = run_on(
        PROMPT_USD + 160 * TOKEN_USD,
        Moody([begun, SILENT], [begun, *[[ContentDelta("a")]] * 500]),
        retries=Again(1),
    )
    # By hand: ⌊(0.001056 + 0.0024 − 2 × 376 × 0.000003) / 0.000015⌋ = 80 tokens.
    assert len(outcome.answer.content) == 81


def test_an_estimate_is_not_above_the_limit_that_an_honest_provider_was_sent():
    provider = Asked(
        [MessageStart(), *[ContentDelta("x" * 6)] * PAID_TOKENS, Finish(FinishReason.LENGTH, None)]
    )
    _, outcome = run_on(PROMPT_USD + PAID_TOKENS * TOKEN_USD, provider)
    assert isinstance(outcome, Completed)
    assert outcome.answer.usage.output_tokens == PAID_TOKENS


def test_what_failed_calls_used_is_taken_from_the_hold_of_the_next():
    broken = ProviderError(Fault.PROVIDER_TIMEOUT, "silent")
    provider = Asked([MessageStart()], broken)
    _, outcome = run_on(PROMPT_USD + PAID_TOKENS * TOKEN_USD, provider, retries=Again(3))
    # By hand: a call that broke off is estimated at 14 tokens of input, $0.000042, which is 2.8 tokens of output.
    assert provider.limits == [20, 17]
    assert outcome == Stopped(outcome.answer, StopReason.BUDGET)
    assert outcome.answer.usage.input_tokens == 28


def test_a_total_that_contradicts_the_figures_is_kept_for_the_ledger():
    conflict = UsageConflict(prompt_tokens=9, completion_tokens=1, reasoning_tokens=0, total_tokens=40)
    whole = [MessageStart(), ContentDelta("ab"), Finish(FinishReason.STOP, USED, conflict)]
    _, _, outcome = run(lambda: Playing(whole))
    assert outcome.answer.usage_source is UsageSource.PROVIDER
    assert outcome.answer.reported.as_dict()["total_tokens"] == 40
