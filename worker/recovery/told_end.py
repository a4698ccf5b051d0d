"""What a turn's log says of its end, when its row does not know of it.

A failover to a server that was behind takes commits back that readers were told of: `done` is in Redis, and the row
says that the turn runs or waits. Such a turn must not run again. It is settled as it was told.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec
from sqlalchemy import Connection, text

from shared.configuration.provider_settings import ProviderSettings
from shared.errors import Fault
from shared.money.usage import SHOWN_COLUMNS, ShownTokens, Usage, UsageSource
from shared.postgres import rows
from shared.postgres.database import Database
from shared.turn.turns import FinishReason, StopReason, TurnStatus
from worker.turn.moved import SettledTurn
from worker.turn.outcome import Answer, Completed, Failed, Stopped
from worker.turn.settle import Ending, Settlement, ToldEnd, lost, settle

_log = logging.getLogger("turnkeeper.sweeper")

_DONE_PREFIX: Final = b'{"type":"done"'
_EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
_E = TypeVar("_E", bound=StrEnum)


class LoggedDone(msgspec.Struct, frozen=True):
    """The fields of a `done` in a log; words are read as they stand, for a newer release may have written others."""

    seq: int
    attempt: int
    ts: datetime
    status: str
    finish_reason: str | None
    stop_reason: str | None
    usage: Mapping[str, int]
    usage_source: str | None
    cost_usd: str
    error: Mapping[str, Any] | None
    content_sha256: str


@dataclass(frozen=True, slots=True)
class Billed(ShownTokens):
    """What a turn's row has of all its attempts, each of which has a row in the ledger."""

    cost_usd: Decimal
    usage_source: str | None


_BILLED: Final = text(
    f"""
    select {rows.columns(Billed)} from turnkeeper.turns
    where organization_id = :organization_id and id = :turn_id
    """  # noqa: S608 -- the columns are ours
)


def read_billed(db: Connection, organization_id: UUID, turn_id: UUID) -> Billed:
    """Read what is billed of a turn."""
    return rows.one(Billed, db.execute(_BILLED, {"organization_id": organization_id, "turn_id": turn_id}))


def done_in(encoded: Sequence[bytes]) -> LoggedDone | None:
    """Return the end of a log, given as its events; None if it has none.

    Raises:
        msgspec.DecodeError: It is damaged.
    """
    if not encoded or not encoded[-1].startswith(_DONE_PREFIX):
        return None
    return msgspec.json.decode(encoded[-1], type=LoggedDone)


def settle_as_told(
    database: Database, provider: ProviderSettings, settlement: Settlement, done: LoggedDone, answer: Answer
) -> tuple[SettledTurn | None, Ending]:
    """Settle a turn as its readers were told; the turn is None if its claim is not lost any more.

    Args:
        database: Where it is settled.
        provider: Who answered it.
        settlement: For its row as it is.
        done: What they were told.
        answer: The text in its log.

    Raises:
        UnavailableError: PostgreSQL cannot be reached.
    """
    with database.of(settlement.organization_id) as db:
        billed = read_billed(db, settlement.organization_id, settlement.turn_id)
    ending, told = ending_as_told(done, answer.content, answer.reasoning, billed)
    last_seq = max(done.seq, settlement.last_seq)
    return settle(database, provider, replace(settlement, last_seq=last_seq, told=told), ending), ending


def ending_as_told(done: LoggedDone, content: str, reasoning: str, billed: Billed) -> tuple[Ending, ToldEnd]:
    """Return how to settle a turn as its readers were told.

    Args:
        done: What they were told.
        content: The text in the log. Where it is not the text of which `done` speaks, because the log's beginning
            is gone, the turn fails: a part is never called whole.
        reasoning: The thinking in the log.
        billed: What the ledger has of the turn.
    """
    is_dropped = done.content_sha256 == _EMPTY_SHA256
    is_whole = is_dropped or hashlib.sha256(content.encode()).hexdigest() == done.content_sha256
    answer = _answer(done, "" if is_dropped else content, reasoning, billed)
    cost = max(Decimal(0), Decimal(done.cost_usd) - billed.cost_usd)
    told = ToldEnd(done.attempt, cost, done.ts)
    if not is_whole:
        _log.error("a turn's end was told, and its text is lost")
        return lost(answer), told
    return _ending(done, answer), told


def _answer(done: LoggedDone, content: str, reasoning: str, billed: Billed) -> Answer:
    rest = {name: max(0, done.usage.get(name, 0) - getattr(billed, name)) for name in SHOWN_COLUMNS}
    rest["reasoning_tokens"] = min(rest["reasoning_tokens"], rest["output_tokens"])
    called = done.usage_source is not None and (any(rest.values()) or billed.usage_source is None)
    source = _word(UsageSource, done.usage_source, UsageSource.ESTIMATED)
    return Answer(content, reasoning, called, Usage(**rest), source)


def _ending(done: LoggedDone, answer: Answer) -> Ending:
    match done.status:
        case TurnStatus.COMPLETED:
            return Completed(answer, _word(FinishReason, done.finish_reason, FinishReason.STOP))
        case TurnStatus.STOPPED:
            return Stopped(answer, _word(StopReason, done.stop_reason, StopReason.USER))
        case TurnStatus.FAILED if done.error is not None:
            fault = _word(Fault, done.error.get("code"), Fault.WORKER_LOST)
            return Failed(answer, fault, str(done.error.get("detail", "")), done.error.get("retry_after_ms"))
        case _:
            return lost(answer)  # it expired, and was claimed once its row did not say so any more


def _word(kind: type[_E], said: str | None, otherwise: _E) -> _E:
    try:
        return otherwise if said is None else kind(said)
    except ValueError:
        return otherwise
