"""Runs blocking calls to the store for the loop: in few threads, with bounded waiting and bounded time."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from shared.errors import UnavailableError
from shared.postgres.refusals import STATEMENT_ERRORS

_log = logging.getLogger(__name__)

_THREADS: Final = 8
"""In a relay nothing else uses the store's connections; eight allow some thousand reads a second."""
_MOST_WAITING: Final = 256
"""Further calls wait outside the pool, where a cancelled reader costs nothing."""
_ANSWER_SECONDS: Final = 10.0
"""Longer than the statement timeout, so that the database itself usually gives up first."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Questions:
    """Asks the store. Belongs to the loop's thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="relay-store")
        self._waiting = asyncio.Semaphore(_MOST_WAITING)

    async def ask(self, call: Callable[_P, _T], *arguments: _P.args, **keywords: _P.kwargs) -> _T:
        """Return what `call` returns.

        Raises:
            UnavailableError: The store raised it, did not answer in time, or a statement was refused, whatever for:
                no task of the relay may end of that.
        """
        loop = asyncio.get_running_loop()
        async with self._waiting:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    return await loop.run_in_executor(self._pool, lambda: call(*arguments, **keywords))
            except TimeoutError as error:
                raise UnavailableError("the database did not answer in time") from error
            except STATEMENT_ERRORS as error:
                _log.exception("the database refused a statement")
                raise UnavailableError("the database refused a statement") from error

    def close(self) -> None:
        """Accept no more questions."""
        self._pool.shutdown(wait=False, cancel_futures=True)
