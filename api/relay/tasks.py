"""The tasks of the relay's delivery: a reader's own end with it, the others with the process."""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any
from uuid import UUID

from api.relay.feed import Member

_log = logging.getLogger(__name__)


class Tasks:
    """Keeps tasks until they end, and says when one failed. Belongs to the loop's thread."""

    def __init__(self) -> None:
        """Begin with none."""
        self.of_all: set[asyncio.Task[None]] = set()

    def spawn(
        self,
        work: Coroutine[Any, Any, None],
        member: Member | None = None,
        *,
        session_id: UUID | None = None,
        turn_id: UUID | None = None,
    ) -> None:
        """Do `work` beside everything else.

        Args:
            work: What to do.
            member: Whose end is its end too, where one is named.
            session_id: What a line about its failure names, where it is about one session.
            turn_id: Likewise, of one turn.
        """
        owner = self.of_all if member is None else member.tasks
        task = asyncio.get_running_loop().create_task(work)
        owner.add(task)
        task.add_done_callback(owner.discard)
        ids = {"session_id": session_id, "turn_id": turn_id}
        task.add_done_callback(partial(report, ids))


def report(ids: Mapping[str, UUID | None], task: asyncio.Task[None]) -> None:
    """Say that a task failed, which is a mistake of ours: what can go wrong outside is handled inside."""
    if not task.cancelled() and (error := task.exception()) is not None:
        known = {name: str(value) for name, value in ids.items() if value is not None}
        _log.error("delivery failed", exc_info=error, extra=known)
