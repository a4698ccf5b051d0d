"""Which addresses a provider's host may be connected to: resolved here, checked, and used as checked.

If the connecting library resolved a checked name again, the second answer could be another (DNS rebinding).
So both transports connect to addresses only, and only to those resolved here.
"""

import asyncio
import logging
import os
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

import certifi

from shared.configuration.addresses import is_listed, refusal_of_address

_log = logging.getLogger("turnkeeper.egress")

_Connection = TypeVar("_Connection")

MOST_ADDRESSES: Final = 8
"""Addresses tried for one connection; with more of them, none would have enough time to answer."""


class Resolver(Protocol):
    """Turns a host into the addresses that may be connected to."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Return IP addresses, the preferred one first.

        Raises:
            OSError: The host is unknown, or may not be connected to.
        """


class SystemResolver:
    """Asks the operating system, in a thread."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Return what `getaddrinfo` says, each address once."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError as exc:  # raised by Python for a label that is too long
            raise OSError("the host's name cannot be resolved") from exc
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class GuardedResolver:
    """Lets through only addresses of the public internet, and hosts that the operator listed.

    Args:
        resolver: Asked for the addresses on every call.
        allowed_hosts: Hosts, with or without a port, whose addresses are not checked.
        refusal: Returns why an address may not be connected to, or None if it may.
    """

    def __init__(
        self,
        resolver: Resolver,
        allowed_hosts: frozenset[str],
        refusal: Callable[[str], str | None] = refusal_of_address,
    ) -> None:
        self._resolver = resolver
        self._allowed_hosts = allowed_hosts
        self._refusal = refusal

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of `host`; a single internal address among them refuses them all.

        Raises:
            OSError: The host is unknown.
            PermissionError: It leads to an internal address.
        """
        addresses = await self._resolver.resolve(host, port)
        if is_listed(host, port, self._allowed_hosts):
            return addresses
        for address in addresses:
            reason = self._refusal(address)
            if reason is not None:
                _log.warning(
                    "the provider's host leads to an internal address and is not in MCP_LLM_ALLOWED_HOSTS",
                    extra={"host": host, "port": port, "address": address, "reason": reason},
                )
                raise PermissionError("the provider's host leads to an internal address")
        return addresses


async def first_connection(
    resolver: Resolver,
    host: str,
    port: int,
    timeout_seconds: float | None,
    connect: Callable[[str], Awaitable[_Connection]],
) -> _Connection:
    """Connect to the first address that answers, giving each of them its share of the remaining time.

    Args:
        resolver: Returns the addresses.
        host: The host to resolve.
        port: Its port.
        timeout_seconds: For everything, including resolving; None for no limit.
        connect: Connects to one address.

    Raises:
        TimeoutError: It took too long.
        OSError: The host is unknown or not allowed, or none of its addresses answers.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_seconds) as limit:
        addresses = (await resolver.resolve(host, port))[:MOST_ADDRESSES]
        for left in range(len(addresses), 0, -1):
            deadline = limit.when()
            share = None if deadline is None else (deadline - loop.time()) / left
            try:
                async with asyncio.timeout(share):
                    return await connect(addresses[-left])
            except (OSError, TimeoutError):
                if left == 1:
                    raise
    raise OSError("the host has no address that may be connected to")


def trust() -> ssl.SSLContext:
    """Return the TLS context for providers: certifi's authorities, or the operator's own.

    `SSL_CERT_FILE` and `SSL_CERT_DIR` name the operator's. Python's and httpx's ready-made contexts write the
    keys of every connection to the file named by SSLKEYLOGFILE; this one does not. # I10
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if sys.version_info >= (3, 13):  # as `ssl.create_default_context` does there
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    context.load_verify_locations(
        cafile=file or (None if folder else certifi.where()), capath=None if file else folder
    )
    return context
