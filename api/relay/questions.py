"""Blocking calls to the store from the loop: few threads, bounded waiting, bounded time."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from shared.errors import UnavailableError

_THREADS: Final = 8
"""The store's connections are shared with nobody else in a relay; eight are some thousand reads a second."""
_MOST_WAITING: Final = 256
"""More than these wait outside the pool, where a cancelled reader costs nothing."""
_ANSWER_SECONDS: Final = 10.0
"""Longer than the statement timeout, so that the database itself usually says no first."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Questions:
    """Asks the store. Belongs to the loop's thread."""

    def __init__(self) -> None:
        """Prepare the threads; they start when first needed."""
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="relay-store")
        self._waiting = asyncio.Semaphore(_MOST_WAITING)

    async def ask(self, call: Callable[_P, _T], *arguments: _P.args, **keywords: _P.kwargs) -> _T:
        """Return what `call` returns.

        Raises:
            UnavailableError: The store says so, or did not answer in time.
        """
        loop = asyncio.get_running_loop()
        async with self._waiting:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    return await loop.run_in_executor(self._pool, lambda: call(*arguments, **keywords))
            except TimeoutError as error:
                raise UnavailableError("the database did not answer in time") from error

    def close(self) -> None:
        """Take no more questions."""
        self._pool.shutdown(wait=False, cancel_futures=True)
