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
"""For a page's lines, several of which start a Python."""
TRIED_AGAIN = "curl: (22) The requested URL returned error: 503"
"""Said of each try where `.curlrc` has `fail` and `retry`; where the last fails the shell does, too."""
MADE_OF = ("Makefile", "requirements.lock", "pyproject.toml", "clients/python/pyproject.toml")
"""What `make run` looks at."""
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
    # Of the `make test` that runs this; the `make run` that is started here has its own.
    "MAKE",
    "MFLAGS",
    "ARGS",
)


def environment() -> dict[str, str]:
    """This process's environment without a configuration of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return {**kept, "PYTHONPATH": str(ROOT), "DRAIN_SECONDS": "3", "no_proxy": "127.0.0.1"}


@contextlib.contextmanager
def running_clone(line: str = "make run", **environ: str) -> Iterator[Path]:
    """A folder in which a line that starts the service was run, with nothing left of it afterwards."""
    with tempfile.TemporaryDirectory(prefix="turnkeeper-readme-") as name:
        folder = Path(name)
        programs = folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        # Not the interpreter itself: through a link it would not find its packages.
        for program, words in (("python", ""), ("turnkeeper", " -m turnkeeper")):
            (programs / program).write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
            (programs / program).chmod(0o755)
        for file in MADE_OF:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, folder / file)
        # As `make` leaves it once it has built the environment, which takes minutes.
        (folder / ".venv" / ".installed-run").touch()
        with running_in(folder, line, **environ):
            yield folder


@contextlib.contextmanager
def running_in(folder: Path, line: str, **environ: str) -> Iterator[None]:
    state = folder / ".turnkeeper" / "state.json"
    # The words behind the line are none of it: they say to `tests/children.py` which logs are to be searched.
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
    """Run lines in one shell as a reader would; return what they printed."""
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
