"""Notices a provider that sends nothing, with one timer for a whole stream.

A read timeout on the socket is not enough: a comment every few seconds keeps it from ever firing. And setting
a timer for each delta would cost more than the delta.
"""

import asyncio


class SilenceWatch:
    """Interrupts the task that waits for a provider if no text comes in time.

    The time runs from the request to the first text, then from item to item. Only a waiting task is
    interrupted: if the task is busy elsewhere, it is the task that is slow.
    """

    __slots__ = (
        "_cancelling",
        "_deadline",
        "_first_token_seconds",
        "_idle_seconds",
        "_is_expired",
        "_is_first",
        "_is_waiting",
        "_loop",
        "_task",
        "_timer",
    )

    def __init__(self, first_token_seconds: float, idle_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._first_token_seconds = first_token_seconds
        self._idle_seconds = idle_seconds
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._is_waiting = False
        self._is_expired = False
        self._is_first = True

    def start(self) -> None:
        """Start the time until the first text."""
        self._deadline = self._loop.time() + self._first_token_seconds
        self._timer = self._loop.call_at(self._deadline, self._check)

    def stop(self) -> None:
        """Stop the time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def hear(self, *, is_text: bool) -> None:
        """Note that an item came; until the first text, nothing else counts."""
        if is_text and self._is_first:
            self._is_first = False
            self.stop()  # the limit for the first text may be the longer one
            self._deadline = self._loop.time() + self._idle_seconds
            self._timer = self._loop.call_at(self._deadline, self._check)
        elif not self._is_first:
            # The timer stays as it is, and looks at the new deadline when it fires.
            self._deadline = self._loop.time() + self._idle_seconds

    def wait(self) -> None:
        """Note that the current task begins to wait for the provider."""
        if self._task is None:
            self._task = asyncio.current_task()
            self._cancelling = self._task.cancelling() if self._task is not None else 0
        self._is_waiting = True

    def go_on(self) -> None:
        """Note that the wait is over."""
        self._is_waiting = False

    def interrupted(self) -> bool:
        """Return whether a cancellation that arrived was this watch's own, and take it back if so."""
        if not self._is_expired or self._task is None:
            return False
        self._is_expired = False
        # As in asyncio.timeout: a Stop at the same moment is a cancellation of its own.
        return self._task.uncancel() <= self._cancelling

    def _check(self) -> None:
        now = self._loop.time()
        if now < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._check)
        elif not self._is_waiting or self._task is None:
            self._timer = self._loop.call_later(min(1.0, self._idle_seconds), self._check)
        else:
            self._timer = None
            self._is_expired = True
            self._task.cancel()
