"""The interface through which the relay reads the database: blocking calls, made from a small pool of threads."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from api.caller import Caller
from shared.turn.replay import RowState
from shared.turn.turns import TurnStatus


@dataclass(frozen=True, slots=True)
class TurnState:
    """A turn as its row shows it.

    `content` and `reasoning` reach through `text_seq`, which is `last_seq` for a turn that is over. For such a
    turn `done` is the encoded last event, whose seq is `last_seq`.
    """

    turn_id: UUID
    session_id: UUID
    status: TurnStatus
    attempt: int
    last_seq: int
    message_id: UUID | None
    content: str
    reasoning: str
    text_seq: int
    done: bytes | None

    def row_state(self) -> RowState:
        """Return what the delivery rule needs of the turn."""
        return RowState(
            status=self.status.value,
            attempt=self.attempt,
            last_seq=self.last_seq,
            text_seq=self.text_seq,
            message_id=None if self.message_id is None else str(self.message_id),
            content=self.content,
            reasoning=self.reasoning,
            done=self.done,
        )


class StreamStore(Protocol):
    """Reads of the database, each bounded by its statement timeout.

    All of them answer as if data outside the caller's scope, or its ticket's, did not exist (I9). All raise
    `UnavailableError` if the database does not answer.
    """

    def session_is_visible(self, caller: Caller, session_id: UUID) -> bool:
        """Return whether the caller may read the session."""
        ...

    def active_turn(self, caller: Caller, session_id: UUID) -> UUID | None:
        """Return the oldest turn of the session that is not over."""
        ...

    def newest_turn(self, caller: Caller, session_id: UUID) -> UUID | None:
        """Return the turn of the session that was accepted last, whatever its status."""
        ...

    def turns_since(self, caller: Caller, session_id: UUID, known: UUID | None) -> Sequence[UUID]:
        """Return the turns accepted after `known`, oldest first, at most 20; with None from the first.

        Used after a broken subscription, for the turns that began meanwhile; they may be over already.
        """
        ...

    def turn(self, caller: Caller, turn_id: UUID) -> TurnState | None:
        """Return a turn; None if it does not exist or is not this caller's."""
        ...

    def turns_ahead(self, seen: Mapping[UUID, int]) -> Collection[UUID]:
        """Return which turns are over, have text past the number that their readers have, or do not exist.

        Called for all silent turns of a process at once; a turn found is then read as one of its readers.
        """
        ...

    def missing_sessions(self, sessions: Mapping[UUID, UUID]) -> Collection[UUID]:
        """Return which of these sessions, each with its organization, do not exist, for all readers."""
        ...

    def request_stop(self, caller: Caller, turn_id: UUID) -> bool:
        """Stop a turn; False if it is not found."""
        ...

    def caller_is_valid(self, caller: Caller) -> bool:
        """Return whether the key is neither revoked nor expired."""
        ...
