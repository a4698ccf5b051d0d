"""What happened in a relay, as plain numbers: metrics read them, the paths of events pay an addition."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Occurrences:
    """Counts since the start. Written by the loop's thread alone, read by any."""

    opened: Counter[int] = field(default_factory=Counter)
    """Streams, by the kind of their face."""
    overflows: int = 0
    replays: int = 0
    holes: int = 0
    gaps: int = 0
