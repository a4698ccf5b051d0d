"""Turns database rows into the JSON resources of the API."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import TypeVar
from uuid import UUID

from api import models
from api.caller import Caller
from api.choice import names_of, provider_of
from api.money_models import LedgerKind, LedgerRow
from api.statements.keys import ShownKey
from api.statements.ledger import LedgerEntry
from api.statements.messages import ShownMessage
from api.statements.sessions import FoundSession, ShownSession
from api.statements.turns import ShownTurn
from shared.configuration.settings import Settings
from shared.money.money import format_usd
from shared.money.usage import UsageSource
from shared.postgres.accounts import KeyRole
from shared.turn.events import timestamp
from shared.turn.events_of_turn import usage_of
from shared.turn.rows import CountedRow
from shared.turn.turns import FinishReason, MessageStatus, Role, SessionStatus, StopReason, TurnStatus

R = TypeVar("R")
E = TypeVar("E", bound=StrEnum)

_EXCERPT_CHARACTERS = 160
_ELLIPSIS = "…"


def session(row: ShownSession, settings: Settings) -> models.Session:
    """Show a session; provider and model are those on which a turn runs."""
    provider = provider_of(settings, None)
    return models.Session(
        id=str(row.id),
        user=row.user_name,
        title=row.title,
        status=SessionStatus(row.status),
        provider=provider.name.value,
        model=provider.model,
        system_prompt=row.system_prompt,
        max_turns=row.max_turns,
        turn_count=row.turn_count,
        usage=usage(row),
        cost_usd=format_usd(row.cost_usd),
        active_turn_id=_id(row.active_turn_id),
        flagged=row.flagged,
        metadata=row.metadata,
        created_at=timestamp(row.created_at),
        last_activity_at=timestamp(row.last_activity_at),
    )


def found_session(row: FoundSession, settings: Settings, query: str) -> models.FoundSession:
    """Show a session that a search for `query` found."""
    text = row.message_excerpt if row.message_excerpt is not None else row.title or ""
    return models.FoundSession(**dict(session(row, settings)), matched=excerpt(text, query))


def message(row: ShownMessage) -> models.Message:
    """Show a message; a user's has no usage."""
    return models.Message(
        id=str(row.id),
        session_id=str(row.session_id),
        turn_id=str(row.turn_id),
        position=row.position,
        role=Role(row.role),
        content=row.content,
        status=MessageStatus(row.status),
        finish_reason=one_of(FinishReason, row.finish_reason),
        usage=None if row.output_tokens is None else usage(row),
        created_at=timestamp(row.created_at),
        in_conversation=row.in_conversation,
    )


def turn(row: ShownTurn, settings: Settings, caller: Caller) -> models.Turn:
    """Show a turn; before it starts, provider and model are those on which it would run.

    What the provider said is for admins alone: it may name the operator's account, and limits that are nobody else's.
    """
    provider, model = names_of(settings, row)
    path = turn_path(row.id)
    session_path = f"/v1/sessions/{row.session_id}"
    return models.Turn(
        id=str(row.id),
        session_id=str(row.session_id),
        status=TurnStatus(row.status),
        attempt=row.attempt,
        provider=provider,
        model=model,
        message_id=_id(row.message_id),
        user_message_id=str(row.user_message_id),
        finish_reason=one_of(FinishReason, row.finish_reason),
        stop_reason=one_of(StopReason, row.stop_reason),
        usage=usage(row),
        cost_usd=format_usd(row.cost_usd),
        usage_source=one_of(UsageSource, row.usage_source),
        error=row.error,
        provider_error=row.provider_error if caller.role == KeyRole.ADMIN else None,
        last_seq=row.last_seq,
        history_trimmed=row.history_trimmed,
        queued_at=timestamp(row.queued_at),
        started_at=time_or_none(row.started_at),
        first_token_at=time_or_none(row.first_token_at),
        stop_requested_at=time_or_none(row.stop_requested_at),
        stop_observed_at=time_or_none(row.stop_observed_at),
        finished_at=time_or_none(row.finished_at),
        metadata=row.metadata,
        links=models.TurnLinks(
            self=path,
            events=f"{path}/events",
            stop=f"{path}/stop",
            session=session_path,
            messages=f"{session_path}/messages",
        ),
    )


def turn_path(turn_id: UUID) -> str:
    """Return a turn's URL path."""
    return f"/v1/turns/{turn_id}"


def key(row: ShownKey) -> models.Key:
    """Show a key, without its secret."""
    return models.Key(
        id=str(row.id),
        role=KeyRole(row.role),
        user=row.user_name,
        name=row.name,
        prefix=row.prefix,
        created_at=timestamp(row.created_at),
        expires_at=time_or_none(row.expires_at),
        revoked_at=time_or_none(row.revoked_at),
        last_used_at=time_or_none(row.last_used_at),
    )


def ledger_row(row: LedgerEntry) -> LedgerRow:
    """Show what an attempt cost."""
    return LedgerRow(
        id=str(row.id),
        turn_id=str(row.turn_id),
        session_id=str(row.session_id),
        user=row.user_name,
        attempt=row.attempt,
        provider=row.provider,
        model=row.model,
        usage=usage(row),
        usage_source=UsageSource(row.usage_source),
        price=row.price,
        cost_usd=format_usd(row.cost_usd),
        day=row.day.isoformat(),
        created_at=timestamp(row.created_at),
        reported=row.reported,
        kind=LedgerKind.CORRECTION if row.is_correction() else LedgerKind.USAGE,
        corrects=None if row.corrects is None else str(row.corrects),
        reason=row.reason,
        corrected_by=row.corrected_by,
        corrected_at=None if row.corrected_at is None else timestamp(row.corrected_at),
    )


def excerpt(text: str, query: str) -> str:
    """Return some 160 characters of `text` around its first `query`, in any case."""
    words = " ".join(text.split())
    found = max(0, words.lower().find(" ".join(query.split()).lower()))
    begin = max(0, min(found - (_EXCERPT_CHARACTERS - len(query)) // 2, len(words) - _EXCERPT_CHARACTERS))
    end = begin + max(_EXCERPT_CHARACTERS, len(query))
    return (
        (_ELLIPSIS if begin > 0 else "") + words[begin:end].strip() + (_ELLIPSIS if end < len(words) else "")
    )


def page(rows: Sequence[R], limit: int) -> tuple[Sequence[R], R | None]:
    """Split `limit + 1` rows into a page and, if another follows, the row with which the page ends."""
    shown = rows[:limit]
    return shown, shown[-1] if len(rows) > limit else None


def usage(row: CountedRow) -> models.UsageCounts:
    """Show tokens by class."""
    return models.UsageCounts(**usage_of(row).as_dict())


def one_of(names: type[E], value: str | None) -> E | None:
    """Return the enum's member for a column's value; None if it is null."""
    return None if value is None else names(value)


def time_or_none(moment: datetime | None) -> str | None:
    """Return a time in the API's format; None if it is null."""
    return None if moment is None else timestamp(moment)


def _id(value: UUID | None) -> str | None:
    return None if value is None else str(value)
