"""Sliding windows in the memory of one process, which limit requests while Redis does not answer.

A window is counted in slots of a sixtieth of its length, and a slot counts until all of it has left the window. So
no window has more than the limit, and a caller may wait up to a slot longer than needed. Unlike Redis's logs, this
takes the same small space for each key, whatever its limit.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

MOST_KEYS: Final = 10_000
"""Some 60 MB if all of them are full; the least recently used one is forgotten first."""
_SLOTS: Final = 60


@dataclass(frozen=True, slots=True)
class Window:
    """A limit as it is counted.

    Args:
        key: The key under which requests are counted, in Redis too.
        limit: Most requests in any window.
        seconds: The window's length.
    """

    key: str
    limit: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Count:
    """The state of a window after a request was let through or refused.

    Args:
        remaining: Requests that it would still let through.
        resets_seconds: Until it lets one more through than now; until it lets one through at all, if it refuses.
        refuses: Whether this window had no room.
    """

    remaining: int
    resets_seconds: float
    refuses: bool = False


@dataclass(slots=True)
class _Slot:
    number: int
    requests: int


class LocalWindows:
    """Counts requests, for a bounded number of keys.

    Args:
        clock: Monotonic seconds.
        most_keys: How many keys are counted at once.
    """

    def __init__(self, clock: Callable[[], float], most_keys: int = MOST_KEYS) -> None:
        self._clock = clock
        self._most_keys = most_keys
        self._counted: OrderedDict[str, deque[_Slot]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, windows: Sequence[Window]) -> Sequence[Count]:
        """Count a request in all windows, or in none if one of them has no room."""
        with self._lock:
            now = self._clock()
            slots = [self._slots(window, now) for window in windows]
            counts = [
                _count(window, of_window, now) for window, of_window in zip(windows, slots, strict=True)
            ]
            if any(count.refuses for count in counts):
                return counts
            for window, of_window in zip(windows, slots, strict=True):
                _add(window, of_window, now)
            return [
                Count(count.remaining - 1, _resets(window, of_window, now))
                for window, of_window, count in zip(windows, slots, counts, strict=True)
            ]

    def note(self, windows: Sequence[Window]) -> None:
        """Count a request that was let through elsewhere."""
        with self._lock:
            now = self._clock()
            for window in windows:
                _add(window, self._slots(window, now), now)

    def give_back(self, windows: Sequence[Window]) -> None:
        """Remove the newest request."""
        with self._lock:
            for window in windows:
                slots = self._counted.get(window.key)
                if slots:
                    slots[-1].requests -= 1
                    if not slots[-1].requests:
                        slots.pop()

    def _slots(self, window: Window, now: float) -> deque[_Slot]:
        """Return the slots that still count, and mark the window as the most recently used."""
        slots = self._counted.setdefault(window.key, deque())
        self._counted.move_to_end(window.key)
        while len(self._counted) > self._most_keys:
            self._counted.popitem(last=False)
        while slots and _leaves_at(window, slots[0]) <= now:
            slots.popleft()
        return slots


def _count(window: Window, slots: deque[_Slot], now: float) -> Count:
    counted = sum(slot.requests for slot in slots)
    if counted < window.limit:
        first = _leaves_at(window, slots[0]) - now if slots else 0.0
        return Count(window.limit - counted, first)
    for slot in slots:
        counted -= slot.requests
        if counted < window.limit:
            return Count(0, _leaves_at(window, slot) - now, refuses=True)
    return Count(0, window.seconds, refuses=True)  # with a limit of 0 nothing ever becomes free


def _add(window: Window, slots: deque[_Slot], now: float) -> None:
    number = int(now * _SLOTS // window.seconds)
    if slots and slots[-1].number == number:
        slots[-1].requests += 1
    else:
        slots.append(_Slot(number, 1))


def _resets(window: Window, slots: deque[_Slot], now: float) -> float:
    return _leaves_at(window, slots[0]) - now


def _leaves_at(window: Window, slot: _Slot) -> float:
    """Return when even the last moment of a slot is no longer in the window."""
    return (slot.number + 1 + _SLOTS) * window.seconds / _SLOTS
