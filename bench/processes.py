"""Starts and ends the measured programs: by their own pids, tied to this process, leaving nothing behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

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
"""A measurement must not depend on what the shell happens to have set."""
ROOT: Final = Path(__file__).parent.parent


def start(command: Sequence[str], log: Path, configured: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a program that ends together with this process, however this process ends."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(CONFIGURATION)}
    tie = [sys.executable, "-I", "-S", f"{ROOT}/turnkeeper/up/parent_death.py", str(os.getpid())]
    with log.open("wb") as output:
        return subprocess.Popen(
            [*tie, str(int(signal.SIGTERM)), "-", *command],
            cwd=log.parent,
            env={**kept, "PYTHONPATH": str(ROOT), **configured},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )


def wait_until(
    is_there: Callable[[], bool],
    process: subprocess.Popen[bytes],
    logs: Path,
    limit_seconds: float = START_SECONDS,
) -> None:
    """Wait until a started program is available.

    Raises:
        RuntimeError: It ended, or took too long; the message contains the ends of the logs in that folder.
    """
    give_up_at = time.monotonic() + limit_seconds
    while not is_there():
        if process.poll() is not None or time.monotonic() > give_up_at:
            ends = "\n".join(log.read_text(errors="replace")[-2000:] for log in logs.glob("*.log"))
            raise RuntimeError(f"what is measured did not start:\n{ends}")
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a program and its children.

    Raises:
        RuntimeError: It had to be killed.
    """
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        raise RuntimeError("what was measured did not end when it was told to") from None
    finally:
        # The group is the program's own: children that it left behind, or all of it.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(END_SECONDS)
