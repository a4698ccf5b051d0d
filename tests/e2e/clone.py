"""A folder that looks like a clone after `make run`, and the shell lines of the documentation in it."""

import contextlib
import json
import os
import shutil
import signal
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
END_LIMIT_SECONDS = 120.0
LIMIT_SECONDS = 60.0
SHELL_LIMIT_SECONDS = 180.0
"""Time limit for a page's lines, several of which start Python."""
TRIED_AGAIN = "curl: (22) The requested URL returned error: 503"
"""curl's message for each try if `.curlrc` has `fail` and `retry`; if the last one fails, so does the shell."""
MADE_OF = ("Makefile", "requirements.lock", "pyproject.toml", "clients/python/pyproject.toml")
"""The files that `make run` reads."""
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
    # Variables of the `make test` that runs this; the `make run` that is started here has its own.
    "MAKE",
    "MFLAGS",
    "ARGS",
)


def environment() -> dict[str, str]:
    """This process's environment without any configuration of Turnkeeper."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return {**kept, "PYTHONPATH": str(ROOT), "DRAIN_SECONDS": "3", "no_proxy": "127.0.0.1"}


@contextlib.contextmanager
def running_clone(line: str = "make run", **environ: str) -> Iterator[Path]:
    """A folder in which a line that starts the service was run; nothing of the service is left afterwards."""
    with tempfile.TemporaryDirectory(prefix="turnkeeper-readme-") as name:
        folder = Path(name)
        programs = folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        # Scripts instead of links: through a link the interpreter would not find its packages.
        for program, words in (("python", ""), ("turnkeeper", " -m turnkeeper")):
            (programs / program).write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
            (programs / program).chmod(0o755)
        for file in MADE_OF:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, folder / file)
        # What `make` leaves after it has built the environment, which takes minutes.
        (folder / ".venv" / ".installed-run").touch()
        with running_in(folder, line, **environ):
            yield folder


@contextlib.contextmanager
def running_in(folder: Path, line: str, **environ: str) -> Iterator[None]:
    state = folder / ".turnkeeper" / "state.json"
    # The words after the line are not part of it: they tell `tests/children.py` which logs to search.
    command = ["bash", "-c", line, "--data", str(folder / ".turnkeeper")]
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
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        try:
            process.wait(END_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(LIMIT_SECONDS)
        left = psutil.wait_procs(family, timeout=LIMIT_SECONDS)[1]
    assert left == []
    assert not found, found


def run_shell(folder: Path, script: str, said: str = "", *, is_quiet: bool = True, **environ: str) -> str:
    """Run lines in one shell, as a reader of the page would; return their output."""
    finished = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=folder,
        env={**environment(), **environ},
        input=said,
        capture_output=True,
        text=True,
        timeout=SHELL_LIMIT_SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    complaints = [line for line in finished.stderr.splitlines() if line != TRIED_AGAIN]
    assert not complaints or not is_quiet, finished.stderr
    return finished.stdout
