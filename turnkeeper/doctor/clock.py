"""How far a server's clock is from ours."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from turnkeeper.doctor.findings import Finding, Level, judged

Clock: TypeAlias = Callable[[], datetime]

_NOTED: Final = timedelta(seconds=1)
_TOO_FAR: Final = timedelta(seconds=30)
"""Half of a stream ticket's life, and of what a session's times are read for."""


def judged_clock(
    name: str, theirs: datetime, before: datetime, after: datetime, precision: timedelta
) -> Finding:
    """Compare a clock that was asked for with ours, taken before and after it.

    Args:
        name: Of the finding.
        theirs: What the server said.
        before: Ours, as the question was sent.
        after: Ours, as the answer came.
        precision: What the server's answer may be off by, cut to whole seconds, say.
    """
    # Anything within the question's own time is no difference.
    apart = max(theirs - after, before - theirs - precision, timedelta())
    level = Level.OK if apart < _NOTED else Level.WARNING if apart < _TOO_FAR else Level.WRONG
    says = f"{apart.total_seconds():.1f} s from ours" if level is not Level.OK else "agrees with ours"
    return judged(name, says, level, "let both machines take their time from the same source (NTP)")
