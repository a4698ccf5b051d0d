"""Shares the memory of whole requests among organizations, from their last byte until they are answered.

Requests wait for a thread in number, and each may have a body of 1 MiB. The rule is that of `thread_shares`: whoever
holds fewer than `EAGERNESS` times the free bytes may hold more, so that one alone gets three quarters and leaves room.
"""

from collections import Counter
from collections.abc import Hashable
from typing import Final

from turnkeeper.up.thread_shares import EAGERNESS

ALL_BYTES: Final = 128 * 1024 * 1024
"""Of all requests of a process that wait for a thread or have one."""


class BodyShares:
    """Counts bytes; used by one thread.

    Args:
        most: How many there are in all.
    """

    def __init__(self, most: int = ALL_BYTES) -> None:
        self._free = most
        self._held: Counter[Hashable] = Counter()

    def take(self, tenant: Hashable, size: int) -> bool:
        """Take the bytes of one request; False if this tenant may not hold so many now."""
        if self._held.get(tenant, 0) + size > EAGERNESS * (self._free - size):
            return False
        self._free -= size
        self._held[tenant] += size
        return True

    def give_back(self, tenant: Hashable, size: int) -> None:
        """Note that a request of this size is no longer kept."""
        self._free += size
        self._held[tenant] -= size
        if not self._held[tenant]:
            del self._held[tenant]
