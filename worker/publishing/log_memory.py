"""Keeps the running logs of a process within their share of Redis's memory.

About once a second the publisher reports what its running logs hold, by organization, and learns what those of all
workers do and how much room Redis has. A log of an organization over its share is cut short from then on: its events
are published as ever, but only the newest stay in the log, and whoever needs older ones gets a snapshot (I4). So a turn
never fails for lack of memory. Everything here belongs to the loop's thread.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Protocol
from uuid import UUID

from shared.ids import new_id
from shared.redis.log_scripts import sha_of
from shared.redis.memory import LogShares, Memory, memory_in
from shared.redis.names import (
    LOG_BYTES_ENDED,
    LOG_BYTES_RUNNING,
    LOG_WORKERS,
    ended_logs_key,
    worker_logs_key,
)
from shared.redis.share_scripts import NOTE_ENDED, REPORT
from shared.redis.wire import pack

CUT_ENTRIES: Final = 1
"""What a log that is cut short keeps. Redis removes whole nodes of a stream, so some 4 KB stay."""
CUT_BYTES: Final = 8192
"""What such a log counts as."""
_UNTOLD_BYTES: Final = 4 * 1024 * 1024
"""What may be written before Redis has first said how much room it has."""
_DEAD_SECONDS: Final = 30
_FIXED: Final = 4
"""Figures in the reply before those of the organizations."""
_REPORT_SHA: Final = sha_of(REPORT)
_NOTE_ENDED_SHA: Final = sha_of(NOTE_ENDED)


class Log(Protocol):
    """A running turn's log."""

    organization_id: UUID | None
    log_bytes: int
    is_cut_short: bool


def size_of(log: Log) -> int:
    """Return what a log counts as, in bytes."""
    return min(log.log_bytes, CUT_BYTES) if log.is_cut_short else log.log_bytes


class LogMemory:
    """What the running logs of a process hold and may hold.

    Args:
        shares: The configured shares.
    """

    def __init__(self, shares: LogShares) -> None:
        self._shares = shares
        self._worker = str(new_id())
        self._reported: Sequence[str] = ()
        self._asked: Sequence[str] = ()
        self._of_one: dict[str, int] = {}
        self._workers = 1
        self._organizations = 1
        self._running_bytes = 0
        self.memory = Memory()
        self.budget = shares.budget(self.memory)
        self.left = _UNTOLD_BYTES
        """Bytes that may still be written before Redis is asked again; below 0 all logs are cut short."""
        self.bytes_in_all = 0
        self.cut_short = 0

    def report(self, logs: Iterable[Log], now: float) -> bytes:
        """Return the command that reports what `logs` hold, at `now` in seconds since 1970."""
        held: Counter[str] = Counter(dict.fromkeys(self._reported, 0))
        for log in logs:
            if log.organization_id is not None:
                held[str(log.organization_id)] += size_of(log)
        self._asked = tuple(held)
        self._reported = tuple(organization for organization, size in held.items() if size)
        figures: list[str | int] = []
        for organization, size in held.items():
            figures += (organization, size)
        return pack(
            "EVALSHA", _REPORT_SHA, 4,
            LOG_BYTES_RUNNING, worker_logs_key(self._worker), LOG_WORKERS, LOG_BYTES_ENDED,
            self._worker, int(now), int(now) - _DEAD_SECONDS, *figures,
        )  # fmt: skip

    def reported(self, reply: object) -> None:
        """Take in the reply to `report`; an error leaves everything as it was."""
        if not isinstance(reply, list) or len(reply) != _FIXED + len(self._asked):
            return
        self._workers, self._organizations, self._running_bytes, ended = reply[:_FIXED]
        self.bytes_in_all = self._running_bytes + ended
        self._of_one = dict(zip(self._asked, reply[_FIXED:], strict=True))

    def looked(self, reply: object) -> None:
        """Take in the reply to `INFO memory`."""
        self.memory = memory_in(reply)
        self.budget = self._shares.budget(self.memory)
        room = self.budget.before_tight
        # Every worker may believe that the room is its own until it asks again.
        self.left = self.budget.in_all if room is None else room // max(1, self._workers)

    def cut(self, logs: Iterable[Log]) -> None:
        """Cut short the logs of organizations over their share, for good: the turns that follow begin anew."""
        most = self.budget.of_one
        if self._running_bytes > self.budget.in_all:
            most = min(most, self.budget.in_all // max(1, self._organizations))
        over = {organization for organization, held in self._of_one.items() if held > most}
        for log in logs:
            is_over = bool(over) and log.organization_id is not None and str(log.organization_id) in over
            if is_over and log.log_bytes > CUT_BYTES and not log.is_cut_short:
                log.is_cut_short = True
                self.cut_short += 1

    def note_ended(
        self, organization_id: UUID, session_id: UUID, turn_id: UUID, size: int, now: float, seconds: int
    ) -> bytes:
        """Return the command that notes an ended log.

        Args:
            organization_id: Whose it is.
            session_id: Its session.
            turn_id: Its turn.
            size: Its bytes.
            now: Seconds since 1970.
            seconds: How long it lives.
        """
        return pack(
            "EVALSHA", _NOTE_ENDED_SHA, 2, ended_logs_key(organization_id), LOG_BYTES_ENDED,
            str(organization_id), f"{now:.3f}", f"{session_id}/{turn_id}/{size}", size, seconds,
        )  # fmt: skip
