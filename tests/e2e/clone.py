"""A folder that looks like a clone after `make run`, and the shell lines of the documentation in it."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import redis

from tests.marks import leaks_in_redis, secrets_of

ROOT = Path(__file__).parents[2]
START_LIMIT_SECONDS = 150.0
LIMIT_SECONDS = 60.0
NOT_RUN = re.compile(r"<!-- not run: [^>]+ -->\s*\Z")
_OURS = (
    "MCP_",
    "ANTHROPIC_",
    "DATABASE_",
    "REDIS_",
    "SCRIPTED_",
    "TURNKEEPER_",
    "ENVIRONMENT",
    "OTEL_",
    "SENTRY_",
)


def blocks_of(page: Path, language: str = "sh") -> list[tuple[str, bool]]:
    """A page's blocks of a language, in order, and whether they are to be run: a comment above says why not."""
    text, found = page.read_text(), []
    for block in re.finditer(rf"^( *)```{language}\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
        lines = block[2].splitlines()
        script = "\n".join(line.removeprefix(block[1]) for line in lines) + "\n"
        found.append((script, NOT_RUN.search(text[: block.start()]) is None))
    return found


def script_of(page: Path) -> str:
    return "\n".join(script for script, is_run in blocks_of(page) if is_run)


def environment() -> dict[str, str]:
    """This process's environment without a configuration of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return {**kept, "PYTHONPATH": str(ROOT), "DRAIN_SECONDS": "3", "no_proxy": "127.0.0.1"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextlib.contextmanager
def running_clone(*arguments: str, **environ: str) -> Iterator[Path]:
    """A folder in which the service runs, with nothing left of it afterwards."""
    with tempfile.TemporaryDirectory(prefix="turnkeeper-readme-") as name:
        folder = Path(name)
        programs = folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        # Not the interpreter itself: through a link it would not find its packages.
        for program, words in (("python", ""), ("turnkeeper", " -m turnkeeper")):
            (programs / program).write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
            (programs / program).chmod(0o755)
        with running_in(folder, *arguments, **environ):
            yield folder


@contextlib.contextmanager
def running_in(folder: Path, *arguments: str, **environ: str) -> Iterator[None]:
    state = folder / "state.json"
    command = [
        *(sys.executable, "-m", "turnkeeper", "up", *arguments),
        *("--data", str(folder / ".turnkeeper"), "--state", str(state), "--port", str(free_port())),
    ]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment(), **environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    family, found = [], []
    try:
        deadline = time.monotonic() + START_LIMIT_SECONDS
        while not state.exists():
            said = (folder / "output").read_text()
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        yield
        told = state.read_text()
        with contextlib.suppress(redis.RedisError):
            found = leaks_in_redis(
                json.loads(told)["redis_url"], secrets_of({**environment(), **environ}, told)
            )
        root = psutil.Process(process.pid)
        family = [root, *root.children(recursive=True)]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        try:
            process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(LIMIT_SECONDS)
        left = psutil.wait_procs(family, timeout=LIMIT_SECONDS)[1]
    assert left == []
    assert not found, found


def run_shell(folder: Path, script: str, said: str = "", *, is_quiet: bool = True, **environ: str) -> str:
    """Run lines in one shell as a reader would; return what they printed."""
    finished = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=folder,
        env={**environment(), **environ},
        input=said,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stderr == "" or not is_quiet, finished.stderr
    return finished.stdout
