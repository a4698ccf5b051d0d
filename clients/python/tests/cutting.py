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
    """How many cuts hit a connection."""

    wanted: int
    made: int = 0
    all_made: threading.Event = field(default_factory=threading.Event)


@contextmanager
def cutting(proxy: Proxy, wanted: int, seed: int) -> Iterator[Cuts]:
    """Cut so often, at random in time: in handshakes, in frames and between them."""
    cuts, dice, is_over = Cuts(wanted), random.Random(seed), threading.Event()

    def cut() -> None:
        while not is_over.wait(dice.uniform(0.005, 0.1)) and cuts.made < wanted:
            cuts.made += bool(proxy.cut())
        cuts.all_made.set()

    nemesis = threading.Thread(target=cut, name="cuts")
    nemesis.start()
    try:
        yield cuts
    finally:
        is_over.set()
        nemesis.join(LIMIT_SECONDS)
        assert not nemesis.is_alive()
