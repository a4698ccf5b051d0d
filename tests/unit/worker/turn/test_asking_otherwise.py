"""An attempt whose prompt is refused asks again within itself, at no cost, and says what it left out."""

import asyncio
from decimal import Decimal

import pytest

from shared.errors import ContextTold, Fault, ProviderError
from shared.ids import new_id
from shared.money.price_table import PriceTable
from shared.money.prices import PricedModel
from shared.money.usage import Usage, UsageSource
from shared.turn.events import EventType
from shared.turn.parts import parts_of
from shared.turn.turns import FinishReason, StopReason
from tests.unit.worker.turn.playing import Playing, Tape
from worker.providers.breaker import Breaker
from worker.providers.context import ContextMemory
from worker.providers.provider import Capabilities, ContentDelta, Finish, MessageStart
from worker.turn.allowance import Allowance
from worker.turn.attempt import Attempt
from worker.turn.fitting import Fitting
from worker.turn.outcome import Completed, Failed, Requeued, Stopped
from worker.turn.prompt import History, StoredMessage
from worker.turn.retry import Retries, RetryBudget

USED = Usage(input_tokens=3, output_tokens=2)
WHOLE = [[MessageStart(), ContentDelta("ok"), Finish(FinishReason.STOP, USED)]]
TOO_LONG = ProviderError(Fault.CONTEXT_TOO_LONG, "the prompt is longer than the model's context (status 400)")
TOLD = ProviderError(Fault.CONTEXT_TOO_LONG, "too long", told=ContextTold(1000, 2010))
REJECTED = ProviderError(Fault.PROVIDER_REJECTED, "the model provider rejected the request")
BUSY = ProviderError(Fault.PROVIDER_OVERLOADED, "busy")


def history(*texts, turns=10):
    texts = texts or ("x" * 384,) * (2 * turns) + ("Hi",)  # a hundred tokens each
    return History(
        [
            StoredMessage(index // 2 + 1, "assistant" if index % 2 else "user", parts_of(text))
            for index, text in enumerate(texts)
            if text is not None
        ],
        system=None,
    )


class Moody(Playing):
    """A provider whose calls go differently, and that remembers what it was asked."""

    def __init__(self, *calls, **options):
        super().__init__(**options)
        self.calls = list(calls)
        self.asked = []

    def stream(self, prompt, *, on_sent=None):
        self.steps = self.calls.pop(0)
        self.asked.append(prompt)
        return super().stream(prompt, on_sent=on_sent)


def run(calls, talk=None, *, allowance=None, prefix="", during=None, memory=None, **options):
    fitting = Fitting(talk or history(), 100, 100_000, memory or ContextMemory(), new_id())
    provider = Moody(*calls, **options)

    async def both():
        retries = Retries(lambda: 0.0, RetryBudget(lambda: 0.0))
        one = Attempt(
            provider,
            Tape(),
            fitting.prompt,
            "message-id",
            60.0,
            retries,
            Breaker(lambda: 0.0, 10.0),
            attempts=1,
            prefix=prefix,
            allowance=allowance,
            fitting=fitting,
        )
        beside = asyncio.create_task(during(one, provider)) if during else None
        outcome = await asyncio.wait_for(one.run(), 60)
        if beside is not None:
            await beside
        return one, outcome

    one, outcome = asyncio.run(both())
    return one, provider, outcome, fitting


def lengths(provider):
    return [len(prompt.messages) for prompt in provider.asked]


@pytest.mark.parametrize("refusal", [TOO_LONG, TOLD])
def test_a_prompt_that_is_too_long_is_sent_again_without_old_turns_and_nothing_is_billed_for_it(refusal):
    one, provider, outcome, fitting = run([[refusal], WHOLE])
    assert isinstance(outcome, Completed)
    assert (outcome.answer.usage, outcome.answer.usage_source) == (USED, UsageSource.PROVIDER)
    first, second = lengths(provider)
    assert (first, second < first) == (21, True)
    assert fitting.left_out() == (first - second) // 2
    assert one.channel.told[0] == (
        EventType.MESSAGE_START,
        {"message_id": "message-id", "history_trimmed": fitting.left_out()},
    )


def test_it_is_asked_a_bounded_number_of_times_and_the_last_time_with_the_question_alone():
    _, provider, outcome, _ = run([[TOO_LONG]] * 6)
    assert (lengths(provider)[0], lengths(provider)[-1], len(provider.asked)) == (21, 1, 5)
    assert (outcome.fault, outcome.detail) == (
        Fault.CONTEXT_TOO_LONG,
        "the message alone is longer than the model's context",
    )
    assert (outcome.answer.called, outcome.answer.usage) == (True, Usage())


def test_after_text_was_shown_nothing_is_asked_again():
    _, provider, outcome, fitting = run([[[MessageStart(), ContentDelta("a")], TOO_LONG], WHOLE])
    assert (isinstance(outcome, Failed), len(provider.asked), fitting.left_out()) == (True, 1, 0)


def test_asking_otherwise_takes_no_retry_away():
    _, provider, outcome, _ = run([[TOO_LONG], [BUSY], [TOO_LONG], [BUSY], WHOLE])
    assert (isinstance(outcome, Completed), len(provider.asked)) == (True, 5)


def test_a_stop_between_two_asks_ends_the_turn():
    async def during(one, provider):
        while not provider.closed:  # noqa: ASYNC110
            await asyncio.sleep(0)
        one.stop(StopReason.USER)

    _, provider, outcome, _ = run([[TOO_LONG]] * 5, during=during)
    assert isinstance(outcome, Stopped)
    assert len(provider.asked) < 5


def test_a_worker_that_ends_between_two_asks_hands_the_turn_back():
    async def during(one, provider):
        while not provider.closed:  # noqa: ASYNC110
            await asyncio.sleep(0)
        one.hand_back()

    _, _, outcome, _ = run([[TOO_LONG]] * 5, during=during)
    assert isinstance(outcome, Requeued)
    assert outcome.handed_back


def test_a_text_to_continue_is_kept_while_old_turns_can_go():
    continuing = Capabilities(continuation=True)
    one, provider, outcome, _ = run([[TOO_LONG], WHOLE], prefix="half of it", capabilities=continuing)
    assert outcome.answer.content == "half of itok"
    assert [prompt.messages[-1].content for prompt in provider.asked] == ["half of it"] * 2
    assert lengths(provider)[1] < lengths(provider)[0]
    assert EventType.MESSAGE_RESET not in [kind for kind, _ in one.channel.told]


def test_a_text_to_continue_goes_when_nothing_else_can():
    continuing = Capabilities(continuation=True)
    one, provider, outcome, _ = run(
        [[TOO_LONG], WHOLE], history("Hi"), prefix="half of it", capabilities=continuing
    )
    assert outcome.answer.content == "ok"
    assert [prompt.messages[-1].content for prompt in provider.asked] == ["half of it", "Hi"]
    assert one.channel.told[0] == (EventType.MESSAGE_RESET, {"reason": "context_too_long"})


def test_a_rejected_prompt_is_sent_again_without_earlier_questions_that_no_provider_took():
    _, provider, outcome, fitting = run([[REJECTED], WHOLE], history("first", "fine", "poison", None, "Hi"))
    assert isinstance(outcome, Completed)
    asked = [[message.content for message in prompt.messages] for prompt in provider.asked]
    assert asked == [["first", "fine", "poison\n\nHi"], ["first", "fine", "Hi"]]
    assert fitting.left_out() == 1


def test_a_rejected_question_is_not_sent_again():
    _, provider, outcome, _ = run([[REJECTED]], history("first", "fine", "poison"))
    assert (outcome.fault, len(provider.asked)) == (Fault.PROVIDER_REJECTED, 1)


def test_what_a_hold_pays_for_is_computed_from_the_prompt_that_is_sent():
    model = PricedModel("scripted", "m", PriceTable("nowhere"), None)
    # By hand: the whole prompt has at most 20 × 392 + 10 + 128 tokens, at $6 a million; 20 tokens of answer are left.
    hold = Decimal(20 * 392 + 10 + 128) * 6 / 1_000_000 + Decimal(20) * 15 / 1_000_000
    _, provider, outcome, _ = run([[TOO_LONG], WHOLE], allowance=Allowance(model, hold, 100_000))
    assert isinstance(outcome, Completed)
    assert [prompt.max_output_tokens for prompt in provider.asked] == [20, 100]


def test_the_next_turn_of_the_organization_is_short_enough_at_once():
    memory, organization = ContextMemory(), new_id()
    fitting = Fitting(history(), 100, 100_000, memory, organization)
    assert fitting.again(Fault.CONTEXT_TOO_LONG, None) is not None
    assert Fitting(history(), 100, 100_000, memory, organization).left_out() == 0  # nobody took it yet
    assert memory.shortened == 1
    fitting.taken()
    assert Fitting(history(), 100, 100_000, memory, organization).left_out() == fitting.left_out()


MODERATED = ProviderError(Fault.PROVIDER_AUTH, "the model provider refused the credentials (status 403)")
NO_STREAM = ProviderError(Fault.PROVIDER_PROTOCOL, "no event stream", may_repeat=False)
IN_STREAM = ProviderError(Fault.PROVIDER_PROTOCOL, "the model provider reported an error within its answer")


@pytest.mark.parametrize(("refusal", "calls"), [(MODERATED, 1), (IN_STREAM, 2), (NO_STREAM, 1), (BUSY, 3)])
def test_a_refusal_that_is_told_in_another_way_does_not_end_the_conversation(refusal, calls):
    talk = history("q1", "a1", "what it never takes", None, "q3")
    _, provider, outcome, fitting = run([[refusal]] * calls + [WHOLE], talk)
    assert isinstance(outcome, Completed)
    assert [prompt.messages[-1].content for prompt in provider.asked[-2:]] == [
        "what it never takes\n\nq3",
        "q3",
    ]
    assert (len(provider.asked), fitting.left_out()) == (calls + 1, 1)


@pytest.mark.parametrize(("refusal", "calls"), [(MODERATED, 1), (IN_STREAM, 2), (NO_STREAM, 1), (BUSY, 3)])
def test_a_fault_of_the_provider_is_asked_once_more_at_most_and_only_with_such_a_question(refusal, calls):
    _, provider, outcome, _ = run([[refusal]] * 9, history("q1", None, "q2"))
    assert (isinstance(outcome, Failed), len(provider.asked)) == (True, calls + 1)
    _, provider, outcome, _ = run([[refusal]] * 9)
    assert (isinstance(outcome, Failed), len(provider.asked)) == (True, calls)


def test_a_provider_that_says_when_to_come_again_is_not_asked_otherwise():
    later = ProviderError(Fault.PROVIDER_OVERLOADED, "busy", retry_after_ms=3_600_000)
    _, provider, outcome, _ = run([[later]] * 9, history("q1", None, "q2"))
    assert (isinstance(outcome, Failed), len(provider.asked)) == (True, 1)


def test_a_question_that_is_longer_than_the_context_is_not_asked_with_a_shorter_answer():
    alone = ProviderError(Fault.CONTEXT_TOO_LONG, "too long", told=ContextTold(8192, 14429))
    memory, organization = ContextMemory(), new_id()
    fitting = Fitting(history("Hi"), 4096, 180_000, memory, organization)
    assert fitting.again(alone.fault, alone.told) is None
    assert memory.tokens(organization) == 8192, "its density is no other question's"
    assert Fitting(history("Hi"), 4096, 180_000, memory, organization).prompt.max_output_tokens == 4096
