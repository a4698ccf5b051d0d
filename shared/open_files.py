"""The limit of open files: raised as far as it may be, and the measure of what a process holds at once.

Each connection is an open file. A process that promises more of them than it may open fails in the middle of
something; one that knows its limit refuses in time.
"""

import resource
from typing import Final

ENOUGH: Final = 65_536
"""More is not asked for: containers allow a billion, and some programs walk through all of them when they start."""

STREAMS: Final = 2
"""One in this many open files may be a stream; a relay's other connections, Redis and PostgreSQL have the rest."""
TURNS: Final = 4
"""Open files for each turn: its connection, one of an attempt that is closing, and as many for all else."""
_ENDLESS: Final = 2**31


def raise_limit() -> int:
    """Raise the soft limit to the hard one, or to what is enough; return it.

    Children inherit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return limit()


def reachable() -> int:
    """Return what `raise_limit` would return, without raising anything."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _ENDLESS
    return max(soft, ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard))


def limit() -> int:
    """Return how many files this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _ENDLESS if soft == resource.RLIM_INFINITY else soft


def share(one_in: int) -> int:
    """Return the part of the limit that something may take, at least 1."""
    return max(1, limit() // one_in)
