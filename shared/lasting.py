"""Threads and tasks that others depend on: when one ends by an error, the process ends, and another is started.

A process without its leases, its sweeper or its loop looks alive and does harm: its turns are taken for dead and sent
again. That an error ended it is a fault of ours, for which a new process is the only remedy.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from typing import Final

_log = logging.getLogger("turnkeeper.lasting")

EXIT_CODE: Final = os.EX_SOFTWARE
"""70, by sysexits.h: an internal error of the program."""


def lasting_thread(name: str, run: Callable[[], None]) -> threading.Thread:
    """Return a daemon thread, not yet started, whose failure ends the process.

    Args:
        name: What others call it, in the log.
        run: Returns when it was told to end, and raises only by a fault of ours.
    """

    def run_or_end() -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001 -- nothing that ends it may leave the process behind
            end_process(name, error)

    return threading.Thread(target=run_or_end, name=name, daemon=True)


def lasting_task(name: str, task: asyncio.Task[None]) -> asyncio.Task[None]:
    """Watch a task of a loop: its failure ends the process, its cancellation does not."""

    def ended(done: asyncio.Task[None]) -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            end_process(name, error)

    task.add_done_callback(ended)
    return task


def end_process(name: str, error: BaseException) -> None:
    """End this process at once: leases run out by themselves, and others take up its turns."""
    _log.critical("the process ends, for %s has ended", name, exc_info=error)
    logging.shutdown()
    os._exit(EXIT_CODE)
