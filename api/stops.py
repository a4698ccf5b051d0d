"""Stops a turn: writes the row first, then notifies its worker and its readers.

The API's stop, a closing session, a newer turn and a websocket's `stop` all use this, so that none forgets a
step.
"""

from uuid import UUID

from api.caller import Caller
from api.notices import Ended, Notices, Nudge
from api.statements import turns
from api.statements.turns import StoppedTurn
from shared.postgres.database import Database
from shared.turn.events_of_turn import accept_events, queued_stop_events
from shared.turn.turns import StopReason, TurnStatus


def stop(
    database: Database, notices: Notices, caller: Caller, turn_id: UUID, reason: StopReason
) -> StoppedTurn | None:
    """Stop a turn; repeating it changes nothing. If its session is closing, end all turns behind it too.

    Returns:
        The turn as it is now; None if the caller sees no such turn.

    Raises:
        UnavailableError: PostgreSQL cannot be reached.
    """
    with database.of(caller.organization_id) as db:
        found = turns.find_turn(db, caller, turn_id) if reason is StopReason.SESSION_CLOSED else None
        of_session = [] if found is None else turns.stop_session(db, caller, found.session_id, reason)
        named = [turn for turn in of_session if turn.row.id == turn_id]
        stopped = named[0] if named else turns.stop_turn(db, caller, turn_id, reason)
    for turn in of_session:
        tell_stop(notices, turn)
    if stopped is not None and not named:
        tell_stop(notices, stopped)
    return stopped


def tell_stop(notices: Notices, stopped: StoppedTurn) -> None:
    """Announce a committed stop: to the worker of a running turn, or to the readers of a waiting one."""
    row = stopped.row
    if row.status == TurnStatus.STOPPING:
        assert row.stop_reason is not None, "a turn that is asked to stop says why"
        # Even if it was asked before: the stop may be repeated because the first nudge was lost.
        notices.put(Nudge(row.session_id, row.id, row.stop_reason))
    elif stopped.is_new:
        notices.put(
            Ended(
                row.session_id,
                row.id,
                row.attempt,
                accept_events(row),
                row.last_seq - 1,
                queued_stop_events(row, stopped.content),
                stopped.next_turn,
                row,
                stopped.traceparent,
            )
        )
