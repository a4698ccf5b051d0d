"""How much of Redis's memory turns' logs may take: in all, and those of one organization.

Redis is shared by all organizations, and a full one refuses every write: doorbells, tickets and Stops too. So logs get
a share of it, and what is above that share gives way before anything else has to. `INFO memory` tells the server's
limit; managed servers answer it even where they refuse `CONFIG`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MOST_LOG_PERCENT: Final = 70
"""The share can be no larger, so that a fifth on top of it is still below the server's limit."""
_RELIEF_PERCENT: Final = 10
"""So much above the logs' share ended logs are dropped, whatever fills the memory."""
_TIGHT_PERCENT: Final = 20
"""So much above it running logs are cut short, whosever they are."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What Redis says of its memory, in bytes.

    Args:
        used: What it uses.
        limit: Its `maxmemory`; 0 if it has none or did not say.
    """

    used: int = 0
    limit: int = 0


@dataclass(frozen=True, slots=True)
class LogShares:
    """The configured shares.

    Args:
        assumed_bytes: The memory of a server that names no limit.
        percent: What all logs may take of it, in percent.
        percent_of_one: What the logs of one organization may take of it, in percent.
    """

    assumed_bytes: int = 1 << 30
    percent: int = 60
    percent_of_one: int = 30

    def budget(self, memory: Memory) -> "LogBudget":
        """Return the budget on a server that said `memory`."""
        limit = memory.limit or self.assumed_bytes
        if not memory.limit:
            # Nothing refuses writes there, and what else the server holds is not known to be ours.
            relief = tight = None
        else:
            relief = limit * (self.percent + _RELIEF_PERCENT) // 100 - memory.used
            tight = limit * (self.percent + _TIGHT_PERCENT) // 100 - memory.used
        return LogBudget(limit * self.percent // 100, limit * self.percent_of_one // 100, relief, tight)


@dataclass(frozen=True, slots=True)
class LogBudget:
    """What logs may take now, in bytes.

    Args:
        in_all: All logs.
        of_one: Those of one organization.
        before_relief: How much more Redis may hold before ended logs are dropped; negative if it holds more, None
            for no limit.
        before_tight: How much more it may hold before running logs are cut short; as above.
    """

    in_all: int
    of_one: int
    before_relief: int | None
    before_tight: int | None


def memory_from(info: Mapping[str, Any]) -> Memory:
    """Read what redis-py made of `INFO memory`; figures that are missing count as not said."""
    used, limit = info.get("used_memory", 0), info.get("maxmemory", 0)
    return Memory(used, limit) if isinstance(used, int) and isinstance(limit, int) else Memory()


def memory_in(reply: object) -> Memory:
    """Read the reply to `INFO memory` as it comes from the wire; an error reply counts as not said."""
    if not isinstance(reply, bytes):
        return Memory()
    found: dict[bytes, int] = {}
    for line in reply.splitlines():
        name, _, value = line.partition(b":")
        if name in (b"used_memory", b"maxmemory") and value.isdigit():
            found[name] = int(value)
    return Memory(found.get(b"used_memory", 0), found.get(b"maxmemory", 0))
