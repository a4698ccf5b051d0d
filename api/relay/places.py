"""Limits what a process holds open: in all, and for each key, user, organization and address.

Shares are derived from the whole, so that nobody can take all of it, however small it is made.
"""

import ipaddress
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar
from uuid import UUID

from api.caller import Caller, reader_name

CountedT = TypeVar("CountedT")

_NETWORK_BITS: Final = 64
"""The smallest IPv6 network that one customer gets: its addresses cost the customer nothing."""


ORGANIZATION_SHARE: Final = 2
"""One organization may take this part of a process: half of it is left to the others."""
USER_SHARE: Final = 4
"""One user may take this part of what its organization may."""


def share_of(most: int, parts: int) -> int:
    """Return one of so many equal parts, at least 1."""
    return max(1, most // parts)


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How many streams there may be."""

    most_sockets: int = 20_000
    """Of one process: at about 15 KiB a socket this is 300 MiB, and close to the usual limit of open files."""
    most_sockets_per_key: int = 10_000
    """Of one key: a product's back end may serve all of its users with one."""
    most_sockets_per_organization: int = 10_000
    """Of one organization, with all its keys together: half of a process is left to the others."""
    most_sockets_per_user: int = 2_500
    """Of one user, with all its keys and the tickets for its sessions."""
    most_sockets_per_address: int = 0
    """From one address, as the connection shows it; 0 for no limit."""
    most_age_seconds: float = 3600.0
    """Of a stream. It is then told to reconnect, so that key, origin and ticket are checked again."""
    recheck_seconds: float = 60.0
    """A revoked key can read for at most this long."""
    heartbeat_seconds: float = 15.0
    """Two unanswered heartbeats end a connection; proxies close connections that are silent for a minute."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads a stream, and from where."""

    caller: Caller
    address: str = ""

    def user(self) -> tuple[UUID, str] | None:
        """Return the user for whom is read, within its organization; None for a key that reads for many."""
        caller = self.caller
        name = reader_name(caller.user) if caller.user is not None else caller.reads_for
        return None if name is None else (caller.organization_id, name)


class Places:
    """Counts what is open, from any thread; a count that returns to 0 is forgotten.

    So there are never more counts than places taken.
    """

    def __init__(self, limits: StreamLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._taken = 0
        self._per_key: Counter[Caller] = Counter()
        self._per_user: Counter[tuple[UUID, str]] = Counter()
        self._per_organization: Counter[UUID] = Counter()
        self._per_address: Counter[str] = Counter()

    def has_room(self, reader: Reader) -> bool:
        """Return whether one more place for this reader is within all limits."""
        limits, caller, user = self._limits, reader.caller, reader.user()
        return (
            self._taken < limits.most_sockets
            and self._per_key[caller] < limits.most_sockets_per_key
            and (user is None or self._per_user[user] < limits.most_sockets_per_user)
            and self._per_organization[caller.organization_id] < limits.most_sockets_per_organization
            and (
                not limits.most_sockets_per_address
                or not reader.address
                or self._per_address[reader.address] < limits.most_sockets_per_address
            )
        )

    def take_if_free(self, reader: Reader) -> bool:
        """Count a place if there is room for it; return whether there was."""
        with self._lock:
            if not self.has_room(reader):
                return False
            self._taken += 1
            self._per_key[reader.caller] += 1
            if (user := reader.user()) is not None:
                self._per_user[user] += 1
            self._per_organization[reader.caller.organization_id] += 1
            self._per_address[reader.address] += 1
            return True

    def give_back(self, reader: Reader) -> None:
        """Stop counting a place that was taken."""
        with self._lock:
            self._taken -= 1
            _one_less(self._per_key, reader.caller)
            if (user := reader.user()) is not None:
                _one_less(self._per_user, user)
            _one_less(self._per_organization, reader.caller.organization_id)
            _one_less(self._per_address, reader.address)

    def callers(self) -> Sequence[Caller]:
        """Return the callers that have places."""
        with self._lock:
            return list(self._per_key)


def address_of(peer: str | None) -> str:
    """Return what is counted for a connection's peer: the address, or the network of an IPv6 one; empty for none."""
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), _NETWORK_BITS), strict=False))


def _one_less(counts: Counter[CountedT], counted: CountedT) -> None:
    counts[counted] -= 1
    if not counts[counted]:
        del counts[counted]
