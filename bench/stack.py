"""The service under measurement: a `turnkeeper up` of its own with the scripted provider behind it.

The provider is the openai-compatible one on purpose: that is the path that products use.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.http import Connection
from bench.meter import Meter

START_SECONDS: Final = 90.0
END_SECONDS: Final = 60.0
CONFIGURATION: Final = (
    "MCP_",
    "ANTHROPIC_",
    "DATABASE_",
    "REDIS_",
    "SCRIPTED_",
    "TURNKEEPER_",
    "ENVIRONMENT",
    "WORKER_",
    "WEB_",
)
"""A measurement does not depend on what the shell happens to have set."""


@dataclass(frozen=True, slots=True)
class Processes:
    """How many of each kind."""

    web: int = 1
    relay: int = 1
    worker: int = 1


@dataclass(frozen=True, slots=True)
class Stack:
    """A running service, and where to measure it."""

    url: str
    key: str = field(repr=False)
    provider_url: str
    processes: Processes
    pids: Mapping[str, Sequence[int]]

    def connection(self) -> Connection:
        """Return a connection of a back end that acts for every user."""
        return Connection(self.url, self.key)

    def meter(self) -> Meter:
        """Return a meter of all its processes."""
        return Meter(self.pids)

    def provider(self, path: str) -> Any:
        """Return a page of the provider's own account."""
        with urllib.request.urlopen(self.provider_url + path, timeout=30) as answer:
            return json.load(answer)


@contextmanager
def running(processes: Processes, environ: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """Run a service in a temporary folder for as long as the context lasts.

    Raises:
        RuntimeError: It did not start, or did not end.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="turnkeeper-bench-")))
        folder.chmod(0o711)  # root's PostgreSQL runs as another user
        port_file, state_file = folder / "provider.port", folder / "state.json"
        provider = _start(["provider", "--port-file", str(port_file)], folder / "provider.log", {})
        stack.callback(_end, provider)
        provider_url = f"http://127.0.0.1:{_awaited(port_file, provider).strip()}"
        counts = [
            word
            for kind in ("web", "relay", "worker")
            for word in (f"--{kind}", str(getattr(processes, kind)))
        ]
        command = ["up", "--data", str(folder / "data"), "--state", str(state_file), "--port", "0", *counts]
        configured = {
            "MCP_LLM_PROVIDER": "openai-compatible",
            "MCP_LLM_BASE_URL": f"{provider_url}/v1",
            "MCP_LLM_MODEL": "scripted",
            "MCP_LLM_API_KEY": "none",
            "MCP_LLM_PRICE_INPUT_PER_M_USD": "3",
            "MCP_LLM_PRICE_OUTPUT_PER_M_USD": "15",
            **(environ or {}),
        }
        up = _start(command, folder / "up.log", configured)
        stack.callback(_end, up)
        state = json.loads(_awaited(state_file, up))
        pids = {**state["pids"], "provider": [provider.pid]}
        yield Stack(state["url"], state["service_key"], provider_url, processes, pids)


def _start(arguments: Sequence[str], log: Path, configured: Mapping[str, str]) -> subprocess.Popen[bytes]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(CONFIGURATION)}
    root = str(Path(__file__).parent.parent)
    with log.open("wb") as output:
        return subprocess.Popen(
            # Tied to this process, so that a run that is killed leaves nothing behind.
            [
                sys.executable,
                "-I",
                "-S",
                f"{root}/turnkeeper/leash.py",
                str(os.getpid()),
                str(int(signal.SIGTERM)),
                "-",
                sys.executable,
                "-m",
                "turnkeeper",
                *arguments,
            ],
            cwd=log.parent,
            env={**kept, "PYTHONPATH": root, **configured},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )


def _awaited(path: Path, process: subprocess.Popen[bytes]) -> str:
    give_up_at = time.monotonic() + START_SECONDS
    while not path.exists():
        if process.poll() is not None or time.monotonic() > give_up_at:
            logs = "\n".join(log.read_text(errors="replace")[-2000:] for log in path.parent.glob("*.log"))
            raise RuntimeError(f"the service did not start:\n{logs}")
        time.sleep(0.05)
    return path.read_text()


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(END_SECONDS)
        raise RuntimeError("the service did not end when it was told to") from None


async def make_sessions(stack: Stack, count: int, user: str = "bench") -> list[str]:
    """Make sessions, eight requests at a time; return their ids."""
    ids: list[str] = []
    waiting = iter(range(count))

    async def make() -> None:
        connection = stack.connection()
        for number in waiting:
            answer = await connection.expect(201, "POST", "/v1/sessions", {"user": f"{user}-{number}"})
            ids.append(answer.body["id"])
        connection.close()

    await asyncio.gather(*(make() for _ in range(8)))
    return ids
