"""The page of what is kept in Redis: names, from the functions that make them, and for each what its loss means."""

from dataclasses import dataclass
from typing import Final

from shared.redis.doorbell import KEY_PREFIX, QUEUE_KEY
from shared.redis.names import (
    ABORT_CHANNEL,
    LOG_BYTES_ENDED,
    LOG_BYTES_RUNNING,
    LOG_WORKERS,
    PROBE_KEY,
    abort_key,
    call_key,
    ended_logs_key,
    events_channel,
    joined_log_key,
    joined_logs_key,
    log_key,
    ticket_key,
    worker_logs_key,
)


@dataclass(frozen=True, slots=True)
class Name:
    """A key or channel, as documented.

    Args:
        pattern: Its name, with the variable parts in angle brackets.
        kind: Redis' type, or `channel`.
        holds: What it holds.
        lives: How long it lives.
        without: What happens if it is lost.
    """

    pattern: str
    kind: str
    holds: str
    lives: str
    without: str


_SESSION: Final = "<session id>"
_TURN: Final = "<turn id>"

NAMES: Final = (
    Name(
        log_key(_SESSION, _TURN),
        "stream",
        "a turn's events, ids `<attempt>-<seq>`: the only key with content, beside the next",
        "`LOG_TTL_SECONDS` behind the turn's end",
        "readers get a `snapshot` from PostgreSQL",
    ),
    Name(
        joined_log_key(_SESSION, _TURN),
        "string",
        "an ended turn's log, compressed, while logs take more than half of their share; content, too",
        "as long as the log would have",
        "readers get a `snapshot` from PostgreSQL",
    ),
    Name(
        events_channel(_SESSION),
        "channel",
        "the events of a session's turns, live",
        "",
        "relays read the log",
    ),
    Name(
        abort_key(_SESSION, _TURN),
        "string",
        "that a turn was asked to stop; its value is the reason",
        "15 minutes",
        "the worker learns it by renewing its lease",
    ),
    Name(ABORT_CHANNEL, "channel", "nudges to workers: ids of turns that were asked to stop", "", "as above"),
    Name(
        call_key(_SESSION, _TURN),
        "string",
        "that an attempt called the provider, and what that told of its prompt",
        "ten minutes",
        "the call of a worker that dies is billed by an estimate, or by its checkpoint",
    ),
    Name(
        ticket_key("<SHA-256 of the secret>"),
        "string",
        "whom a stream's ticket is for",
        "`TICKET_TTL_SECONDS`, and once",
        "the client asks for another",
    ),
    Name(
        PROBE_KEY,
        "string",
        "nothing: each process writes it once a second, to learn whether Redis takes writes",
        "ten seconds",
        "it is written again",
    ),
    Name(
        "tk:{<organization id>}:turns:hour",
        "list",
        "turns that an organization asked for in the last hour",
        "an hour",
        "the limit begins anew",
    ),
    Name(
        "tk:{<organization id>}:turns:minute:<hash of the user>",
        "list",
        "turns that a user asked for in the last minute",
        "a minute",
        "the limit begins anew",
    ),
    Name(
        LOG_BYTES_RUNNING,
        "hash",
        "the bytes of running turns' logs by organization, and `*`, their sum",
        "for ever",
        "workers report them again within a second",
    ),
    Name(
        worker_logs_key("<worker>"),
        "hash",
        "the part of that which one worker reported",
        "half a minute behind the worker's end",
        "as above",
    ),
    Name(LOG_WORKERS, "zset", "when each worker last reported", "for ever", "as above"),
    Name(
        LOG_BYTES_ENDED,
        "hash",
        "the bytes of ended turns' logs by organization, and `*`, their sum",
        "for ever",
        "the logs that are left expire by themselves",
    ),
    Name(
        ended_logs_key("<organization id>"),
        "zset",
        "an organization's ended logs with their sizes, oldest first",
        "`LOG_TTL_SECONDS` behind the last of them",
        "as above",
    ),
    Name(
        joined_logs_key("<organization id>"),
        "zset",
        "likewise, of joined logs",
        "as above",
        "as above",
    ),
    Name(QUEUE_KEY, "list", "doorbells that no worker has heard", "until heard", "a sweeper rings again"),
    *(
        Name(
            f"{KEY_PREFIX}_kombu.{what}.<queue>",
            "set",
            "Celery's own: that the queue exists",
            "for ever",
            "workers make it again",
        )
        for what in ("binding", "binding_permanent")
    ),
)
