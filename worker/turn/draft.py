"""The answer as readers see it while it is being written, across all the requests that produce it.

It is announced once, joined to the text that it continues, and counted as it is shown.
"""

from collections.abc import Callable
from time import monotonic

from shared.errors import Fault
from shared.turn import events
from worker.publishing.channel import Channel
from worker.turn.consumption import Consumption
from worker.turn.continuation import Seam


class Draft:
    """An attempt's answer. Belongs to the loop's thread.

    Args:
        channel: Publishes it.
        consumption: Keeps and counts it.
        message_id: The stored message's id, which `message_start` carries.
        prefix: The text of an earlier attempt that this one continues, which readers have; empty to start a new answer.
        on_first_text: Called as the first text is shown.
    """

    __slots__ = (
        "_channel",
        "_consumption",
        "_is_announced",
        "_message_id",
        "_on_first_text",
        "_seam",
        "first_text_at",
        "history_trimmed",
        "prefix",
    )

    def __init__(
        self,
        channel: Channel,
        consumption: Consumption,
        message_id: str,
        *,
        prefix: str = "",
        on_first_text: Callable[[], None] = lambda: None,
    ) -> None:
        self._channel = channel
        self._consumption = consumption
        self._message_id = message_id
        self._on_first_text = on_first_text
        self._seam = Seam(prefix)
        self._is_announced = bool(prefix)
        self.prefix = prefix
        self.history_trimmed = 0
        """Earlier turns that the prompt goes without."""
        self.first_text_at: float | None = None

    def announce(self) -> None:
        """Announce the answer, unless an earlier request has done so or it was announced with the prefix."""
        if not self._is_announced:
            self._is_announced = True
            self._channel.event(events.MessageStart(self._message_id, self.history_trimmed))

    def append(self, text: str, *, reasoning: bool = False) -> None:
        """Publish a piece of the answer, or of the thinking."""
        if not reasoning:
            if self.prefix:
                text = self._seam.join(text)
            if not text:
                return
        if self.first_text_at is None:
            self.first_text_at = monotonic()
            self._on_first_text()
        self._consumption.add(reasoning, text)
        self._channel.delta(text, reasoning=reasoning)

    def begin_anew(self, fault: Fault) -> None:
        """Declare the prefix void because of `fault`: no text that was shown is dropped without this event (I5)."""
        self.prefix, self._seam = "", Seam("")
        self._is_announced = False
        self._channel.event(events.MessageReset(fault))
