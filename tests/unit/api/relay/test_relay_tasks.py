"""What the relay says of a task of its own that failed."""

import asyncio
import logging
from uuid import UUID

from api.relay.tasks import Tasks

SESSION, TURN = UUID(int=1), UUID(int=2)


async def fails() -> None:
    raise RuntimeError("a mistake")


def test_a_task_that_fails_is_logged_with_the_session_and_the_turn_that_it_was_about(caplog):
    async def run() -> None:
        tasks = Tasks()
        tasks.spawn(fails(), session_id=SESSION, turn_id=TURN)
        tasks.spawn(fails())
        await asyncio.wait(tasks.of_all.copy())
        assert tasks.of_all == set()

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    named, nameless = caplog.records
    assert (named.message, named.session_id, named.turn_id) == ("delivery failed", str(SESSION), str(TURN))
    assert not hasattr(nameless, "session_id")
