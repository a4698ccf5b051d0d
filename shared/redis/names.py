"""Every key and channel in Redis, in one place.

All names of a session share the hash tag `{session id}`, so Redis Cluster keeps them in one slot and a script may touch
them together; an organization's limits share `{organization id}` in the same way.
"""

import hashlib
from functools import lru_cache
from typing import Final
from uuid import UUID

ABORT_CHANNEL: Final = "tk:aborts"
"""Nudges to workers: the payload is the id of a turn that was asked to stop."""

PROBE_KEY: Final = "tk:probe"
PROBE: Final = ("EVAL", "return redis.call('SET', KEYS[1], '1', 'PX', 10000)", 1, PROBE_KEY)
"""The command that shows whether Redis takes writes: one small key for all processes, which ends by itself.

By a script, as a turn's log is written: a login that may write and may run no script cannot serve us either.
"""


def log_key(session_id: UUID | str, turn_id: UUID | str) -> str:
    """Name the Stream that holds a turn's events, ids `<attempt>-<seq>`."""
    return f"tk:{{{session_id}}}:log:{turn_id}"


def joined_log_key(session_id: UUID | str, turn_id: UUID | str) -> str:
    """Name the string that holds an ended turn's log after it was joined, see `shared.redis.joined`."""
    return f"tk:{{{session_id}}}:joined:{turn_id}"


def events_channel(session_id: UUID | str) -> str:
    """Name the pub/sub channel that carries the events of all turns of a session."""
    return f"tk:{{{session_id}}}:events"


@lru_cache(maxsize=4096)
def abort_key(session_id: UUID | str, turn_id: UUID | str) -> str:
    """Name the abort flag of a turn; its value is the stop reason.

    Cached: a worker reads the flags of all its turns four times a second.
    """
    return f"tk:{{{session_id}}}:abort:{turn_id}"


def call_key(session_id: UUID | str, turn_id: UUID | str) -> str:
    """Name the note that an attempt called the provider; its value is the attempt and what it said of its prompt."""
    return f"tk:{{{session_id}}}:call:{turn_id}"


LOG_BYTES_RUNNING: Final = "tk:{logs}:running"
"""The bytes of each organization's running logs, of all workers."""
LOG_BYTES_ENDED: Final = "tk:{logs}:ended"
"""The bytes of each organization's ended logs."""
LOG_WORKERS: Final = "tk:{logs}:workers"
"""When each worker last said what its running logs hold."""


def worker_logs_key(worker: str) -> str:
    """Name what one worker said of its running logs."""
    return f"tk:{{logs}}:running:{worker}"


def ended_logs_key(organization_id: UUID | str) -> str:
    """Name the list of an organization's ended logs, oldest first."""
    return f"tk:{{logs}}:ended:{organization_id}"


def joined_logs_key(organization_id: UUID | str) -> str:
    """Name the list of those of them that were joined, oldest first."""
    return f"tk:{{logs}}:joined:{organization_id}"


def ticket_key(digest: str) -> str:
    """Name a ticket by the SHA-256 of its secret, in hexadecimal."""
    return f"tk:ticket:{digest}"


def organization_turns_key(organization_id: UUID) -> str:
    """Name the log of an organization's accepted turns of the last hour."""
    return f"tk:{{{organization_id}}}:turns:hour"


def user_turns_key(organization_id: UUID, user: str) -> str:
    """Name the log of a user's accepted turns of the last minute; the user's name is not part of it (I10)."""
    digest = hashlib.sha256(f"{organization_id}/{user}".encode()).hexdigest()
    return f"tk:{{{organization_id}}}:turns:minute:{digest[:32]}"
