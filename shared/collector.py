"""Python's cycle collector, told what a long-running process is made of."""

import gc
from typing import Final

_YOUNG: Final = 10_000
"""Objects made and not freed before the youngest are looked through: at Python's 700 it is each turn's beginning."""
_MIDDLE: Final = 20
_OLD: Final = 100


def calm_collector() -> None:
    """Leave out of collections what exists now, and collect less often; called once a process is up.

    What was imported lives as long as the process. A full collection looks through all of it, for tens of
    milliseconds in which no delta moves.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
