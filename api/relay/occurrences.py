"""Counts of what happened in a relay, as plain numbers: metrics read them, and counting costs one addition."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Occurrences:
    """Counts since the start. Written only by the loop's thread, read by any."""

    opened: Counter[int] = field(default_factory=Counter)
    """Streams, by the kind of their face."""
    refused: int = 0
    """Websockets that were closed at once, because there was no place for them."""
    overflows: int = 0
    replays: int = 0
    holes: int = 0
    gaps: int = 0
