"""The candidates: each is started on a provider of its own of the same kind, and has its own way to be asked."""

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from bench.meter import Meter
from bench.peers.environment import LANGGRAPH, PROXIES, Environment
from bench.peers.load import Ask, Seen, Streams, repeat, stream
from bench.peers.reader import Answer, Exchange
from bench.processes import end, start, wait_until
from bench.stack import Processes, Provider, Stack, make_sessions, provider_running, running

PROGRAMS: Final = Path(__file__).parent / "programs"
PROCESSES: Final = 2
"""Of each proxy: as many as the cores for which figures are quoted."""
PROBE_SECONDS: Final = 1.0
IMPORT_SECONDS: Final = 180.0
"""LiteLLM imports for ten seconds on a quiet machine, once in the parent and once in each child."""
MOST_TURNS: Final = 10_000
"""Of a session: more than are ever posted."""


class Candidate(Protocol):
    """A running candidate; its meter reads its processes as the groups `peer` and `provider`."""

    @property
    def meter(self) -> Meter:
        """Return the meter."""

    async def stream(self, load: Streams) -> Seen:
        """Run streams that begin within a second."""

    async def repeat(self, at_once: int, tokens: int, seconds: float) -> Seen:
        """Request short answers without a pause, `at_once` at a time, for `seconds`."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A candidate that is asked over HTTP.

    Attributes:
        prepare: Takes the number of concurrent streams and returns how to ask each of them.
        meter: As for any candidate.
    """

    prepare: Callable[[int], Awaitable[Ask]]
    meter: Meter

    async def stream(self, load: Streams) -> Seen:
        """Run streams that begin within a second."""
        return await stream(await self.prepare(load.count), load)

    async def repeat(self, at_once: int, tokens: int, seconds: float) -> Seen:
        """Request short answers without a pause."""
        return await repeat(await self.prepare(at_once), at_once, tokens, seconds)


Started: TypeAlias = Callable[[], AbstractContextManager[Candidate]]


@contextmanager
def provider_alone() -> Iterator[Asked]:
    """Ask the provider directly: the lower bound, set by the reader and the provider."""
    with _provider() as (provider, _):
        yield _completions(provider.url, Meter({"peer": [], "provider": [provider.pid]}))


@contextmanager
def turnkeeper() -> Iterator[Asked]:
    """Ask Turnkeeper: everything is queued, stored and billed; a session for each stream, its events as SSE."""
    with running(Processes()) as stack:
        parts = ("web", "relay", "worker", "redis", "postgres")
        pids = [pid for part in parts for pid in stack.pids[part]]
        meter = Meter({"peer": pids, "provider": stack.pids["provider"]})

        async def prepare(count: int) -> Ask:
            return _turns_of(stack, await make_sessions(stack, count, most_turns=MOST_TURNS))

        yield Asked(prepare, meter)


def fastapi_httpx() -> AbstractContextManager[Asked]:
    """Ask a proxy that forwards bytes with httpx."""
    return _served(_uvicorn("fastapi_httpx"), _completions)


def fastapi_openai() -> AbstractContextManager[Asked]:
    """Ask a proxy that parses and encodes each chunk with the openai client."""
    return _served(_uvicorn("fastapi_openai"), _completions)


def litellm() -> AbstractContextManager[Asked]:
    """Ask LiteLLM's proxy, without a database."""

    def command(port: int) -> Sequence[str]:
        program = str(PROXIES.python.with_name("litellm"))
        where = ("--host", "127.0.0.1", "--port", str(port), "--num_workers", str(PROCESSES))
        # uvicorn kills a child that is busy importing for five seconds, and LiteLLM takes longer on a busy machine.
        patience = ("--timeout_worker_healthcheck", "60")
        return (program, "--config", str(PROGRAMS / "litellm.yaml"), *where, *patience)

    return _served(command, _completions)


def langgraph() -> AbstractContextManager[Asked]:
    """Ask LangGraph's in-memory server: one process, a run for each answer, nothing stored."""

    def command(port: int) -> Sequence[str]:
        program = str(LANGGRAPH.python.with_name("langgraph"))
        where = ("--config", "langgraph.json", "--host", "127.0.0.1", "--port", str(port))
        return (program, "dev", *where, "--no-browser", "--no-reload", "--n-jobs-per-worker", "1000")

    return _served(command, _runs, LANGGRAPH)


def _uvicorn(program: str) -> Callable[[int], Sequence[str]]:
    def command(port: int) -> Sequence[str]:
        where = ("--app-dir", str(PROGRAMS), "--host", "127.0.0.1", "--port", str(port))
        how = ("--workers", str(PROCESSES), "--loop", "uvloop", "--no-access-log", "--log-level", "warning")
        patience = ("--timeout-worker-healthcheck", "60", "--backlog", "4096")
        return (str(PROXIES.python), "-m", "uvicorn", f"{program}:app", *where, *how, *patience)

    return command


@contextmanager
def _provider() -> Iterator[tuple[Provider, Path]]:
    with (
        tempfile.TemporaryDirectory(prefix="turnkeeper-bench-") as name,
        provider_running(Path(name)) as provider,
    ):
        yield provider, Path(name)


@contextmanager
def _served(
    command: Callable[[int], Sequence[str]],
    asked: Callable[[str, Meter, str], Asked],
    environment: Environment = PROXIES,
) -> Iterator[Asked]:
    """Run a program that serves on a given port."""
    with _provider() as (provider, folder):
        # LangGraph stores its files next to its configuration.
        for program in ("graph.py", "langgraph.json"):
            shutil.copy(PROGRAMS / program, folder)
        port, key = _free_port(), f"sk-{secrets.token_hex(32)}"
        environ = {
            "PROVIDER_URL": f"{provider.url}/v1",
            "PATH": f"{environment.python.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": "",
            "LITELLM_MASTER_KEY": key,  # it does not start without one
            # It must not fetch prices or report usage.
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_TELEMETRY": "False",
            "LITELLM_LOG": "ERROR",
            "LANGSMITH_TRACING": "false",
            "LANGGRAPH_CLI_NO_ANALYTICS": "1",
            "LOG_LEVEL": "error",
        }
        process = start(command(port), folder / "peer.log", environ)
        try:
            wait_until(lambda: _listens(port), process, folder, IMPORT_SECONDS)
            meter = Meter({"peer": [process.pid], "provider": [provider.pid]})
            yield asked(f"http://127.0.0.1:{port}", meter, key)
        finally:
            end(process)


def _completions(url: str, meter: Meter, key: str = "none") -> Asked:
    async def ask(_: int, content: str) -> Answer:
        body = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": content}]}
        return await Exchange().ask(f"{url}/v1/chat/completions", {"Authorization": f"Bearer {key}"}, body)

    async def prepare(_: int) -> Ask:
        return ask

    return Asked(prepare, meter)


def _runs(url: str, meter: Meter, _: str) -> Asked:
    async def ask(_: int, content: str) -> Answer:
        said = {"messages": [{"role": "user", "content": content}]}
        body = {"assistant_id": "agent", "input": said, "stream_mode": "messages-tuple"}
        return await Exchange().ask(f"{url}/runs/stream", {}, body)

    async def prepare(_: int) -> Ask:
        return ask

    return Asked(prepare, meter)


def _turns_of(stack: Stack, sessions: Sequence[str]) -> Ask:
    headers: Mapping[str, str] = {"Authorization": f"Bearer {stack.key}", "Accept": "text/event-stream"}

    async def ask(number: int, content: str) -> Answer:
        body: dict[str, Any] = {"content": content}
        return await Exchange().ask(f"{stack.url}/v1/sessions/{sessions[number]}/turns", headers, body)

    return ask


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), PROBE_SECONDS).close()
    except OSError:
        return False
    return True
