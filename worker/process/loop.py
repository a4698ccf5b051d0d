"""The event loop of a worker process, in a thread of its own: it does all network I/O of all turns."""

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import uvloop

from shared.lasting import lasting_thread

_T = TypeVar("_T")

_CALL_SECONDS: Final = 30.0
_LAST_ROUNDS: Final = 5
"""Rounds that closed transports need to notify their protocols and release their sockets."""


class LoopThread:
    """Runs a uvloop loop in a daemon thread while the context is open."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._thread = lasting_thread("loop", self._run)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the loop and wait for its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=_CALL_SECONDS)

    def call(self, work: Coroutine[Any, Any, _T], timeout_seconds: float = _CALL_SECONDS) -> _T:
        """Run `work` in the loop and return its result.

        Raises:
            TimeoutError: It took longer than `timeout_seconds`.
        """
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_seconds)

    def call_soon(self, call: Callable[[], None]) -> bool:
        """Schedule a call in the loop; False if the loop is closed."""
        try:
            self.loop.call_soon_threadsafe(call)
        except RuntimeError:
            return False
        return True

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            for _ in range(_LAST_ROUNDS):
                self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
