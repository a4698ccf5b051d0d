"""Whether this process receives doorbells, by proof: Redis answers its consumer at least once a second.

An idle consumer waits in a `BRPOP` that ends after a second, with a doorbell or with nothing. Both prove that the next
doorbell would arrive; a connection that merely stands proves nothing.
"""

from time import monotonic
from typing import Final

PROOF_SECONDS: Final = 2.5
"""Silence after which nothing proves that this process would hear: two answers that did not come."""


class Hearing:
    """When Redis last answered the consumer. Written by the consumer's thread, read by any."""

    def __init__(self) -> None:
        self._proved_at = -PROOF_SECONDS

    def prove(self) -> None:
        """Note an answer, or that this process has no room for a turn and so does not listen."""
        self._proved_at = monotonic()

    def lose(self) -> None:
        """Note that the consumer has no connection that serves."""
        self._proved_at = -PROOF_SECONDS

    def is_proved(self) -> bool:
        """Return whether a doorbell that is rung now would be heard."""
        return monotonic() - self._proved_at < PROOF_SECONDS
