"""Compares a server's clock with ours."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from turnkeeper.doctor.findings import Finding, Level, judged

Clock: TypeAlias = Callable[[], datetime]

_NOTED: Final = timedelta(seconds=1)
_TOO_FAR: Final = timedelta(seconds=30)
"""Half of a stream ticket's life, and of the precision that readers of a session's times need."""


def judged_clock(
    name: str, theirs: datetime, before: datetime, after: datetime, precision: timedelta
) -> Finding:
    """Compare a server's clock with ours, read before and after it.

    Args:
        name: The finding's name.
        theirs: The server's time.
        before: Our time when the question was sent.
        after: Our time when the answer came.
        precision: How far the server's answer may be off, for example because it has whole seconds.
    """
    # A difference within the round trip is not a difference.
    apart = max(theirs - after, before - theirs - precision, timedelta())
    level = Level.OK if apart < _NOTED else Level.WARNING if apart < _TOO_FAR else Level.WRONG
    says = f"{apart.total_seconds():.1f} s from ours" if level is not Level.OK else "agrees with ours"
    return judged(name, says, level, "let both machines take their time from the same source (NTP)")
