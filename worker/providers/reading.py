"""One answer while it is being read: every dialect's reader writes to it, and the items come out of it.

It makes text safe to store and decides whether a terminal mark ends the answer properly.
"""

import math
import re
from typing import Final, Protocol

from shared.errors import Fault, ProviderError
from shared.money.usage import Usage
from shared.text import TextCleaner
from shared.turn.turns import FinishReason
from worker.providers.provider import (
    ContentDelta,
    Finish,
    Item,
    MessageStart,
    ReasoningDelta,
    RunningUsage,
    UsageConflict,
)
from worker.providers.said import Discretion, Hush

MOST_TOKENS: Final = 10**9
"""A thousand times the largest context: a higher figure is a mistake, and would empty a budget."""
MARKS: Final = frozenset({b"[DONE]", b'"[DONE]"'})
"""OpenAI's mark of the end, which gateways send in other dialects too."""
KNOWS_NOTHING: Final = Discretion()

_NUMBER: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")


class Reader(Protocol):
    """Reads one dialect's events into a `Reading`."""

    def feed(self, name: str, data: bytes) -> None:
        """Read one event.

        Args:
            name: The event's name; empty for the default.
            data: Its data.

        Raises:
            ProviderError: The event is an error, or cannot be read.
        """

    def end(self, *, is_clean: bool) -> None:
        """Finish the reading if nothing of the answer is missing, now that no event follows.

        Args:
            is_clean: Whether the response ended as HTTP ends one, or ended not at all; False if it broke off.

        Raises:
            ProviderError: The answer has no text, and its reason does not explain that.
        """


class Reading:
    """Collects the items of one answer; `take` returns what has been collected."""

    __slots__ = (
        "_content",
        "_continues",
        "_has_content",
        "_items",
        "_reasoning",
        "_text_left",
        "_usage",
        "hush",
        "is_begun",
        "is_finished",
        "is_marked",
        "is_spoken",
        "is_stirring",
    )

    def __init__(self, max_text_bytes: int, *, continues: bool = False, hush: Hush = KNOWS_NOTHING) -> None:
        """Start an empty answer.

        Args:
            max_text_bytes: Most text, answer and thinking together, in UTF-8.
            continues: The answer continues a text in the prompt, and may have nothing to add.
            hush: Returns what may be repeated of an error within the answer.
        """
        self.hush = hush
        self._continues = continues
        self._items: list[Item] = []
        self._content = TextCleaner()
        self._reasoning = TextCleaner()
        self._text_left = max_text_bytes
        self._usage: Usage | None = None
        self._has_content = False
        self.is_begun = False
        self.is_spoken = False
        self.is_stirring = False
        """The model thinks without showing it: a sign of life."""
        self.is_marked = False
        """The terminal mark came, and something is still missing that may come after it."""
        self.is_finished = False

    def take(self) -> list[Item]:
        """Return the items since the last call."""
        items, self._items = self._items, []
        return items

    def begin(self) -> None:
        """Note that the provider has begun to answer; only the first call counts."""
        if not self.is_begun:
            self.is_begun = True
            self._items.append(MessageStart())

    def say(self, piece: str) -> None:
        """Add a piece of the answer."""
        text = self._content.feed(piece)
        if text:
            self._count(text)
            self._has_content = True
            self._items.append(ContentDelta(text))

    def think(self, piece: str) -> None:
        """Add a piece of the thinking."""
        text = self._reasoning.feed(piece)
        if text:
            self._count(text)
            self._items.append(ReasoningDelta(text))

    def stir(self) -> None:
        """Note that the model thinks, although there is nothing to show."""
        self.begin()
        self.is_stirring = True

    def has_content(self) -> bool:
        """Return whether there is any text of the answer itself."""
        return self._has_content

    def use(self, usage: Usage) -> None:
        """Note the usage so far."""
        if usage != self._usage:
            self._usage = usage
            self._items.append(RunningUsage(usage))

    def close(self) -> None:
        """Add what still waits for more text: none follows."""
        for cleaner, delta in ((self._reasoning, ReasoningDelta), (self._content, ContentDelta)):
            if pending := cleaner.flush():
                self._items.append(delta(pending))
                self.is_spoken = True
                self._has_content = self._has_content or delta is ContentDelta

    def finish(
        self, reason: FinishReason, usage: Usage | None, conflict: UsageConflict | None = None
    ) -> None:
        """Note the answer's end.

        Args:
            reason: Why the model stopped.
            usage: The final figures, or None if the provider sent no plausible ones.
            conflict: What contradicts itself in them.

        Raises:
            ProviderError: The answer has no text, and its reason does not explain that.
        """
        self.close()
        explained = reason in {FinishReason.REFUSAL, FinishReason.CONTENT_FILTER} or (
            reason is FinishReason.LENGTH and self.is_spoken  # all of it went into thinking
        )
        if not self._has_content and not explained and not self._continues:
            raise ProviderError(Fault.PROVIDER_PROTOCOL, "the model provider's answer was empty")
        self.begin()
        self.is_finished = True
        self._items.append(Finish(reason, usage, conflict))

    def _count(self, text: str) -> None:
        self.is_spoken = True
        self._text_left -= len(text) if text.isascii() else len(text.encode())
        if self._text_left < 0:
            raise ProviderError(Fault.PROVIDER_PROTOCOL, "the model provider's answer is too long")


def token_count(value: object) -> int:
    """Return `value` as a number of tokens, otherwise 0: never negative, and at most `MOST_TOKENS`.

    OpenRouter has sent fractions, and gateways send figures as text; part of a token is a token. A figure above the
    most is that, and not none: whoever bills it shall see that the provider said what cannot be.
    """
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if type(value) is int or (isinstance(value, float) and math.isfinite(value)):
        return math.ceil(min(value, MOST_TOKENS)) if value >= 0 else 0
    return 0


def unreadable() -> ProviderError:
    """Return the error for an event that cannot be decoded."""
    return ProviderError(Fault.PROVIDER_PROTOCOL, "an event of the model provider's stream could not be read")


def tool_call() -> ProviderError:
    """Return the error for a call of a tool."""
    return ProviderError(Fault.TOOL_CALL_UNSUPPORTED, "the model called a tool, and none was offered")


def gave_up() -> ProviderError:
    """Return the error for an answer whose generation ended on the provider's side."""
    return ProviderError(Fault.PROVIDER_OVERLOADED, "the model provider gave the answer up before its end")
