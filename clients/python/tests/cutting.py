"""Cuts a proxy's connections at random moments, so and so often."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.faults.proxy import Proxy

LIMIT_SECONDS = 60.0


@dataclass
class Cuts:
    """How many cuts hit a connection, and how many of them a stream that had begun."""

    wanted: int
    made: int = 0
    amid_streams: int = 0
    all_made: threading.Event = field(default_factory=threading.Event)

    @property
    def amid_streams_wanted(self) -> int:
        """A part of them: a machine may need longer for a handshake than there is from one cut to the next."""
        return self.wanted // 3 + 1


@contextmanager
def cutting(proxy: Proxy, wanted: int, seed: int) -> Iterator[Cuts]:
    """Cut at least so often, at random in time: in handshakes, in frames and between them."""
    cuts, dice, is_over = Cuts(wanted), random.Random(seed), threading.Event()

    def cut() -> None:
        was_amid_stream = True
        while not is_over.wait(dice.uniform(0.005, 0.1)):
            streams = proxy.streams()
            # Never two handshakes in a row: the second may come through.
            if was_amid_stream or streams:
                was_hit = bool(proxy.cut())
                was_amid_stream = was_hit and streams > 0
                cuts.made += was_hit
                cuts.amid_streams += was_amid_stream
            if cuts.made >= wanted and cuts.amid_streams >= cuts.amid_streams_wanted:
                cuts.all_made.set()
                return

    nemesis = threading.Thread(target=cut, name="cuts")
    nemesis.start()
    try:
        yield cuts
    finally:
        is_over.set()
        nemesis.join(LIMIT_SECONDS)
        assert not nemesis.is_alive()
