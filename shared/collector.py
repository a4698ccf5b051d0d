"""Python's cycle collector, tuned for a long-running process."""

import gc
from typing import Final

_YOUNG: Final = 10_000
"""Young objects before a collection: at Python's 700 there is one at the start of every turn."""
_MIDDLE: Final = 20
_OLD: Final = 100


def calm_collector() -> None:
    """Exclude all present objects from collections, and collect less often; call it once a process is up.

    Imported code lives as long as the process. A full collection would traverse all of it, for tens of milliseconds in
    which no delta moves.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
