"""Counts the turns that limits refused: in memory, added to PostgreSQL about once a second.

A refusal must stay cheap, since it is what a flood of requests gets. A process adds its counts in one transaction
for each organization, however many requests there were. If it is killed, the last second's counts are lost.
"""

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from api.caller import Caller
from api.statements.refusals import Refused, add_refusals
from shared.errors import ProblemCode, RefusedError, UnavailableError
from shared.postgres.database import Database

_log = logging.getLogger("turnkeeper.refusals")

LIMITS: Final = frozenset(
    {
        ProblemCode.BUDGET_EXCEEDED,
        ProblemCode.RATE_LIMITED,
        ProblemCode.TOO_MANY_TURNS,
        ProblemCode.TURN_LIMIT_REACHED,
        ProblemCode.QUEUE_FULL,
    }
)
"""The codes of limits."""
_ADD_SECONDS: Final = 1.0
_MOST_KINDS: Final = 1_000
"""Kinds counted between two additions; some 300 kB. More means an attack, whose first ones say enough."""
_LEAST_ORGANIZATIONS: Final = 4
"""One organization's kinds leave room for those of as many."""


@dataclass(frozen=True, slots=True)
class _Kind:
    organization_id: UUID
    user: str | None
    session_id: UUID | None
    code: str
    scope: str


class Refusals:
    """Counts refusals and adds them to the database in the background.

    Args:
        database: Stores the counts.
        add_seconds: How long counts are gathered before they are added.
    """

    def __init__(self, database: Database, add_seconds: float = _ADD_SECONDS) -> None:
        self._database = database
        self._add_seconds = add_seconds
        self._counted: dict[_Kind, tuple[int, datetime]] = {}
        self._kinds: Counter[UUID] = Counter()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._adding: threading.Timer | None = None

    @contextmanager
    def noted(self, caller: Caller, session_id: UUID) -> Iterator[None]:
        """Count a refusal raised in this block if it is a limit's, and let it pass on.

        Args:
            caller: Who asks for a turn.
            session_id: The session of the turn.
        """
        try:
            yield
        except RefusedError as refused:
            if refused.code in LIMITS:
                self._note(caller, session_id, refused)
            raise

    def add(self) -> None:
        """Add the counts to the database; if PostgreSQL is down, they are lost.

        If an addition is already running, this waits for it, for as long as its statements may take.
        """
        with self._writing:
            with self._lock:
                counted, self._counted, self._adding = self._counted, {}, None
                self._kinds.clear()
            self._write(counted)

    def _write(self, counted: Mapping[_Kind, tuple[int, datetime]]) -> None:
        by_organization: dict[UUID, list[Refused]] = {}
        for kind, (count, last_at) in counted.items():
            refused = Refused(kind.user, kind.session_id, kind.code, kind.scope, count, last_at)
            by_organization.setdefault(kind.organization_id, []).append(refused)
        for organization_id, of_one in by_organization.items():
            try:
                with self._database.of(organization_id) as db:
                    add_refusals(db, organization_id, of_one)
            except UnavailableError as error:
                lost = sum(refused.count for refused in of_one)
                _log.warning("refusals were not counted: %s", error, extra={"refused": lost})

    def close(self) -> None:
        """Add the remaining counts; waits for a running addition, so that the process does not end in it."""
        with self._lock:
            adding = self._adding
        if adding is not None:
            adding.cancel()
        self.add()

    def _note(self, caller: Caller, session_id: UUID, refused: RefusedError) -> None:
        scope = str(refused.members.get("scope") or refused.members.get("period") or "")
        of_session = session_id if caller.user is None else None
        kind = _Kind(caller.organization_id, caller.user, of_session, refused.code.value, scope)
        with self._lock:
            count, _ = self._counted.get(kind, (0, None))
            if count == 0:
                of_one = self._kinds[caller.organization_id]
                if len(self._counted) >= _MOST_KINDS or of_one >= _MOST_KINDS // _LEAST_ORGANIZATIONS:
                    return
                self._kinds[caller.organization_id] += 1
            self._counted[kind] = (count + 1, datetime.now(UTC))
            if self._adding is None:
                self._adding = threading.Timer(self._add_seconds, self.add)
                self._adding.daemon = True
                self._adding.start()
