"""What the relay reads from the database."""

from dataclasses import replace
from uuid import UUID

import pytest

from shared.turn.turns import TurnStatus


@pytest.fixture
def caller(api, keys):
    return api.services.authenticator.of_key(keys.alice)


@pytest.fixture
def store(api):
    return api.services.store


@pytest.fixture
def turn(api, keys):
    session = api.session(keys.alice)
    return UUID(session), UUID(api.turn(keys.alice, session))


def test_a_queued_turn_knows_no_text_so_its_first_events_are_waited_for_and_not_skipped(store, caller, turn):
    state = store.turn(caller, turn[1])
    assert (state.status, state.attempt, state.last_seq, state.text_seq) == (TurnStatus.QUEUED, 0, 2, 0)
    assert (state.content, state.reasoning, state.message_id, state.done) == ("", "", None, None)
    assert store.active_turn(caller, turn[0]) == turn[1]


def test_a_running_turn_has_its_checkpoints_text(store, caller, turn, as_owner):
    as_owner("update turnkeeper.turns set status = 'running', attempt = 1")
    as_owner(
        "insert into turnkeeper.checkpoints (organization_id, turn_id, attempt, seq, called, content, reasoning)"
        " select organization_id, id, 1, 7, true, 'Half', 'hm' from turnkeeper.turns"
    )
    state = store.turn(caller, turn[1])
    assert (state.content, state.reasoning, state.text_seq, state.last_seq) == ("Half", "hm", 7, 7)
    assert state.message_id is not None
    assert state.done is None


def test_a_turn_that_is_over_has_its_end(store, caller, turn):
    assert store.request_stop(caller, turn[1])
    state = store.turn(caller, turn[1])
    assert state.status is TurnStatus.STOPPED
    assert (state.last_seq, state.text_seq) == (4, 4)
    assert b'"type":"done"' in state.done
    assert store.active_turn(caller, turn[0]) is None


def test_of_silent_turns_those_are_named_that_have_more_than_their_readers(
    api, keys, store, caller, turn, as_owner, missing_id
):
    waiting = turn[1]
    written = UUID(api.turn(keys.alice, api.session(keys.alice)))
    as_owner(
        "insert into turnkeeper.checkpoints (organization_id, turn_id, attempt, seq, called, content, reasoning)"
        f" select organization_id, id, 1, 7, true, 'Half', '' from turnkeeper.turns where id = '{written}'"
    )
    seen = {waiting: 2, written: 7, UUID(missing_id): 0}
    missing = UUID(missing_id)
    assert store.turns_ahead(seen) == {missing}  # its row was lost: whoever reads it is told
    assert store.turns_ahead({**seen, written: 6}) == {written, missing}
    assert store.request_stop(caller, waiting)
    assert store.turns_ahead(seen) == {waiting, missing}


def test_a_session_that_was_lost_is_told_from_one_that_is_there(store, caller, turn, missing_id):
    organization, missing = caller.organization_id, UUID(missing_id)
    assert store.missing_sessions({turn[0]: organization, missing: organization}) == {missing}
    assert store.missing_sessions({}) == set()


def test_the_turns_after_a_known_one_are_named_oldest_first(api, keys, store, caller, turn):
    made = [turn[1]]
    for _ in range(2):
        store.request_stop(caller, made[-1])
        made.append(UUID(api.turn(keys.alice, str(turn[0]))))
    assert list(store.turns_since(caller, turn[0], made[0])) == made[1:]
    assert list(store.turns_since(caller, turn[0], None)) == made
    assert store.newest_turn(caller, turn[0]) == made[-1]


def test_a_stranger_and_a_ticket_for_another_session_see_nothing(
    api, keys, strangers, store, caller, turn, missing_id
):
    elsewhere = replace(caller, session_id=UUID(missing_id))
    for other in (
        elsewhere,
        api.services.authenticator.of_key(keys.bob),
        api.services.authenticator.of_key(strangers.admin),
    ):
        assert not store.session_is_visible(other, turn[0])
        assert store.active_turn(other, turn[0]) is None
        assert store.newest_turn(other, turn[0]) is None
        assert list(store.turns_since(other, turn[0], None)) == []
        assert store.turn(other, turn[1]) is None
        assert not store.request_stop(other, turn[1])
    assert store.turn(caller, turn[1]).status is TurnStatus.QUEUED
    assert store.session_is_visible(replace(caller, session_id=turn[0]), turn[0])


def test_a_caller_is_valid_until_its_key_is_revoked(store, caller, as_owner):
    assert store.caller_is_valid(caller)
    as_owner("update turnkeeper.api_keys set revoked_at = now()")
    assert not store.caller_is_valid(caller)
