"""What a process has learned of the length of a model's context, so that later prompts are short enough at once.

What a server tells on its own is true for everybody. What a refusal teaches is kept for the organization whose prompt
was refused: how many tokens a text has depends on its language, and an error may quote a user's words. A length that
was learned only ever leaves old turns out; no question is refused because of it.
"""

import logging
from collections.abc import Callable
from time import monotonic
from typing import Final
from uuid import UUID

_log = logging.getLogger("turnkeeper.provider")

_LEARNED_SECONDS: Final = 3600.0
"""How long a refusal is remembered: a server may be started again with a longer context."""
_MOST_ORGANIZATIONS: Final = 1000
"""For how many organizations something is remembered; the oldest are forgotten first, and learn it again."""


class ContextMemory:
    """What is known of one provider's model. Written in the loop's thread, read in any.

    Args:
        clock: Monotonic seconds.
    """

    __slots__ = ("_clock", "_learned", "shortened", "told_tokens")

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._learned: dict[UUID, tuple[int, float]] = {}
        self.shortened = 0
        """How many prompts were made shorter and sent again."""
        self.told_tokens: int | None = None
        """What the server told without being asked a question; None if it told nothing, or a setting says otherwise."""

    def tokens(self, organization_id: UUID) -> int | None:
        """Return the most that prompt and answer may hold together, in our estimate's tokens; None if unknown."""
        learned, at = self._learned.get(organization_id, (None, 0.0))
        if learned is None or self._clock() - at > _LEARNED_SECONDS:
            return self.told_tokens
        return learned if self.told_tokens is None else min(learned, self.told_tokens)

    def learn(self, organization_id: UUID, tokens: int) -> None:
        """Remember the context into which a prompt was cut that was too long before."""
        if not self._learned:
            _log.warning(
                "the model's context is shorter than CONTEXT_TOKENS, or its texts have more tokens: set CONTEXT_TOKENS",
                extra={"context_tokens": tokens},
            )
        self._learned.pop(organization_id, None)
        self._learned[organization_id] = (tokens, self._clock())
        if len(self._learned) > _MOST_ORGANIZATIONS:
            del self._learned[next(iter(self._learned))]
