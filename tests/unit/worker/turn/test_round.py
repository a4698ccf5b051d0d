"""One request and its answer: every way in which a round can end, and what it leaves to its attempt."""

import asyncio
from contextlib import asynccontextmanager
from decimal import Decimal
from time import monotonic

import pytest

from shared.errors import Fault, ProviderError
from shared.money.price_table import PriceTable
from shared.money.prices import PricedModel
from shared.money.usage import Usage
from shared.turn.events import EventType
from shared.turn.turns import FinishReason, Role, StopReason
from tests.unit.worker.turn.playing import Ahead, Playing, Tape
from worker.providers.provider import (
    ContentDelta,
    Finish,
    MessageStart,
    Prompt,
    ReasoningDelta,
    RunningUsage,
    text_message,
)
from worker.turn.allowance import Allowance
from worker.turn.ceiling import Ceiling
from worker.turn.consumption import Consumption
from worker.turn.draft import Draft
from worker.turn.round import Abandoned, Broken, CutOff, Limits, Round, Whole

PROMPT = Prompt((text_message(Role.USER, "x" * 40),), None, 100)
FINISH = Finish(FinishReason.STOP, Usage(input_tokens=3, output_tokens=2))
WHOLE = [MessageStart(), ContentDelta("ok"), FINISH]
BUSY = ProviderError(Fault.PROVIDER_OVERLOADED, "busy", retry_after_ms=500)
PAID_TOKENS = 20
# By hand: the prompt's bytes and what is around them as an hour's cache write at $6 a million, the answer at $15.
HOLD_USD = (Decimal(40 + 8 + 128) * 6 + PAID_TOKENS * 15) / 1_000_000


class Leave:
    """A permit that remembers its verdict."""

    def __init__(self):
        self.told = []

    def answer(self):
        self.told.append("answers")

    def succeed(self):
        self.told.append("succeeded")

    def fail(self, fault, *, is_passing):
        self.told.append((fault, is_passing))

    def let_go(self):
        self.told.append("over")


class Asking:
    """What an attempt keeps between its rounds."""

    def __init__(self, *, prefix="", hold_usd=None, seconds_left=60.0):
        self.tape, self.consumption, self.leave = Tape(), Consumption(), Leave()
        self.draft = Draft(self.tape, self.consumption, "message-id", prefix=prefix)
        model = PricedModel("scripted", "m", PriceTable("nowhere"), None)
        self.ceiling = Ceiling(None if hold_usd is None else Allowance(model, hold_usd, 10_000))
        self.limits = Limits(self.ceiling, monotonic() + seconds_left)

    def round(self, provider):
        prompt = self.ceiling.limited(PROMPT, self.consumption, provider.capabilities)
        return Round(provider, prompt, self.leave, self.draft, self.tape, self.consumption, self.limits)


def ask(provider_of, during=None, **options):
    """Run one round; `during(round, asking, provider)` is awaited beside it."""

    async def both():
        asking, provider = Asking(**options), provider_of()
        one = asking.round(provider)
        beside = asyncio.create_task(during(one, asking, provider)) if during else None
        result = await asyncio.wait_for(one.run(), 60)
        if beside is not None:
            await beside
        return asking, provider, result

    with asyncio.Runner(loop_factory=Ahead) as runner:
        return runner.run(both())


def when(condition, *orders):
    """Give orders to a round as soon as `condition(asking, provider)` is true."""

    async def during(one, asking, provider):
        while not condition(asking, provider):  # noqa: ASYNC110
            await asyncio.sleep(0)
        for order in orders:
            order(one)

    return during


def stop(one):
    one.stop(StopReason.USER)


def has_text(asking, _):
    return bool(asking.consumption.deltas)


def test_a_whole_answer_is_shown_and_its_end_is_left_to_the_attempt():
    asking, provider, result = ask(
        lambda: Playing([MessageStart(), ReasoningDelta("hm")], [ContentDelta("ok"), FINISH])
    )
    assert result == Whole(FINISH)
    assert asking.tape.told == [
        (EventType.MESSAGE_START, {"message_id": "message-id"}),
        ("reasoning", "hm"),
        ("content", "ok"),
    ]
    assert asking.leave.told == ["answers", "succeeded", "over"]
    assert provider.closed == 1


PHASES = {
    "connecting": (lambda: Playing(connects=asyncio.Event()), lambda _, provider: provider.opened.is_set()),
    "silent": (lambda: Playing(asyncio.Event()), lambda asking, _: asking.consumption.called),
    "mid-stream": (lambda: Playing([MessageStart(), ContentDelta("kept")], asyncio.Event()), has_text),
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (stop, CutOff(StopReason.USER)),
        (Round.hand_back, Abandoned()),
        (Round.fence, Abandoned()),
    ],
)
def test_ending_a_round_closes_the_upstream_connection_in_every_phase(phase, order, expected):
    make, condition = PHASES[phase]
    asking, provider, result = ask(make, when(condition, order))
    assert result == expected
    assert provider.closed == 1
    assert asking.leave.told[-1] == "over"
    assert set(asking.leave.told) <= {"answers", "over"}, "no verdict: the round was ended from here"


def test_an_answer_that_became_whole_as_it_was_stopped_is_whole():
    async def during(one, asking, provider):
        await provider.opened.wait()
        stop(one)

    _, _, result = ask(lambda: Playing(WHOLE), during)
    assert result == Whole(FINISH)


def test_an_answer_that_became_whole_as_the_lease_was_lost_is_abandoned():
    async def during(one, asking, provider):
        await provider.opened.wait()
        one.fence()

    asking, _, result = ask(lambda: Playing(WHOLE), during)
    assert result == Abandoned()
    assert asking.leave.told[-1] == "over"


def test_a_stop_that_comes_after_a_hand_back_is_obeyed():
    gate = when(has_text, Round.hand_back, stop)
    _, _, result = ask(lambda: Playing([MessageStart(), ContentDelta("a")], asyncio.Event()), gate)
    assert result == CutOff(StopReason.USER)


class Reluctant(Playing):
    """Does not close before it is told to."""

    def __init__(self, *steps):
        super().__init__(*steps)
        self.closes = asyncio.Event()

    @asynccontextmanager
    async def stream(self, prompt, *, on_sent=None):
        async with super().stream(prompt, on_sent=on_sent) as batches:
            yield batches
            await self.closes.wait()


def test_an_answer_that_passes_its_ceiling_is_cut_off_and_no_later_reason_counts():
    async def during(one, asking, provider):
        while asking.consumption.deltas <= PAID_TOKENS:  # noqa: ASYNC110
            await asyncio.sleep(0)
        stop(one)
        one.hand_back()
        provider.closes.set()

    endless = [[ContentDelta("a")]] * 500
    asking, provider, result = ask(lambda: Reluctant([MessageStart()], *endless), during, hold_usd=HOLD_USD)
    assert result == CutOff(StopReason.BUDGET)
    assert (asking.consumption.content(), provider.closed) == ("a" * (PAID_TOKENS + 1), 1)


def test_a_providers_own_count_that_passes_the_ceiling_cuts_the_answer_off():
    counted = RunningUsage(Usage(input_tokens=10, output_tokens=PAID_TOKENS + 1))
    _, provider, result = ask(lambda: Playing([MessageStart(), counted], asyncio.Event()), hold_usd=HOLD_USD)
    assert result == CutOff(StopReason.BUDGET)
    assert provider.closed == 1


def test_a_fault_is_told_with_all_that_a_retry_asks_about():
    asking, provider, result = ask(lambda: Playing([MessageStart(), ContentDelta("part")], BUSY))
    assert result == Broken(Fault.PROVIDER_OVERLOADED, "busy", 500, is_passing=True)
    assert asking.consumption.content() == "part"
    assert asking.leave.told == ["answers", (Fault.PROVIDER_OVERLOADED, True), "over"]
    assert provider.closed == 1


def test_a_refusal_is_noted_so_that_a_death_after_it_costs_nothing():
    asking, _, _ = ask(lambda: Playing(BUSY))
    assert asking.tape.calls == 1
    assert [usage for usage, _ in asking.tape.noted] == [Usage()]


def test_an_error_of_ours_says_nothing_of_itself(caplog):
    _, _, result = ask(lambda: Playing([MessageStart()], RuntimeError("secret")))
    assert (result.fault, result.is_passing) == (Fault.INTERNAL, False)
    assert "secret" not in result.detail


def test_the_deadline_ends_it_by_a_fault_of_its_own():
    async def during(one, asking, provider):
        while not has_text(asking, provider):  # noqa: ASYNC110
            await asyncio.sleep(0)
        asyncio.get_running_loop().seconds_ahead = 31.0

    asking, provider, result = ask(
        lambda: Playing([MessageStart(), ContentDelta("a")], asyncio.Event()), during, seconds_left=30.0
    )
    assert (result.fault, result.is_passing) == (Fault.TURN_TIMEOUT, False)
    assert asking.leave.told == ["answers", (Fault.TURN_TIMEOUT, False), "over"]
    assert provider.closed == 1


def test_the_rounds_of_a_turn_write_one_answer():
    async def twice():
        asking = Asking()
        results = [
            await asking.round(Playing([MessageStart(), ContentDelta(text), FINISH])).run()
            for text in ("one, ", "two")
        ]
        return asking, results

    asking, results = asyncio.run(twice())
    assert results == [Whole(FINISH)] * 2
    assert asking.consumption.content() == "one, two"
    assert [kind for kind, _ in asking.tape.told] == [EventType.MESSAGE_START, "content", "content"]


def test_a_round_that_continues_a_text_joins_it_and_announces_nothing():
    asking, _, _ = ask(
        lambda: Playing([MessageStart(), ContentDelta(" "), ContentDelta("blue.")]), prefix="The sea is "
    )
    assert asking.tape.told == [("content", "blue.")]
