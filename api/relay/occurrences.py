"""What happened in a relay, as plain numbers: metrics read them, the paths of events pay an addition."""

from dataclasses import dataclass


@dataclass(slots=True)
class Occurrences:
    """Counts since the start. Written by the loop's thread alone, read by any."""

    websockets: int = 0
    event_streams: int = 0
    overflows: int = 0
    replays: int = 0
    holes: int = 0
    gaps: int = 0
