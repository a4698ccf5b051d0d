"""A question that the provider refused is shown and is part of no later prompt, so that it cannot fail what follows."""

import json
from dataclasses import replace
from decimal import Decimal
from uuid import UUID

import pytest

from shared.errors import Fault
from shared.ids import new_id
from shared.money.usage import Usage, UsageSource
from shared.turn.turns import FinishReason, StopReason
from turnkeeper.commands.export import export_user
from worker.recovery.left_behind import read_left_behind
from worker.turn.claim import claim_turn
from worker.turn.outcome import NOTHING, Answer, Completed, Failed, Stopped
from worker.turn.prompt import build_prompt
from worker.turn.settle import Settlement, lost, settle

# By hand, not from the table that the service derives its statements from.
REFUSALS = {"provider_rejected", "context_too_long", "tool_call_unsupported", "tool_use_in_history"}
ANSWER = Answer("fine", "", called=True, usage=Usage(3, 0, 0, 7, 0), usage_source=UsageSource.PROVIDER)
GOOD = Completed(ANSWER, FinishReason.STOP)


def refused(fault=Fault.PROVIDER_REJECTED, text=""):
    return Failed(replace(NOTHING, content=text, called=True), fault, "the model provider rejected it")


class Talk:
    """A session whose turns are posted as a user would and end as the test says."""

    def __init__(self, api, key, database, settings, organization):
        self.api, self.key, self.database, self.settings = api, key, database, settings
        self.organization = organization
        self.session = api.session(key)

    def claim(self, content, context_tokens=10_000):
        turn = UUID(self.api.turn(self.key, self.session, content))
        return claim_turn(self.database, turn, new_id(), lease_seconds=600, context_tokens=context_tokens)

    def ask(self, content, ending):
        """Run a turn; return the texts of the prompt that its worker sends."""
        claim = self.claim(content)
        wanted = Settlement(claim.organization_id, claim.turn_id, claim.attempt, last_seq=9)
        assert settle(self.database, self.settings.provider, wanted, ending) is not None
        return texts(claim)

    def messages(self):
        return self.api.get(f"/v1/sessions/{self.session}/messages", self.key).json["data"]


def texts(claim):
    prompt, _ = build_prompt(claim.history, system=None, max_output_tokens=100, context_tokens=10_000)
    return [message.content for message in prompt.messages]


@pytest.fixture
def talk(api, keys, database, settings, organization):
    return Talk(api, keys.alice, database, settings, organization)


@pytest.mark.parametrize("fault", Fault)
def test_only_what_was_refused_is_left_out_with_its_partial_answer_and_says_so(talk, fault):
    talk.ask("first", GOOD)
    talk.ask("poison", refused(fault, "half an ans"))
    asked = talk.ask("Hi", GOOD)
    is_refused = fault in REFUSALS
    expected = ["first", "fine", "Hi"] if is_refused else ["first", "fine", "poison", "half an ans", "Hi"]
    assert asked == expected
    shown = [(each["content"], each["in_conversation"]) for each in talk.messages()]
    assert shown == [
        ("first", True),
        ("fine", True),
        ("poison", not is_refused),
        ("half an ans", not is_refused),
        ("Hi", True),
        ("fine", True),
    ]


def test_a_question_that_nobody_refused_is_joined_with_the_next(talk):
    talk.ask("stopped early", Stopped(NOTHING, StopReason.USER))
    talk.ask("its worker died", lost(NOTHING))
    talk.ask("no key", refused(Fault.PROVIDER_AUTH))
    assert talk.ask("Hi", GOOD) == ["stopped early\n\nits worker died\n\nno key\n\nHi"]


def test_after_any_number_of_refusals_the_next_question_goes_alone(talk):
    for _ in range(4):
        assert talk.ask("poison", refused()) == ["poison"]
    assert talk.ask("poison", refused(Fault.CONTEXT_TOO_LONG)) == ["poison"]
    assert talk.ask("Hi", GOOD) == ["Hi"]
    assert talk.ask("and now?", GOOD) == ["Hi", "fine", "and now?"]


def test_a_question_that_is_refused_may_be_asked_again_in_the_same_words(talk):
    talk.ask("poison", refused())
    assert talk.ask("poison", GOOD) == ["poison"]
    assert talk.ask("Hi", GOOD) == ["poison", "fine", "Hi"]


def test_a_session_that_died_of_a_refusal_in_an_earlier_release_comes_to_life(talk, as_owner):
    talk.ask("poison", GOOD)
    # As a worker of the release before has stored it: it knows nothing but the error.
    error = {
        "type": "urn:turnkeeper:error:provider_rejected",
        "code": "provider_rejected",
        "title": "",
        "detail": "",
    }
    as_owner(
        "update turnkeeper.turns set error = cast(:error as jsonb), status = :failed, finish_reason = null",
        error=json.dumps(error),
        failed="failed",
    )
    assert talk.ask("Hi", GOOD) == ["Hi"]
    assert [each["in_conversation"] for each in talk.messages()] == [False, False, True, True]


def test_what_is_left_out_takes_no_room_from_what_is_not(talk):
    talk.ask("first", GOOD)
    talk.ask("x" * 20_000, refused(Fault.CONTEXT_TOO_LONG))
    claim = talk.claim("Hi", context_tokens=1000)  # of which 16,000 bytes are read
    assert [message.content for message in claim.history] == ["first", "fine", "Hi"]
    assert (claim.dropped_turns, claim.turn.all_messages, claim.turn.unread_tokens) == (0, 3, 0)


def test_of_a_history_that_is_too_long_to_read_the_rest_is_measured(talk):
    talk.ask("a" * 9_001, GOOD)
    talk.ask("b" * 17_000, GOOD)
    claim = talk.claim("Hi", context_tokens=1000)
    assert [message.content[:1] for message in claim.history] == ["b", "f", "H"]
    assert (claim.dropped_turns, claim.turn.all_messages) == (1, 5)
    # 9,001 bytes and an answer of one token, and what a template adds to each.
    assert claim.unread_tokens == 2251 + 1 + 2 * 4


def test_a_refused_question_is_not_held_for_in_later_turns(talk, as_owner):
    as_owner("update turnkeeper.organizations set daily_usd = 100")
    claim = talk.claim("Hi")
    (first,) = as_owner("select amount_usd from turnkeeper.holds")
    wanted = Settlement(claim.organization_id, claim.turn_id, claim.attempt, last_seq=9)
    settle(talk.database, talk.settings.provider, wanted, refused())
    talk.ask("x" * 20_000, refused(Fault.CONTEXT_TOO_LONG))
    talk.claim("Hi")
    (again,) = as_owner("select amount_usd from turnkeeper.holds")
    assert first.amount_usd == again.amount_usd > Decimal(0)


def test_a_dead_workers_prompt_is_estimated_without_what_was_refused(talk):
    talk.ask("x" * 20_000, refused(Fault.CONTEXT_TOO_LONG))
    claim = talk.claim("Hi")
    with talk.database.of(talk.organization) as db:
        assert read_left_behind(db, talk.organization, claim.turn_id).prompt_bytes == 2


def test_an_export_says_what_was_part_of_the_conversation(talk):
    talk.ask("poison", refused(text="half"))
    talk.ask("Hi", GOOD)
    (session,) = (json.loads(line) for line in export_user(talk.database, talk.organization, "alice"))
    shown = [(each["content"], each["in_conversation"]) for each in session["messages"]]
    assert shown == [("poison", False), ("half", False), ("Hi", True), ("fine", True)]
