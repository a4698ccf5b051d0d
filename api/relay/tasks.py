"""The tasks of the relay's delivery: a reader's tasks end with the reader, the others with the process."""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any
from uuid import UUID

from api.relay.feed import Member

_log = logging.getLogger(__name__)


class Tasks:
    """Keeps tasks until they end, and logs failures. Belongs to the loop's thread."""

    def __init__(self) -> None:
        self.of_all: set[asyncio.Task[None]] = set()

    def spawn(
        self,
        work: Coroutine[Any, Any, None],
        member: Member | None = None,
        *,
        session_id: UUID | None = None,
        turn_id: UUID | None = None,
    ) -> asyncio.Task[None]:
        """Run `work` concurrently; return its task.

        Args:
            work: What to run.
            member: The reader with whom the task ends, if any.
            session_id: The session to name in the log if the task fails, if it concerns one.
            turn_id: Likewise, the turn.
        """
        owner = self.of_all if member is None else member.tasks
        task = asyncio.get_running_loop().create_task(work)
        owner.add(task)
        task.add_done_callback(owner.discard)
        ids = {"session_id": session_id, "turn_id": turn_id}
        task.add_done_callback(partial(report, ids))
        return task


def report(ids: Mapping[str, UUID | None], task: asyncio.Task[None]) -> None:
    """Log that a task failed. That is a bug of ours: tasks handle outside failures themselves."""
    if not task.cancelled() and (error := task.exception()) is not None:
        known = {name: str(value) for name, value in ids.items() if value is not None}
        _log.error("delivery failed", exc_info=error, extra=known)
