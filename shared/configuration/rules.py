"""The rules by which a variable's text becomes a value: each takes the text and reports one that it cannot use."""

import ipaddress
from decimal import Decimal, InvalidOperation
from typing import Final, TypeVar
from urllib.parse import SplitResult, urlsplit

from shared.configuration.addresses import is_plain_entry
from shared.configuration.environment import Given, Rule
from shared.configuration.secret import Secret
from shared.money.price_table import RATE, is_rate

T = TypeVar("T")
Word = TypeVar("Word", bound=str)

_MOST_DIGITS: Final = 12


def text(given: Given) -> str:
    """Take the text as it is."""
    return given.text


def one_of(*allowed: Word) -> Rule[Word]:
    """Take one of the words; the first stands in for any other text."""

    def rule(given: Given) -> Word:
        for word in allowed:
            if word == given.text:
                return word
        given.refuse(f"use one of {', '.join(allowed)}")
        return allowed[0]

    return rule


def switch(off: str, on: str) -> Rule[bool]:
    """Take one of two words."""
    word = one_of(off, on)
    return lambda given: word(given) == on


flag: Final = switch("false", "true")


def whole(least: int, most: int | None = None) -> Rule[int]:
    """Take a whole number within bounds."""

    def rule(given: Given) -> int:
        digits = given.text
        if not (digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS) or int(digits) < least:
            given.refuse(f"use a whole number of at least {least}")
            return least
        if most is not None and int(digits) > most:
            given.refuse(f"use a whole number of at most {most}")
        return int(digits)

    return rule


def capped(rule: Rule[int], most: int) -> Rule[int]:
    """Take what `rule` takes, and lower larger numbers to `most`."""
    return lambda given: min(rule(given), most)


def optional(rule: Rule[T]) -> Rule[T | None]:
    """Take what `rule` takes; an empty text is None."""
    return lambda given: rule(given) if given.text else None


def amount(given: Given) -> Decimal:
    """Take a plain decimal: digits with at most one point, and nothing before or after."""
    if given.text.isascii() and given.text.replace(".", "", 1).isdigit():
        try:
            return Decimal(given.text)
        except InvalidOperation:
            pass
    given.refuse("use a decimal number that is not negative, such as 0.15")
    return Decimal(1)


def seconds(given: Given) -> float:
    """Take a positive number of seconds."""
    taken = amount(given)
    if taken <= 0:
        given.refuse("use a number of seconds above 0")
        return 1.0
    return float(taken)


def seconds_or_zero(given: Given) -> float:
    """Take seconds, or 0."""
    return float(amount(given))


def rate(given: Given) -> Decimal:
    """Take a price in US dollars for a million tokens."""
    taken = amount(given)
    if not is_rate(taken):
        given.refuse(f"use {RATE}")
    return taken


def ip_address(given: Given) -> str:
    """Take an IP address."""
    try:
        return str(ipaddress.ip_address(given.text))
    except ValueError:
        given.problem(f"must be an IP address such as 127.0.0.1, not {given.text!r}")
        return given.text


def server_url(*schemes: str) -> Rule[str]:
    """Take the URL of a server with one of the schemes; it may hold a password and is not repeated."""

    def rule(given: Given) -> str:
        if given.text and _split(given.text).scheme not in schemes:
            given.problem(f"must begin with one of {', '.join(f'{scheme}://' for scheme in schemes)}")
        return given.text

    return rule


def hosts(given: Given) -> frozenset[str]:
    """Take a list of hosts, with or without a port."""
    listed = _listed(given)
    for entry in sorted(listed):
        if not is_plain_entry(entry):
            given.problem(f"holds {entry!r}: use hosts such as vllm.internal or vllm.internal:8000")
    return listed


def origins(given: Given) -> frozenset[str]:
    """Take a list of origins of web pages."""
    listed = _listed(given)
    for origin in sorted(listed):
        parts = _split(origin)
        if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path:
            given.problem(f"holds {origin!r}: use origins such as https://chat.example.com")
    return listed


def collector_url(given: Given) -> str:
    """Take the base URL of a collector of traces; empty if traces are off."""
    url = given.text.rstrip("/")
    if url:
        parts = _split(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            given.problem("must be the base URL of a collector: http://127.0.0.1:4318")
        given.needs("opentelemetry.exporter.otlp.proto.http", "otel")
    return url


def sentry_dsn(given: Given) -> Secret:
    """Take the address to which errors are reported; empty for none."""
    if given.text:
        parts = _split(given.text)
        project = parts.path.rpartition("/")[2]
        if parts.scheme not in {"http", "https"} or not (
            parts.hostname and parts.username and project.isdigit()
        ):
            given.problem("must be a DSN as Sentry shows it: https://KEY@HOST/PROJECT")
        given.needs("sentry_sdk", "sentry")
    return Secret(given.text)


def _listed(given: Given) -> frozenset[str]:
    """Return the entries of a list with commas, in lower case."""
    return frozenset(part.strip().lower() for part in given.text.split(",") if part.strip())


def _split(url: str) -> SplitResult:
    """Return the parts of a URL; all are empty if it cannot be split, such as `http://[::1`."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")
