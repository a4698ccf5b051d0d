"""From a claim to a running attempt, step by step."""

import asyncio
from dataclasses import replace
from time import monotonic

import pytest

from shared.errors import Fault
from shared.turn.events import MessageReset, TurnStarted
from shared.turn.parts import parts_of
from shared.turn.turns import Role
from tests.unit.worker.claimed import AGAIN, FIRST, TRUST_SECONDS, Tape, World, services
from worker.opening import FoundLog, Opener, Question, has_void_text, question_of
from worker.providers.context import ContextMemory
from worker.providers.provider import Capabilities, Prompt, PromptMessage
from worker.publishing.publisher import LastEntry
from worker.traces import Untraced
from worker.turn.claim import Claim
from worker.turn.prompt import StoredMessage
from worker.turn.retry import Retries, RetryBudget

QUESTION = StoredMessage(1, "user", parts_of("question"))
PROMPT = Prompt((PromptMessage(Role.USER, "question"),), None, 100)
CONTINUING = Capabilities(continuation=True)
RESET = MessageReset(Fault.WORKER_LOST)
STARTED = TurnStarted("scripted", "m")


def opener(world):
    retries = Retries(lambda: 0.0, RetryBudget(lambda: 0.0))
    return Opener(services(world), retries)


def chosen(turn, *, continuation=False):
    return services(World(), continuation=continuation).choices.choose(turn)


def begun(world, turn, log, *, continuation=False):
    choice = chosen(turn, continuation=continuation)
    return opener(world).begin(turn, choice, Question(PROMPT), log, lambda: None)


def test_what_is_asked_is_the_history_and_says_how_much_of_it_was_left_out():
    earlier = StoredMessage(1, "user", parts_of("x" * 8000))
    claim = Claim(FIRST, [earlier, replace(QUESTION, turn_number=2)], dropped_turns=3)
    question = question_of(claim, Capabilities(), 1000, "00-trace", ContextMemory())
    assert question.refused is None
    assert [message.content for message in question.prompt.messages] == ["question"]
    assert (question.trimmed, question.prompt.traceparent) == (4, "00-trace")


@pytest.mark.parametrize(("capabilities", "shown"), [(CONTINUING, "half"), (Capabilities(), "")])
def test_a_history_that_cannot_be_sent_ends_the_turn_with_the_text_that_readers_keep(capabilities, shown):
    tools = [StoredMessage(1, "tool", parts_of("result")), QUESTION]
    claim = Claim(replace(AGAIN, kept_text="half"), tools, dropped_turns=0)
    question = question_of(claim, capabilities, 1000, None, ContextMemory())
    assert question.prompt.messages == ()
    assert question.refused.fault is Fault.TOOL_USE_IN_HISTORY
    assert (question.refused.answer.content, question.refused.answer.called) == (shown, False)


def test_the_first_attempt_begins_the_log_and_a_later_one_shuts_the_earlier_out_before_it_looks():
    world = World(7, stands=True)
    assert asyncio.run(opener(world).find_log(FIRST)) == FoundLog(7, stands=False)
    assert world.done == [("opened with", 1)]
    world.done.clear()
    assert asyncio.run(opener(world).find_log(AGAIN)) == FoundLog(7, stands=True)
    assert world.done == [("shut out before", 2), ("opened with", 1)]  # I3


@pytest.mark.parametrize(
    ("in_log", "in_row", "checkpoint", "last"), [(9, 5, None, 9), (3, 5, None, 5), (0, 5, 8, 8), (9, 5, 8, 9)]
)
def test_an_attempt_numbers_on_from_whatever_readers_may_have(in_log, in_row, checkpoint, last):
    world = World()
    turn = replace(AGAIN, last_seq=in_row, checkpoint_seq=checkpoint)
    assert begun(world, turn, FoundLog(in_log, stands=False)).channel is world.tapes[0]
    assert world.tapes[0].seq == last  # I4


@pytest.mark.parametrize(
    ("continuation", "in_log", "goes_on_from"),
    [(True, 8, ("half", True)), (True, 0, ("half", False)), (True, 9, ("half", False)), (False, 8, None)],
)
def test_a_text_is_gone_on_with_where_the_log_ends_and_begun_again_in_a_lost_one(
    continuation, in_log, goes_on_from
):
    world = World()
    turn = replace(AGAIN, checkpoint_seq=8, kept_text="half")
    begun(world, turn, FoundLog(in_log, stands=False), continuation=continuation)
    assert world.tapes[0].goes_on_from == goes_on_from


def test_a_channel_that_a_newer_attempt_has_shut_out_fences_its_attempt():
    world = World()
    attempt = begun(world, FIRST, FoundLog(1, stands=False))
    world.fence()
    assert attempt.is_fenced
    assert world.tapes[0].state == "fenced"  # I3


def test_a_lease_is_held_before_stops_are_looked_for():
    world = World()
    attempt = begun(world, FIRST, FoundLog(1, stands=False))
    world.done.clear()
    opener(world).hold(FIRST, attempt, monotonic())
    assert world.done == [("held", "running"), ("looked for stops of", 1)]
    assert not attempt.is_fenced


def test_a_process_that_slept_since_it_asked_for_the_claim_fences_what_it_holds():
    world = World()
    attempt = begun(world, FIRST, FoundLog(1, stands=False))
    world.done.clear()
    opener(world).hold(FIRST, attempt, monotonic() - TRUST_SECONDS - 1)
    assert world.done == [("held", "running"), ("looked for stops of", 1)]
    assert attempt.is_fenced  # I3


@pytest.mark.parametrize(
    ("changes", "in_log", "stands", "is_void"),
    [
        ({"attempt": 1}, 0, False, False),  # Redis is down and nothing was shown
        ({"attempt": 2}, 5, False, False),
        ({"attempt": 2}, 4, False, True),  # the reset was lost
        ({"attempt": 2}, 5, True, True),  # told late by a dead worker
        ({"attempt": 2, "kept_text": "half"}, 5, False, True),
        ({"attempt": 2, "kept_text": ""}, 5, False, False),
    ],
)
def test_text_that_readers_may_have_of_an_earlier_attempt_is_void(changes, in_log, stands, is_void):
    assert has_void_text(replace(AGAIN, **changes), FoundLog(in_log, stands=stands)) is is_void  # I5


@pytest.mark.parametrize(("continuation", "told"), [(True, [STARTED]), (False, [RESET, STARTED])])
def test_a_kept_text_is_declared_void_before_the_attempt_begins_unless_it_is_continued(continuation, told):
    world = World()
    turn, log = replace(AGAIN, kept_text="half"), FoundLog(5, stands=False)
    attempt = begun(world, turn, log, continuation=continuation)
    opener(world).announce(turn, chosen(turn, continuation=continuation), log, attempt)
    assert world.tapes[0].told == told  # I5


def test_a_turn_is_opened_in_the_order_that_its_lease_and_its_readers_need():
    world = World(5, stands=True)
    attempt = asyncio.run(
        opener(world).open(AGAIN, chosen(AGAIN), Question(PROMPT), monotonic(), Untraced(None))
    )
    assert world.done == [
        ("shut out before", 2),
        ("opened with", 1),
        ("numbers after", 5),
        ("held", "running"),
        ("looked for stops of", 1),
    ]
    assert isinstance(attempt.channel, Tape)
    assert attempt.channel.told == [RESET, STARTED]  # I3, I5


@pytest.mark.parametrize(
    ("last", "ahead"),
    [
        (LastEntry(1, 5, is_done=False), False),  # of the attempt before
        (LastEntry(1, 9, is_done=False), False),  # published late by a dead worker
        (LastEntry(2, 5, is_done=False), False),  # the sweeper's reset
        (LastEntry(2, 6, is_done=False), True),  # of an attempt with our number that the row has forgotten
        (LastEntry(3, 4, is_done=False), True),
        (LastEntry(1, 5, is_done=True), True),
    ],
)
def test_a_log_that_knows_of_what_its_row_never_did_is_ahead(last, ahead):
    world = World(last.seq)
    world.last_entry_of_log = last
    assert asyncio.run(opener(world).find_log(AGAIN)).is_ahead is ahead


def test_nothing_begins_where_the_log_is_ahead():
    world = World(9)
    world.last_entry_of_log = LastEntry(1, 9, is_done=True)
    opening = opener(world).open(FIRST, chosen(FIRST), PROMPT, monotonic(), Untraced(""))
    assert asyncio.run(opening) is None
    assert not any(done[0] in {"held", "numbers after"} for done in world.done)


def test_the_first_attempt_of_a_turn_asks_for_no_last_entry():
    world = World(FIRST.last_seq)
    world.last_entry_of_log = LastEntry(9, 9, is_done=True)
    assert asyncio.run(opener(world).find_log(FIRST)).is_ahead is False
