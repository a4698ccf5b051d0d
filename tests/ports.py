"""Ports for processes that must know theirs before they start, and ports on which nobody listens.

They lie below those that the system assigns to whoever connects or listens at port 0: a port from there that was free a
moment ago may already be somebody's client port. No port is returned twice.
"""

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

HERE = "127.0.0.1"
LEAST = 18_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_TRIES = 1000
_given: set[int] = set()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """Return the first of `count` consecutive ports that nobody uses."""
    dice = random.SystemRandom()
    for _ in range(_TRIES):
        first = dice.randrange(LEAST, _end() - count)
        ports = range(first, first + count)
        if _given.isdisjoint(ports) and _are_free(ports):
            _given.update(ports)
            return first
    raise AssertionError(f"there are no {count} free ports in a row")


@contextmanager
def closed_port() -> Iterator[int]:
    """A port on which nobody listens, for as long as the context lasts."""
    with closing(socket.socket()) as holder:
        holder.bind((HERE, 0))
        yield holder.getsockname()[1]


def _are_free(ports: range) -> bool:
    with ExitStack() as stack, suppress(OSError):
        for port in ports:
            probe = stack.enter_context(socket.socket())
            # As servers do: a port whose last connections are in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HERE, port))
        return True
    return False


def _end() -> int:
    """Return the first port that the system assigns; if those begin too early, there is nothing better."""
    with suppress(OSError, ValueError):
        first = int(_RANGE.read_text().split()[0])
        return first if first > LEAST + _TRIES else 60_000
    return 49_152  # the first that IANA leaves to systems
