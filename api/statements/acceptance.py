"""What accepting a turn takes and gives: the request, the rules, and the two outcomes that are no refusal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from api.multitask import MultitaskStrategy
from api.statements.turns import ShownTurn, StoppedTurn
from shared.money.prices import Priced
from shared.turn.turns import Recovery


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """A valid request for a turn, with every default filled in.

    Args:
        content: The user's text, as written.
        max_output_tokens: Most tokens of the answer.
        deadline_seconds: Longest run, in seconds.
        strategy: What to do if a turn of the session is queued or running.
        recovery: What happens if an attempt dies after text was shown.
        metadata: The client's own data.
        traceparent: W3C trace context; empty for none.
        key: The Idempotency-Key; None for none.
        fingerprint: What the key stands for: caller, session and body.
    """

    session_id: UUID
    content: str
    max_output_tokens: int
    deadline_seconds: float
    strategy: MultitaskStrategy
    recovery: Recovery
    metadata: Mapping[str, Any]
    traceparent: str
    request_id: str
    key: str | None
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class AcceptRules:
    """The rules by which a turn is accepted.

    Args:
        session_idle: How long a session may be idle.
        session_age: How long a session may exist.
        idempotency: How long a key is remembered.
        priced: The model from whose price the hold is computed.
        context_tokens: The length to which prompts are cut.
        max_concurrent_turns: An organization's turns at once, if it has no limit of its own; None for no limit.
        most_queued: How many turns may be queued, of all organizations together.
    """

    session_idle: timedelta
    session_age: timedelta
    idempotency: timedelta
    priced: Priced
    context_tokens: int
    max_concurrent_turns: int | None
    most_queued: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """A new turn, and the turns that it ended."""

    row: ShownTurn
    superseded: Sequence[StoppedTurn] = ()


@dataclass(frozen=True, slots=True)
class Expired:
    """The session was found to be over its limits. It is now `expired`, which must be committed."""
