"""Limits the open streams of a process: in all, for each key, each organization and each address."""

import ipaddress
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar
from uuid import UUID

from api.caller import Caller

CountedT = TypeVar("CountedT")

_NETWORK_BITS: Final = 64
"""The smallest IPv6 network that one customer gets: its addresses cost the customer nothing."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How many streams there may be."""

    most_sockets: int = 20_000
    """Of one process: at about 15 KiB a socket this is 300 MiB, and close to the usual limit of open files."""
    most_sockets_per_key: int = 10_000
    """Of one key: a product's back end may serve all of its users with one."""
    most_sockets_per_organization: int = 10_000
    """Of one organization, with all its keys together: half of a process is left to the others."""
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


class Places:
    """Counts streams; a count that returns to 0 is forgotten, so there are never more counts than streams."""

    def __init__(self, limits: StreamLimits) -> None:
        self._limits = limits
        self._per_key: Counter[Caller] = Counter()
        self._per_organization: Counter[UUID] = Counter()
        self._per_address: Counter[str] = Counter()

    def has_room(self, reader: Reader) -> bool:
        """Return whether one more stream of this reader is within the limits of key, organization and address."""
        limits, caller = self._limits, reader.caller
        return (
            self._per_key[caller] < limits.most_sockets_per_key
            and self._per_organization[caller.organization_id] < limits.most_sockets_per_organization
            and (
                not limits.most_sockets_per_address
                or not reader.address
                or self._per_address[reader.address] < limits.most_sockets_per_address
            )
        )

    def take(self, reader: Reader) -> None:
        """Count a stream."""
        self._per_key[reader.caller] += 1
        self._per_organization[reader.caller.organization_id] += 1
        self._per_address[reader.address] += 1

    def give_back(self, reader: Reader) -> None:
        """Stop counting a stream."""
        _one_less(self._per_key, reader.caller)
        _one_less(self._per_organization, reader.caller.organization_id)
        _one_less(self._per_address, reader.address)

    def callers(self) -> Sequence[Caller]:
        """Return the callers that have streams."""
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
