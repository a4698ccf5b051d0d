"""An ended turn's log, joined: all its entries in one compressed string, which a reader can still replay one by one.

A log is a stream with an entry for each event, most of which repeat the same ids around a few letters. Joined it takes
a tenth. It lies under a name of its own, so that a process of a release that knows nothing of it finds no log and sends
a snapshot.
"""

import zlib
from collections.abc import Iterable
from typing import Final, TypeAlias

MOST_BYTES: Final = 16 * 1024 * 1024
"""The largest log that is joined, before it is compressed; a larger one is dropped when its turn comes."""
_LEVEL: Final = 1
"""The fastest: what repeats is close together."""

LogEntry: TypeAlias = tuple[bytes, bytes, bytes]
"""An entry of a log: its id, its field and its event."""


def join(entries: Iterable[LogEntry]) -> bytes | None:
    """Return the entries of a log as one string; None if they are too large or there are none."""
    lines = [b" ".join(entry) for entry in entries]
    if not lines or sum(map(len, lines)) + len(lines) > MOST_BYTES:
        return None
    return zlib.compress(b"\n".join(lines), _LEVEL)


def part(joined: bytes) -> list[LogEntry]:
    """Return the entries that were joined, in their order.

    Raises:
        ValueError: It is not what `join` made, or larger than that may be.
    """
    inflating = zlib.decompressobj()
    try:
        text = inflating.decompress(joined, MOST_BYTES)
    except zlib.error as error:
        raise ValueError("a joined log cannot be read") from error
    if not inflating.eof:
        raise ValueError("a joined log is cut off or too large")
    # An event is JSON, in which a line's end can only be escaped.
    found: list[LogEntry] = []
    for line in text.split(b"\n"):
        entry_id, field, event = line.split(b" ", 2)
        found.append((entry_id, field, event))
    return found
