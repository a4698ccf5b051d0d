"""Which processes `turnkeeper up` runs, with their command lines, environments and grace periods."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from turnkeeper.up.embedded.child import HOST
from turnkeeper.up.front import Kind
from turnkeeper.up.supervisor import Program

STREAM_GRACE_SECONDS: Final = 5
"""For web and relay at the end: the worker has already drained, so only idle streams are left to close."""
PROVIDER_GRACE_SECONDS: Final = 3.0
SHUTDOWN_SLACK_SECONDS: Final = 12.0
"""In addition to the grace of gunicorn's requests: for closing streams, and for gunicorn itself."""
DRAIN_SLACK_SECONDS: Final = 5.0
"""In addition to the worker's drain: for handing back what did not end."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses of the servers."""

    database_url: str = field(repr=False)
    database_owner_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    provider_url: str


@dataclass(frozen=True, slots=True)
class Part:
    """One process of the service.

    Attributes:
        name: Its own name, such as `web-1`.
        kind: The name under which it is listed, such as `web`.
        command: The `turnkeeper` command and its arguments.
        grace_seconds: How long it may take to end.
        pid_file: Holds the pid of the process that serves, if that is a child of this one.
    """

    name: str
    kind: str
    command: Sequence[str]
    grace_seconds: float
    pid_file: Path | None = None

    def program(self, environ: Mapping[str, str], log: Path) -> Program:
        """Return the program for the supervisor to run."""
        command = (sys.executable, "-m", "turnkeeper", *self.command)
        return Program(self.name, self.kind, command, environ, log, self.pid_file, self.grace_seconds)


def names(kind: str, processes: int) -> list[str]:
    """Return the names of the processes of a kind."""
    return [f"{kind}-{number}" for number in range(1, processes + 1)]


def handoff_paths(kind: Kind, processes: int, sockets: Path) -> list[Path]:
    """Return the sockets on which the processes of a kind take connections over."""
    return [sockets / f"{name}.sock" for name in names(kind, processes)]


def scripted_provider(given: Mapping[str, str], addresses: Addresses) -> Iterator[Part]:
    """Yield the scripted provider, if it is needed and does not run elsewhere."""
    if addresses.provider_url and not given.get("SCRIPTED_BASE_URL", "").strip():
        port = addresses.provider_url.removesuffix("/v1").rpartition(":")[2]
        command = ("provider", "--host", HOST, "--port", port)
        yield Part("provider", "provider", command, PROVIDER_GRACE_SECONDS)


def servings(kind: Kind, processes: int, sockets: Path) -> Iterator[Part]:
    """Yield the web or the relay processes."""
    for name, path in zip(names(kind, processes), handoff_paths(kind, processes, sockets), strict=True):
        pid_file = sockets / f"{name}.pid"
        where = ("--handoff", str(path), "--pid-file", str(pid_file))
        command = (kind, *where, "--grace", str(STREAM_GRACE_SECONDS))
        yield Part(name, kind, command, STREAM_GRACE_SECONDS + SHUTDOWN_SLACK_SECONDS, pid_file)


def workers(processes: int, drain_seconds: float) -> Iterator[Part]:
    """Yield the workers."""
    for name in names("worker", processes):
        yield Part(name, "worker", ("worker",), drain_seconds + DRAIN_SLACK_SECONDS)


def child_environ(given: Mapping[str, str], addresses: Addresses) -> Mapping[str, str]:
    """Return the processes' environment: without the owner's URL, which only migrations need."""
    environ = {
        **given,
        "DATABASE_URL": addresses.database_url,
        "REDIS_URL": addresses.redis_url,
        "PYTHONUNBUFFERED": "1",
    }
    if addresses.provider_url:
        environ["SCRIPTED_BASE_URL"] = addresses.provider_url
    environ.pop("DATABASE_OWNER_URL", None)
    return environ
