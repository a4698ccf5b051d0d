"""The service under measurement: its own `turnkeeper up`, with the scripted provider behind it.

The provider is deliberately the OpenAI-compatible one: products use that path.
"""

import asyncio
import json
import resource
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.http import Connection
from bench.meter import Meter
from bench.processes import end, start, wait_until

MOST_DESCRIPTORS: Final = 65_536
"""A socket is a descriptor here, in the relay and for a moment in the front."""


@dataclass(frozen=True, slots=True)
class Processes:
    """The number of processes of each kind."""

    web: int = 1
    relay: int = 1
    worker: int = 1


@dataclass(frozen=True, slots=True)
class Provider:
    """A running scripted provider."""

    url: str
    pid: int


@dataclass(frozen=True, slots=True)
class Stack:
    """A running service, and where to measure it."""

    url: str
    key: str = field(repr=False)
    owner_url: str = field(repr=False)
    provider_url: str
    processes: Processes
    pids: Mapping[str, Sequence[int]]

    def connection(self) -> Connection:
        """Return a connection as a back end that acts for every user."""
        return Connection(self.url, self.key)

    def meter(self) -> Meter:
        """Return a meter of all its processes."""
        return Meter(self.pids)

    def provider(self, path: str) -> Any:
        """Return one of the provider's own pages."""
        with urllib.request.urlopen(self.provider_url + path, timeout=30) as answer:
            return json.load(answer)


def allow_descriptors(wanted: int = MOST_DESCRIPTORS) -> int:
    """Raise the limit on open files for this process and its children; return the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(soft, allowed)


@contextmanager
def running(processes: Processes, environ: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """Run a service in a temporary folder for as long as the context lasts.

    Raises:
        RuntimeError: It did not start, or did not end.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="turnkeeper-bench-")))
        folder.chmod(0o711)  # root's PostgreSQL runs as another user
        state_file = folder / "state.json"
        provider = stack.enter_context(provider_running(folder))
        counts = [
            word
            for kind in ("web", "relay", "worker")
            for word in (f"--{kind}", str(getattr(processes, kind)))
        ]
        command = ["up", "--data", str(folder / "data"), "--state", str(state_file), "--port", "0", *counts]
        configured = {
            "MCP_LLM_PROVIDER": "openai-compatible",
            "MCP_LLM_BASE_URL": f"{provider.url}/v1",
            "MCP_LLM_MODEL": "scripted",
            "MCP_LLM_API_KEY": "none",
            "MCP_LLM_PRICE_INPUT_PER_M_USD": "3",
            "MCP_LLM_PRICE_OUTPUT_PER_M_USD": "15",
            **(environ or {}),
        }
        up = start(_turnkeeper(command), folder / "up.log", configured)
        stack.callback(end, up)
        wait_until(state_file.exists, up, folder)
        state = json.loads(state_file.read_text())
        pids = {**state["pids"], "provider": [provider.pid]}
        yield Stack(
            state["url"], state["service_key"], state["database_owner_url"], provider.url, processes, pids
        )


@contextmanager
def provider_running(folder: Path) -> Iterator[Provider]:
    """Run the scripted provider for as long as the context lasts, with its log in `folder`.

    Raises:
        RuntimeError: It did not start, or did not end.
    """
    port_file = folder / "provider.port"
    command = _turnkeeper(["provider", "--port-file", str(port_file)])
    process = start(command, folder / "provider.log", {})
    try:
        wait_until(port_file.exists, process, folder)
        yield Provider(f"http://127.0.0.1:{port_file.read_text().strip()}", process.pid)
    finally:
        end(process)


def _turnkeeper(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "turnkeeper", *arguments]


async def make_sessions(
    stack: Stack, count: int, user: str = "bench", most_turns: int | None = None
) -> list[str]:
    """Create sessions, eight requests at a time; return their ids."""
    ids: list[str] = []
    waiting = iter(range(count))

    async def make() -> None:
        connection = stack.connection()
        for number in waiting:
            body: dict[str, Any] = {"user": f"{user}-{number}"}
            if most_turns is not None:
                body["max_turns"] = most_turns
            answer = await connection.expect(201, "POST", "/v1/sessions", body)
            ids.append(answer.body["id"])
        connection.close()

    await asyncio.gather(*(make() for _ in range(8)))
    return ids
