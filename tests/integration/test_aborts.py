"""The watch for stops against a real Redis, with a bug of ours in the middle of it."""

import asyncio

import pytest
import redis

from shared.ids import new_id
from shared.redis.names import abort_key
from shared.turn.turns import StopReason
from worker.recovery import aborts
from worker.recovery.aborts import AbortWatcher

DEADLINE_SECONDS = 60


class Turns:
    """Replaces the lease keeper: one turn runs here, and asking for it fails `failures` times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.session, self.turn = new_id(), new_id()
        self.stopped = asyncio.Event()
        self.asked = 0

    def held_turns(self):
        self.asked += 1
        if self.asked <= self.failures:
            raise RuntimeError("a mistake of ours")
        return [(self.session, self.turn)]

    def attempt_of(self, turn):
        return self if turn == self.turn else None

    def stop(self, reason: StopReason) -> None:
        self.reason = reason
        self.stopped.set()


@pytest.mark.parametrize("failures", [0, 3])
def test_a_watch_that_failed_begins_again_and_says_so(redis_url, caplog, monkeypatch, failures):
    monkeypatch.setattr(aborts, "_FIRST_PAUSE_SECONDS", 0.01)

    async def watch() -> None:
        turns = Turns(failures)
        with redis.Redis.from_url(redis_url) as client:
            client.set(abort_key(turns.session, turns.turn), "budget", ex=60)
        watching = asyncio.create_task(AbortWatcher(redis_url, turns).run())
        async with asyncio.timeout(DEADLINE_SECONDS):
            await turns.stopped.wait()
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching
        assert turns.reason is StopReason.BUDGET

    asyncio.run(watch())
    assert caplog.text.count("the watch for stops failed and begins again") == failures


def test_a_watch_that_fails_at_once_begins_again_less_and_less_often(redis_url, monkeypatch):
    pauses: list[float] = []

    async def watch() -> None:
        watcher = AbortWatcher(redis_url, Turns(0))

        async def fail() -> None:
            raise RuntimeError("a mistake of ours")

        async def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 10:
                raise asyncio.CancelledError

        monkeypatch.setattr(watcher, "_watch", fail)
        monkeypatch.setattr(aborts.asyncio, "sleep", pause)
        with pytest.raises(asyncio.CancelledError):
            await watcher.run()

    asyncio.run(watch())
    assert pauses == [0.25, 0.5, 1, 2, 4, 8, 10, 10, 10, 10]
