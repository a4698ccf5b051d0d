"""Shares a process's request threads among organizations: whoever asks for more waits outside of them.

A share adapts to who is there: an organization may take another thread while it holds fewer than `EAGERNESS` times
those that are free. Alone it gets three quarters of them, and with others an equal part; some always stay free for one
that has none. The rule is the dynamic threshold of shared buffers in switches (Choudhury and Hahne, 1998).
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

JobT = TypeVar("JobT")

EAGERNESS: Final = 3
"""How many times the free threads one organization may hold."""


class ThreadShares(Generic[JobT]):
    """Chooses whose request gets the next free thread; used by one thread.

    Args:
        threads: How many there are.
        most_waiting: How many requests of one organization may wait.
    """

    def __init__(self, threads: int, most_waiting: int) -> None:
        self._free = threads
        self._most_waiting = most_waiting
        self._held: Counter[Hashable] = Counter()
        self._waiting: OrderedDict[Hashable, deque[tuple[float, JobT]]] = OrderedDict()

    def ask(self, tenant: Hashable, job: JobT, now: float) -> bool:
        """Let a request wait for a thread; False if too many of this tenant wait already."""
        queue = self._waiting.setdefault(tenant, deque())
        if len(queue) >= self._most_waiting:
            return False
        queue.append((now, job))
        return True

    def start(self) -> Iterator[JobT]:
        """Yield the requests that get a thread now, the tenants in turn."""
        while self._free > 0:
            tenant = next((tenant for tenant in self._waiting if self._may_start(tenant)), None)
            if tenant is None:
                return
            queue = self._waiting.pop(tenant)
            _, job = queue.popleft()
            if queue:
                self._waiting[tenant] = queue  # behind the others
            self._held[tenant] += 1
            self._free -= 1
            yield job

    def end(self, tenant: Hashable) -> None:
        """Note that a request that had a thread has ended."""
        self._free += 1
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]

    def give_up(self, before: float) -> Iterator[JobT]:
        """Remove and yield the requests that have waited since before then."""
        for tenant, queue in list(self._waiting.items()):
            while queue and queue[0][0] < before:
                yield queue.popleft()[1]
            if not queue:
                del self._waiting[tenant]

    def _may_start(self, tenant: Hashable) -> bool:
        held = self._held.get(tenant, 0)
        # The last one is for somebody who has none, however few there are.
        return held == 0 or (self._free > 1 and held < EAGERNESS * self._free)
