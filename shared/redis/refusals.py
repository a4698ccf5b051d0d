"""What Redis's refusals mean: which replies say "not a server for me", whoever gets them and for whatever command.

The words are the first of an error reply, as Redis and Valkey write them. Who gets one of these drops the connection,
resolves the name again, and tries again after a pause: the server that answers may be a replica since the last
failover, and another the primary.

A full server (OOM) is none of them: it refuses writes that need memory, and serves reads, live events and the removal
of what it holds as ever. Another connection would lead to the same server, and dropping one would cost readers what
still works. So it is only known that nothing new can be written, and the service does without it.
"""

import re
from enum import StrEnum
from typing import Final

from redis.exceptions import RedisError

_NOT_SERVING: Final = frozenset(
    {
        "READONLY",  # it is a replica, or became one
        "NOREPLICAS",  # it has fewer replicas than it was told to have, as a primary that was cut off
        "MISCONF",  # it could not save to its disk
        "MOVED",  # a cluster: the key is elsewhere
        "ASK",
        "CROSSSLOT",
        "TRYAGAIN",
        "CLUSTERDOWN",
        "MASTERDOWN",  # a replica that lost its primary
        "LOADING",  # it is starting
        "BUSY",  # a script runs for too long
        "UNKILLABLE",
        "NOPERM",  # our login may not, or no longer
        "NOAUTH",  # the password was changed
        "WRONGPASS",
        "DENIED",  # protected mode
        "UNBLOCKED",  # it became a replica while we waited
    }
)
_FULL: Final = "OOM"
_TOO_MANY: Final = "ERR max number of clients"
_IN_SCRIPT: Final = re.compile(r"^ERR Error running script.*?-([A-Z]+) ", re.DOTALL)
"""Redis before 7 quotes what a script's command was answered."""


class Refusal(StrEnum):
    """What a refusal says of the server."""

    NOT_SERVING = "not_serving"
    FULL = "full"


def refusal_in(reply: str) -> Refusal | None:
    """Return what an error reply says of the server, by its text on the wire; None if it is about the command."""
    word = _word_in(reply)
    if word in _NOT_SERVING or reply.startswith(_TOO_MANY):
        return Refusal.NOT_SERVING
    return Refusal.FULL if word == _FULL else None


def refusal_of(error: BaseException) -> Refusal | None:
    """Return what an error of redis-py says of the server; None if it is about the command, or no reply at all."""
    return refusal_in(_on_the_wire(error)) if isinstance(error, RedisError) else None


def word_of(error: BaseException) -> str:
    """Return an error's first word, or its class: the rest may repeat what was sent, and so is not logged."""
    if not isinstance(error, RedisError):
        return type(error).__name__
    word = _word_in(_on_the_wire(error))
    return word if word.isupper() else type(error).__name__


def _word_in(reply: str) -> str:
    in_script = _IN_SCRIPT.match(reply)
    return in_script[1] if in_script else reply.split(" ", 1)[0]


def _on_the_wire(error: RedisError) -> str:
    """Return a reply's text; redis-py takes the first word out of those that it knows."""
    return f"{error.status_code} {error}" if error.status_code else str(error)
