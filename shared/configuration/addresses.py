"""Decides which hosts and addresses are on the public internet, by their spelling alone.

Python's `is_global` passes multicast, addresses that embed others and the internal addresses of clouds,
and it changes with the version. So the ranges that decide are listed here.
"""

import ipaddress
import re
from typing import Final

_METADATA: Final = frozenset(
    ipaddress.ip_address(address)
    for address in ("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254")
)
"""Where clouds give machines their secrets: AWS and most others, Alibaba, Azure, Oracle, AWS by IPv6."""

_REFUSED_V4: Final = tuple(
    (ipaddress.IPv4Network(network), reason)
    for network, reason in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by a carrier (CGNAT)"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "reserved"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
"""RFC 6890 and the registry that it started, as of 2026."""

_REFUSED_V6: Final = tuple(
    (ipaddress.IPv6Network(network), reason)
    for network, reason in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
        ("2001::/32", "Teredo"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("3fff::/20", "documentation"),
    )
)
_PUBLIC_V6: Final = ipaddress.IPv6Network("2000::/3")
"""All addresses assigned to the public internet (RFC 4291); the rest is reserved or embeds another address."""
_EMBEDDING: Final = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), "IPv4-mapped"),
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), "IPv4-translated"),
    (ipaddress.IPv6Network("64:ff9b::/96"), "NAT64"),
    (ipaddress.IPv6Network("::/96"), "IPv4-compatible"),
)
_PASSABLE: Final = frozenset({"IPv4-mapped", "NAT64"})
"""Forms in which a resolver returns a public address; the others lead nowhere or into a tunnel."""

_INTERNAL_NAMES: Final = (".localhost", ".internal", ".local", ".localdomain", ".home.arpa")
_NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?\.?")
_ENTRY: Final = re.compile(r"(\[(?P<v6>[0-9a-f:.]+)\]|(?P<host>[^\[\]:]+))(:(?P<port>[0-9]{1,5}))?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


def refusal_of_address(address: str) -> str | None:
    """Return in a word or two why `address` is not on the public internet; None if it is.

    Args:
        address: An IPv4 or IPv6 address, as `getaddrinfo` spells it.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "no address"
    if parsed in _METADATA:
        return "cloud metadata"
    if isinstance(parsed, ipaddress.IPv4Address):
        return next((reason for network, reason in _REFUSED_V4 if parsed in network), None)
    if parsed.scope_id is not None:
        return "link-local"
    for network, reason in _REFUSED_V6:
        if parsed in network:
            return reason
    for network, form in _EMBEDDING:
        if parsed in network:
            inner = refusal_of_address(str(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)))
            return f"{form}, {inner}" if inner else None if form in _PASSABLE else form
    return None if parsed in _PUBLIC_V6 else "reserved"


def refusal_of_host(host: str) -> str | None:
    """Return why the name or address of a URL is internal, by its spelling alone; None if it is not."""
    name = host.lower().rstrip(".")
    if _is_address(name):
        return refusal_of_address(name)
    return "internal" if name == "localhost" or name.endswith(_INTERNAL_NAMES) else None


def is_plain_host(host: str) -> bool:
    """Return whether `host` is a name in ASCII or an address in its usual form.

    `2130706433`, `0x7f.1`, `127.1` and `0177.0.0.1` are spellings of an address that only some parsers
    accept, which makes them useful to an attacker who wants to pass a check.
    """
    name = host.lower()
    if _is_address(name):
        return "%" not in name
    last = name.rstrip(".").rpartition(".")[2]
    return _NAME.fullmatch(name) is not None and ".." not in name and _NUMBER.fullmatch(last) is None


def is_plain_entry(entry: str) -> bool:
    """Return whether `is_listed` can match an entry: `host`, `host:port` or `[::1]:port`."""
    if _is_address(entry):
        return is_plain_host(entry)
    found = _ENTRY.fullmatch(entry)
    if found is None:
        return False
    host = found["v6"] or found["host"]
    return is_plain_host(host) and not host.endswith(".") and int(found["port"] or 1) in range(1, 65_536)


def is_listed(host: str, port: int, listed: frozenset[str]) -> bool:
    """Return whether `host`, or `host:port`, is in a list of names in lower case.

    Args:
        host: A name or an address, IPv6 without brackets.
        port: The port of the connection.
        listed: Hosts with or without a port; IPv6 with a port needs brackets.
    """
    name = host.lower().rstrip(".")
    bracketed = f"[{name}]" if ":" in name else name
    return not listed.isdisjoint({name, bracketed, f"{bracketed}:{port}"})


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
