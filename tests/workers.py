"""Which worker runs which tests: `make test` has two workers, `pytest -n 2`.

A file stays whole. So does a set of files that share a running service, which takes longer to start than most of its
tests to run. These sets come first: the files at the end are short, so the workers end at about the same time.
"""

import socket
from contextlib import ExitStack, suppress

from xdist.scheduler import LoadFileScheduling

TOGETHER = (
    ("tests/browser/",),
    # The files that use `stack`.
    (
        "tests/e2e/test_chat.py",
        "tests/e2e/test_costs.py",
        "tests/e2e/test_log_lines.py",
        "tests/e2e/test_protocol.py",
        "tests/e2e/test_redis_keys.py",
        "tests/e2e/test_traps.py",
    ),
    ("clients/",),
    ("tests/faults/",),
)
"""The longest first; the name of a folder ends in a slash."""


class Scheduler(LoadFileScheduling):
    """Gives a worker a whole set of files, or a file that belongs to no set."""

    def _split_scope(self, nodeid: str) -> str:
        """Return the set of files, or the file, that stays together with this test."""
        file = super()._split_scope(nodeid)
        place = place_of(file)
        return file if place == len(TOGETHER) else TOGETHER[place][0]


def place_of(file: str) -> int:
    """Return the place of a file's set in `TOGETHER`, and its length for a file that belongs to no set."""
    return next((place for place, paths in enumerate(TOGETHER) if file.startswith(paths)), len(TOGETHER))


def hold_preferred_ports(run: ExitStack) -> None:
    """Hold the ports that every `turnkeeper up` tries first for its servers, for as long as the run lasts.

    A server that a test kills must find its port free when it starts again. While it is down, a service of another
    worker would take one of these ports and keep it.
    """
    from turnkeeper.up.up import POSTGRES_PORT, REDIS_PORT

    for port in (POSTGRES_PORT, REDIS_PORT):
        with suppress(OSError):  # held by another process already
            run.enter_context(socket.socket()).bind(("127.0.0.1", port))
